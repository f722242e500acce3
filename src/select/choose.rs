//! Active sets from scores.

use super::rank::{Part, Point, keys_into, points};
use super::set::{ActiveSet, Band};
use super::shared::{Team, shared};
use crate::config::Cut;
use crate::kernels::Cpu;
use crate::types::CHUNK;

/// Makes `set` the active set of the tokens whose scores are `[N][neurons]`, N <= 32: per token the neurons that its
/// ranking has before the points of `cut`, each at the finest level whose point it reaches. No token's set rests on
/// another's scores, nor any on who computes it.
///
/// # Panics
/// If scores are not whole rows, of at most [`crate::types::DECODE_BATCH`] tokens.
pub fn choose(team: Team, scores: &[f32], neurons: usize, cut: &Cut, set: &mut ActiveSet) {
    assert!(scores.len().is_multiple_of(neurons), "scores that are no rows of {neurons}");
    set.clear(scores.len() / neurons, neurons);
    let cuts = cuts(team, scores, neurons, cut);
    let each = share(set.chunks.len(), team);
    let parts = set.chunks.chunks_mut(each).enumerate().map(|(part, chunks)| (part * each, chunks)).collect();
    shared(team, parts, |(first, chunks): (usize, &mut [[Band; 3]])| {
        let mut keys = Vec::with_capacity(CHUNK);
        for (chunk, bands) in (first..).zip(chunks) {
            put(scores, neurons, cut, &cuts, chunk, bands, &mut keys);
        }
    });
}

/// Where the rankings of all tokens are cut: token by token, but the parts of a single one.
fn cuts(team: Team, scores: &[f32], neurons: usize, cut: &Cut) -> Vec<[Point; 3]> {
    let rows: Vec<&[f32]> = scores.chunks_exact(neurons).collect();
    if let [row] = rows[..] {
        let each = share(row.len(), team);
        let parts = row.chunks(each).enumerate().map(|(part, scores)| (part * each, scores)).collect();
        return vec![points(team, &shared(team, parts, |(first, scores)| Part::new(scores, first)), cut)];
    }
    shared(team, rows, |row| points(None, &[Part::new(row, 0)], cut))
}

/// How many of `all` each thread takes.
fn share(all: usize, team: Team) -> usize {
    all.div_ceil(team.map_or(1, Cpu::threads)).max(1)
}

/// The bands of a chunk.
fn put(
    scores: &[f32],
    neurons: usize,
    cut: &Cut,
    cuts: &[[Point; 3]],
    chunk: usize,
    bands: &mut [Band; 3],
    keys: &mut Vec<i32>,
) {
    let places = chunk * CHUNK..neurons.min((chunk + 1) * CHUNK);
    let mut used = [[0; CHUNK]; 3];
    for (n, scores) in scores.chunks_exact(neurons).enumerate() {
        // Made again: those of all tokens together would not stay in the caches.
        keys_into(&scores[places.clone()], keys);
        mark(keys, places.start, cuts[n], 1 << n, &mut used);
    }
    let bands = bands.iter_mut().zip(&used).filter(|(band, _)| cut.uses(band.level));
    bands.for_each(|(band, used)| band.fill(used));
}

/// Sets `bit` of a token's neurons from `first` on at their level.
fn mark(keys: &[i32], first: usize, points: [Point; 3], bit: u32, used: &mut [[u32; CHUNK]; 3]) {
    for (point, used) in points.iter().zip(used.iter_mut()).filter(|(point, _)| **point != Point::NOWHERE) {
        point.mark(keys, first, bit, used);
    }
    let [fine, middle, coarse] = used;
    for ((fine, middle), coarse) in fine.iter().zip(middle).zip(coarse) {
        *middle &= !(fine & bit);
        *coarse &= !((fine | *middle) & bit);
    }
}
