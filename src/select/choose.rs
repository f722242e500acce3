//! Active sets from scores.

use super::rank::{Point, keys_into, points};
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
    set.clear(scores.len() / neurons, neurons);
    let mut cuts = [[Point::NOWHERE; 3]; COLUMNS];
    let mut keys = Vec::with_capacity(neurons);
    for (to, scores) in cuts.iter_mut().zip(scores.chunks_exact(neurons)) {
        keys_into(scores, &mut keys);
        *to = points(&keys, cut);
    }
    for (chunk, bands) in set.chunks.iter_mut().enumerate() {
        let places = chunk * CHUNK..neurons.min((chunk + 1) * CHUNK);
        let mut used = [[0; CHUNK]; 3];
        for (n, scores) in scores.chunks_exact(neurons).enumerate() {
            // Made again: those of all tokens together would not stay in the caches.
            keys_into(&scores[places.clone()], &mut keys);
            mark(&keys, places.start, cuts[n], 1 << n, &mut used);
        }
        let bands = bands.iter_mut().zip(&used).filter(|(band, _)| cut.uses(band.level));
        bands.for_each(|(band, used)| band.fill(used));
    }
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
