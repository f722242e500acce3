//! Accumulations in exact integers with AVX-512 VNNI: words of codes times factors of 16 bits, two records a lane.
//! Sixteen groups at a time: the cells of all records first, then their codes.

use super::ahead::Coming;
use super::load::{floats, store_bytes, store_words};
use super::pack::{PlaneBytes, by_weight, in_order, of_blocks};
use super::product::{Packed, add_words, product};
use super::strip::{self, OfStrip};
use crate::kernels::columns::STRIP;
use crate::kernels::factors::Factors;
use crate::kernels::work::Sums;
use crate::quant::Rows;
use crate::types::{BLOCK, CHUNK, Level, Plane};
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Pairs of records in a chunk.
const PAIRS: usize = CHUNK / 2;

/// Columns of a pass: their 24 sums and four registers of codes fit the register file.
const COLUMNS: usize = 6;

/// What a thread keeps between tasks. Lines of the cache, since a register that straddles two costs twice.
#[repr(C, align(64))]
struct Scratch {
    of_strip: OfStrip,
    /// Codes of two blocks.
    packed: [[Packed<4>; PAIRS]; 2],
    /// Factors of some columns for one group.
    columns: [[[i16; 2]; PAIRS]; COLUMNS],
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Box::new(Scratch {
        of_strip: OfStrip::EMPTY,
        packed: [[[[0; 64]; 4]; PAIRS]; 2],
        columns: [[[0; 2]; PAIRS]; COLUMNS],
    }));
}

/// Bytes that a thread keeps behind so many columns.
pub fn kept(columns: usize) -> usize {
    size_of::<Scratch>() + strip::kept(columns)
}

/// Sums of records of one group a block; `out` is `[blocks][N][64]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn sums(work: &Sums<Factors>, out: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        for (part, sums) in out.as_chunks_mut::<BLOCK>().0.chunks_mut(STRIP * work.factors.columns).enumerate() {
            let first = work.first + part * STRIP;
            match work.rows.level {
                Level::L4 => strip::<false>(work, first, sums, scratch),
                _ => strip::<true>(work, first, sums, scratch),
            }
        }
    });
}

/// The codes of record `r`, or of the last.
#[inline(always)]
pub fn record_codes<'a, const MID: bool>(rows: &Rows<'a>, r: usize) -> PlaneBytes<'a> {
    let r = r.min(rows.records - 1);
    [rows.codes(Plane::Base, r), if MID { rows.codes(Plane::Mid, r) } else { &[] }]
}

/// Blocks `first..` of all records into `sums [blocks][N][64]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn strip<const MID: bool>(work: &Sums<Factors>, first: usize, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let columns = work.factors.columns;
    let mut coming = strip::coming(work.rows, first);
    scratch.of_strip.take(work, first, || {
        if first == work.first {
            coming.ask::<MID>(STRIP / 2);
        }
    });
    let mut coming = strip::coming(work.rows, first + STRIP);
    for (two, sums) in sums.chunks_mut(2 * columns).enumerate() {
        pack::<MID>(work.rows, first + 2 * two, scratch);
        for (i, sums) in sums.chunks_exact_mut(columns).enumerate() {
            group::<MID>(work, 2 * two + i, sums, &mut coming, scratch);
        }
    }
}

/// Packs the codes of blocks `block` and `block + 1` of all records; a last single record meets factors of 0.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn pack<const MID: bool>(rows: &Rows, block: usize, scratch: &mut Scratch) {
    let [one, other] = &mut scratch.packed;
    for (pair, (one, other)) in one.iter_mut().zip(other).enumerate().take(rows.records.div_ceil(2)) {
        let pair = [record_codes::<MID>(rows, 2 * pair), record_codes::<MID>(rows, 2 * pair + 1)];
        let [first, second] = of_blocks(&by_weight::<MID>(&pair, block));
        one.iter_mut().zip(first).for_each(|(to, from)| store_bytes(to, from));
        other.iter_mut().zip(second).for_each(|(to, from)| store_bytes(to, from));
    }
}

/// Group `index` of a strip for all columns: `sums` is `[N][64]`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn group<const MID: bool>(
    work: &Sums<Factors>,
    index: usize,
    sums: &mut [[f32; BLOCK]],
    coming: &mut Coming,
    scratch: &mut Scratch,
) {
    const RECORDS: usize = CHUNK / STRIP;
    let of_group = scratch.of_strip.by_group[index];
    let pairs = work.rows.records.div_ceil(2);
    let mut first = 0;
    while first < sums.len() {
        let left = sums.len() - first;
        for (n, column) in scratch.columns.iter_mut().enumerate().take(left) {
            if first + n < RECORDS {
                (0..RECORDS.div_ceil(work.factors.columns)).for_each(|_| coming.ask::<MID>(STRIP / 2));
            }
            put_column(
                work.factors.column(first + n),
                &of_group,
                scratch.of_strip.terms[first + n].share[index],
                column,
            );
        }
        let packed = &scratch.packed[index % 2];
        let finish = |n: usize, dots: &[__m512i; 4], sums: &mut [f32; BLOCK]| {
            scratch.of_strip.terms[first + n].add(index, &in_order(dots), sums);
        };
        let sums = &mut sums[first..];
        // Few columns leave the multipliers waiting for their sums, so that eight are twice four.
        first += match left {
            7 | 8 | 4 | 5 => columns::<4>(packed, pairs, &scratch.columns, sums, finish),
            COLUMNS.. => columns::<COLUMNS>(packed, pairs, &scratch.columns, sums, finish),
            2 | 3 => columns::<2>(packed, pairs, &scratch.columns, sums, finish),
            _ => columns::<1>(packed, pairs, &scratch.columns, sums, finish),
        };
    }
}

/// The first `N` columns' dots, each handed to `finish` with its sums; returns `N`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn columns<const N: usize>(
    packed: &[Packed<4>; PAIRS],
    pairs: usize,
    columns: &[[[i16; 2]; PAIRS]; COLUMNS],
    sums: &mut [[f32; BLOCK]],
    finish: impl Fn(usize, &[__m512i; 4], &mut [f32; BLOCK]),
) -> usize {
    let pairs = pairs.min(PAIRS);
    let column = |k: usize, n: usize| {
        let [first, second] = columns[n][k];
        i32::from(first) & 0xffff | i32::from(second) << 16
    };
    let dots = product::<4, N>(packed, pairs, column, |sum, codes, factors| add_words(sum, codes, factors));
    for (n, (sums, dots)) in sums.iter_mut().zip(&dots).enumerate() {
        finish(n, dots, sums);
    }
    N
}

/// The factors of one column and group.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn put_column(numbers: &[f32; CHUNK], widths: &[f32; CHUNK], share: f32, column: &mut [[i16; 2]; PAIRS]) {
    let (numbers, widths, share) = (numbers.as_chunks().0, widths.as_chunks().0, _mm512_set1_ps(share));
    let words = column.as_flattened_mut().as_chunks_mut().0;
    for ((numbers, widths), words) in numbers.iter().zip(widths).zip(words) {
        let products = _mm512_mul_ps(floats(numbers), floats(widths));
        let factors = _mm512_cvtps_epi32(_mm512_mul_ps(products, share));
        store_words(words, _mm512_cvtepi32_epi16(factors));
    }
}
