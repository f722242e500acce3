//! Active sets from scores.

use super::rank::{Point, key, points};
use super::set::{ActiveSet, COLUMNS};
use crate::config::Cut;
use crate::types::CHUNK;

/// Makes `set` the active set of the tokens whose scores are `[N][neurons]`, N <= 32: per token the neurons that its
/// ranking has before the points of `cut`, each at the finest level whose point it reaches. No token's set rests on
/// another's scores.
///
/// # Panics
/// If scores are not whole rows, of at most [`COLUMNS`] tokens.
pub fn choose(scores: &[f32], neurons: usize, cut: &Cut, set: &mut ActiveSet) {
    assert!(scores.len().is_multiple_of(neurons), "scores that are no rows of {neurons}");
    let columns = scores.len() / neurons;
    set.clear(columns, neurons);
    let mut cuts = [[Point::NOWHERE; 3]; COLUMNS];
    for (to, scores) in cuts.iter_mut().zip(scores.chunks_exact(neurons)) {
        *to = points(scores, cut);
    }
    for (chunk, bands) in set.chunks.iter_mut().enumerate() {
        let first = chunk * CHUNK;
        let mut used = [[0; CHUNK]; 3];
        for (n, scores) in scores.chunks_exact(neurons).enumerate() {
            mark(&mut used, &scores[first..neurons.min(first + CHUNK)], first, &cuts[n], 1 << n);
        }
        bands.iter_mut().zip(&used).for_each(|(band, used)| band.fill(used));
    }
}

/// Sets `bit` of neurons from `first` on at their level. Without branches: half of them would be foretold wrongly.
fn mark(used: &mut [[u32; CHUNK]; 3], scores: &[f32], first: usize, points: &[Point; 3], bit: u32) {
    let [fine, middle, coarse] = used;
    let bits = fine.iter_mut().zip(middle).zip(coarse);
    for (i, (((fine, middle), coarse), score)) in bits.zip(scores).enumerate() {
        let (key, id) = (key(*score), (first + i) as i32);
        let [at16, at8, at4] = points.map(|point| point.reached(key, id));
        *fine |= bit * u32::from(at16);
        *middle |= bit * u32::from(at8 & !at16);
        *coarse |= bit * u32::from(at4 & !at8 & !at16);
    }
}
