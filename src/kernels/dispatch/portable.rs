//! Where no other instruction set has bodies: the portable ones.

use super::columns::{F32Columns, Int8Columns, Strip};
use super::factors::Factors;
use super::lanes::LANES;
use super::queries::{Tile, Total};
use super::widen::widened;
use super::work::{Dots, Extent, F32Factors, Job, Sums};
use super::{Isa, portable};
use crate::config::{Activation, Form};
use crate::types::KvRows;

/// Dots in int8 of matrices that share records.
pub fn dots_int8(_: Isa, jobs: &mut [Job<Int8Columns>]) {
    match jobs.iter().all(|(work, _)| work.groups.pass()) {
        true => jobs.iter_mut().for_each(|(work, out)| portable::dots_int8(work, out)),
        false => portable::dots_groups(jobs),
    }
}

/// Whether dots in int8 take so many columns by sixteens.
pub fn by_sixteen(_: Isa, _columns: usize) -> bool {
    false
}

/// Dots in f32; `out` is `[micropanels][N][16]`.
pub fn dots_f32(_: Isa, work: &Dots<F32Columns>, out: &mut [[f32; LANES]]) {
    portable::dots_f32(work, out);
}

/// Sums in f32; `out` is `[blocks][N][64]`.
pub fn sums_f32(_: Isa, work: &Sums<F32Factors>, out: &mut [f32]) {
    portable::sums_f32(work, out);
}

/// Sums in exact integers; `out` is `[blocks][N][64]`.
pub fn sums_exact(_: Isa, work: &Sums<Factors>, out: &mut [f32]) {
    portable::sums_exact(work, out);
}

/// Bytes that a thread takes for all these products.
pub fn kept(_: Isa, Extent { blocks, integer, float }: Extent) -> usize {
    let (of_integers, of_floats) = (portable::kept_int8(integer), portable::kept_f32(blocks));
    of_integers * usize::from(integer > 0) + of_floats * usize::from(float > 0)
}

/// Scores of a span's K rows.
pub fn score(_: Isa, tile: &mut Tile, k: KvRows, _then: KvRows, scratch: &mut Vec<f32>) {
    portable::score(tile, widened(k, tile.head_dim(), tile.width, scratch));
}

/// Scores to weights.
pub fn soften(_: Isa, tile: &mut Tile) {
    portable::soften(tile, portable::largest);
}

/// Weighted sums of a span's V rows.
pub fn mix(_: Isa, tile: &mut Tile, v: KvRows, _then: KvRows, scratch: &mut Vec<f32>) {
    portable::mix(tile, widened(v, tile.head_dim(), tile.width, scratch));
}

/// Adds a tile's stretch to what its rows gathered before.
pub fn join(_: Isa, total: &mut Total, tile: &Tile) {
    portable::join(total, tile);
}

/// A row of activations as int8.
pub fn quantise(_: Isa, row: &[f32], strips: &mut [Strip]) {
    portable::quantise(row, strips);
}

/// An activation function.
pub fn activate(_: Isa, activation: Activation, x: &mut [f32]) {
    portable::activate(activation, x);
}

/// The wrapping sum of words.
pub fn read(_: Isa, words: &[u64]) -> u64 {
    portable::read(words)
}

/// Rounds of multiply-adds; each is [`portable::CHAINS`] of sixteen, whatever the registers take.
pub fn multiply_add(_: Isa, rounds: usize) -> [f32; LANES] {
    portable::multiply_add::<6>(rounds)
}

/// What the scales of a record and norms by group make of each other.
pub fn spread(_: Isa, form: Form, scales: &[u8], norms: &[[f32; LANES]]) -> [f32; 2] {
    portable::spread(form, scales, norms)
}
