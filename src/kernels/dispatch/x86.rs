//! Which body computes a task, by instruction set and operands, on x86-64.

use super::columns::{F32Columns, Int8Columns, Strip};
use super::factors::Factors;
use super::isa::{Isa, Set};
use super::lanes::LANES;
use super::portable;
use super::queries::{Tile, Total};
use super::widen::widened;
use super::work::{Dots, Extent, F32Factors, Job, Sums};
use super::x86::{
    self, amx, dots_f32_one, dots_int8_amx, dots_int8_many, dots_int8_many_avx2, dots_int8_one, dots_int8_one_avx2,
    heads, heads_avx2, sums_exact_amx, sums_exact_avx2, sums_exact_many, sums_exact_one, sums_f32_one,
};
use crate::config::{Activation, Form};
use crate::quant::Rows;
use crate::types::{BLOCK, KvRows};

/// A portable body as it was compiled for `isa`.
macro_rules! compiled {
    ($isa:expr, $portable:path, $body:ident($($argument:expr),*)) => {
        match $isa.set() {
            Set::Portable => $portable($($argument),*),
            // SAFETY: an `Isa` of this set exists only where detection found its features.
            Set::Avx2 => unsafe { x86::avx2::$body($($argument),*) },
            // SAFETY: as above; the wider sets have these features too.
            Set::Avx512 | Set::Avx512Vnni | Set::Amx => unsafe { x86::avx512::$body($($argument),*) },
        }
    };
}

/// Whether the hand-written integer bodies, and those of one column in f32, are for these records: a group a block.
fn by_block(rows: &Rows) -> bool {
    rows.coding.group == BLOCK
}

/// Dots in int8 of matrices that share records.
pub fn dots_int8(isa: Isa, jobs: &mut [Job<Int8Columns>]) {
    let one = jobs.iter().all(|(work, _)| work.x.columns == 1 && by_block(work.rows));
    match isa.set() {
        // SAFETY: an `Isa` of this set exists only where detection found its features, AVX2 wherever AVX-512.
        Set::Avx2 | Set::Avx512 if one => unsafe { dots_int8_one_avx2::dots(jobs) },
        // SAFETY: as above.
        Set::Avx512Vnni | Set::Amx if one => unsafe { dots_int8_one::dots(jobs) },
        Set::Portable if jobs.iter().any(|(work, _)| !work.groups.pass()) => portable::dots_groups(jobs),
        _ => jobs.iter_mut().for_each(|(work, out)| dots_int8_many(isa, work, out)),
    }
}

/// Dots in int8; `out` is `[micropanels][N][16]`.
fn dots_int8_many(isa: Isa, work: &Dots<Int8Columns>, out: &mut [[f32; LANES]]) {
    match isa.set() {
        // SAFETY: an `Isa` of this set exists only where detection found its features, AVX2 wherever AVX-512.
        Set::Avx2 | Set::Avx512 if by_block(work.rows) => unsafe { dots_int8_many_avx2::dots(work, out) },
        // SAFETY: as above; bodies of this thread that configure tiles call no other.
        Set::Amx if by_block(work.rows) && by_sixteen(isa, work.x.columns) => unsafe { dots_int8_amx::dots(work, out) },
        // SAFETY: as above.
        Set::Avx512Vnni | Set::Amx if by_block(work.rows) => unsafe { dots_int8_many::dots(work, out) },
        _ => compiled!(isa, portable::dots_int8, dots_int8(work, out)),
    }
}

/// Whether dots in int8 take so many columns by sixteens.
pub fn by_sixteen(isa: Isa, columns: usize) -> bool {
    isa.set() == Set::Amx && columns >= amx::FEWEST
}

/// Dots in f32; `out` is `[micropanels][N][16]`.
pub fn dots_f32(isa: Isa, work: &Dots<F32Columns>, out: &mut [[f32; LANES]]) {
    match isa.set() {
        Set::Portable => portable::dots_f32(work, out),
        // SAFETY: an `Isa` of this set exists only where detection found its features.
        Set::Avx2 => unsafe { x86::f32::dots_avx2(work, out) },
        // SAFETY: as above; the wider sets have these features too.
        Set::Avx512 | Set::Avx512Vnni | Set::Amx if by_block(work.rows) && work.x.columns == 1 => unsafe {
            dots_f32_one::dots(work, out)
        },
        // SAFETY: as above.
        Set::Avx512 | Set::Avx512Vnni | Set::Amx => unsafe { x86::f32::dots_avx512(work, out) },
    }
}

/// Sums in f32; `out` is `[blocks][N][64]`.
pub fn sums_f32(isa: Isa, work: &Sums<F32Factors>, out: &mut [f32]) {
    match isa.set() {
        Set::Portable => portable::sums_f32(work, out),
        // SAFETY: an `Isa` of this set exists only where detection found its features.
        Set::Avx2 => unsafe { x86::f32::sums_avx2(work, out) },
        // SAFETY: as above; the wider sets have these features too.
        Set::Avx512 | Set::Avx512Vnni | Set::Amx if by_block(work.rows) && work.factors.columns == 1 => unsafe {
            sums_f32_one::sums(work, out)
        },
        // SAFETY: as above.
        Set::Avx512 | Set::Avx512Vnni | Set::Amx => unsafe { x86::f32::sums_avx512(work, out) },
    }
}

/// Sums in exact integers; `out` is `[blocks][N][64]`.
pub fn sums_exact(isa: Isa, work: &Sums<Factors>, out: &mut [f32]) {
    match isa.set() {
        // SAFETY: an `Isa` of this set exists only where detection found its features, AVX2 wherever AVX-512.
        Set::Avx2 | Set::Avx512 if by_block(work.rows) => unsafe { sums_exact_avx2::sums(work, out) },
        // SAFETY: as above.
        Set::Avx512Vnni | Set::Amx if by_block(work.rows) && work.factors.columns == 1 => unsafe {
            sums_exact_one::sums(work, out)
        },
        // SAFETY: as above; bodies of this thread that configure tiles call no other.
        Set::Amx if by_block(work.rows) && work.factors.columns >= amx::FEWEST => unsafe {
            sums_exact_amx::sums(work, out)
        },
        // SAFETY: as above.
        Set::Avx512Vnni | Set::Amx if by_block(work.rows) => unsafe { sums_exact_many::sums(work, out) },
        _ => compiled!(isa, portable::sums_exact, sums_exact(work, out)),
    }
}

/// Bytes that a thread keeps behind all these products. Bodies for other groups than a block keep less.
pub fn kept(isa: Isa, Extent { blocks, integer, float }: Extent) -> usize {
    let of_integers = match isa.set() {
        Set::Portable => portable::kept_int8(integer),
        Set::Avx2 | Set::Avx512 => dots_int8_many_avx2::kept(blocks) + sums_exact_avx2::kept(integer),
        Set::Avx512Vnni => kept_vnni(blocks, integer),
        Set::Amx => kept_vnni(blocks, integer) + dots_int8_amx::KEPT + sums_exact_amx::kept(integer),
    };
    let of_floats = match isa.set() {
        Set::Portable => portable::kept_f32(blocks),
        Set::Avx2 | Set::Avx512 | Set::Avx512Vnni | Set::Amx => x86::f32::kept(float),
    };
    of_integers * usize::from(integer > 0) + of_floats * usize::from(float > 0)
}

fn kept_vnni(blocks: usize, integer: usize) -> usize {
    dots_int8_many::kept(blocks) + sums_exact_one::KEPT + sums_exact_many::kept(integer)
}

/// Scores of a span's K rows. Memory is asked for `then`, here and in [`mix`], which is wanted after them.
pub fn score(isa: Isa, tile: &mut Tile, k: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    match isa.set() {
        Set::Portable => portable::score(tile, widened(k, tile.head_dim(), tile.width, scratch)),
        // SAFETY: an `Isa` of this set exists only where detection found its features.
        Set::Avx2 => unsafe { heads_avx2::score(tile, k, then, scratch) },
        // SAFETY: as above; the wider sets have these features too.
        Set::Avx512 | Set::Avx512Vnni | Set::Amx => unsafe { heads::score(tile, k, then, scratch) },
    }
}

/// Scores to weights.
pub fn soften(isa: Isa, tile: &mut Tile) {
    match isa.set() {
        Set::Portable => portable::soften(tile, portable::largest),
        // SAFETY: an `Isa` of this set exists only where detection found its features.
        Set::Avx2 => unsafe { heads_avx2::soften(tile) },
        // SAFETY: as above; the wider sets have these features too.
        Set::Avx512 | Set::Avx512Vnni | Set::Amx => unsafe { heads::soften(tile) },
    }
}

/// Weighted sums of a span's V rows.
pub fn mix(isa: Isa, tile: &mut Tile, v: KvRows, then: KvRows, scratch: &mut Vec<f32>) {
    match isa.set() {
        Set::Portable => portable::mix(tile, widened(v, tile.head_dim(), tile.width, scratch)),
        // SAFETY: an `Isa` of this set exists only where detection found its features.
        Set::Avx2 => unsafe { heads_avx2::mix(tile, v, then, scratch) },
        // SAFETY: as above; the wider sets have these features too.
        Set::Avx512 | Set::Avx512Vnni | Set::Amx => unsafe { heads::mix(tile, v, then, scratch) },
    }
}

/// Adds a tile's stretch to what its rows gathered before.
pub fn join(isa: Isa, total: &mut Total, tile: &Tile) {
    compiled!(isa, portable::join, join(total, tile))
}

/// A row of activations as int8.
pub fn quantise(isa: Isa, row: &[f32], strips: &mut [Strip]) {
    compiled!(isa, portable::quantise, quantise(row, strips))
}

/// An activation function.
pub fn activate(isa: Isa, activation: Activation, x: &mut [f32]) {
    compiled!(isa, portable::activate, activate(activation, x))
}

/// The wrapping sum of words.
pub fn read(isa: Isa, words: &[u64]) -> u64 {
    compiled!(isa, portable::read, read(words))
}

/// Rounds of multiply-adds; each is [`portable::CHAINS`] of sixteen, whatever the registers take.
pub fn multiply_add(isa: Isa, rounds: usize) -> [f32; LANES] {
    compiled!(isa, portable::multiply_add::<6>, multiply_add(rounds))
}

/// What the scales of a record and norms by group make of each other.
pub fn spread(isa: Isa, form: Form, scales: &[u8], norms: &[[f32; LANES]]) -> [f32; 2] {
    compiled!(isa, portable::spread, spread(form, scales, norms))
}
