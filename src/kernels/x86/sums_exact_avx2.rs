//! Accumulations in exact integers with AVX2, as `sums_exact_many`: words of codes times factors of 16 bits, two records a lane
//! (sums of byte products would saturate). Eight groups at a time: the cells of all records first, then their codes.

use super::ahead::{self, Distance};
use super::load::{bytes32, floats8, ints8, prefetch, store_bytes32, store_ints8, store8};
use super::pack::PlaneBytes;
use super::pack_avx2::{Half, by_weight, in_order};
use super::scales::{Cells8, cells8};
use super::strip::AHEAD;
use super::sums_exact_many::record_codes;
use super::terms::{Making8, Terms};
use crate::kernels::factors::Factors;
use crate::kernels::work::Sums;
use crate::quant::Rows;
use crate::types::{BLOCK, CHUNK, Level};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::hint::black_box;

/// Groups at a time: as many as there are lanes for their cells.
const GROUPS: usize = 8;

/// Pairs of records in a chunk.
const PAIRS: usize = CHUNK / 2;

/// Records between codes that are asked for and those that are computed.
const FAR: usize = 8;

/// Columns of a pass: their eight sums for half a block and its four registers of codes fit the register file.
const COLUMNS: usize = 2;

/// One number for each of so many groups.
type OfGroups<T> = [T; GROUPS];

/// What a thread keeps between tasks. Lines of the cache, since a register that straddles two costs twice.
#[repr(C, align(64))]
struct Scratch {
    /// Cells of eight groups and what code 0 decodes to, by record; for one column its products with the cells.
    widths: [OfGroups<f32>; CHUNK],
    origins: [OfGroups<f32>; CHUNK],
    /// Factors of one column and the groups, by pair of records: the first in the lower word.
    factors: [OfGroups<i32>; PAIRS],
    /// Sums of their blocks for one column, by halves.
    dots: OfGroups<[[[i32; 8]; 4]; 2]>,
    /// Codes of the halves of one block.
    packed: [[[[u8; 32]; 4]; PAIRS]; 2],
    /// Factors of some columns for one group.
    columns: [[i32; PAIRS]; COLUMNS],
    /// Of every column and eight groups.
    terms: Vec<Terms<GROUPS>>,
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Box::new(Scratch {
        widths: [[0.0; GROUPS]; CHUNK],
        origins: [[0.0; GROUPS]; CHUNK],
        factors: [[0; GROUPS]; PAIRS],
        dots: [[[[0; 8]; 4]; 2]; GROUPS],
        packed: [[[[0; 32]; 4]; PAIRS]; 2],
        columns: [[0; PAIRS]; COLUMNS],
        terms: vec![],
    }));
}

/// Bytes that a thread keeps behind so many columns.
pub fn kept(columns: usize) -> usize {
    size_of::<Scratch>() + columns * size_of::<Terms<GROUPS>>()
}

/// Sums of records of one group a block; `out` is `[blocks][N][64]`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sums(work: &Sums<Factors>, out: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        for (eight, sums) in out.as_chunks_mut::<BLOCK>().0.chunks_mut(GROUPS * work.factors.columns).enumerate() {
            let first = work.first + eight * GROUPS;
            match (work.factors.columns, work.rows.level) {
                (1, Level::L4) => one::<false>(work, first, sums, scratch),
                (1, _) => one::<true>(work, first, sums, scratch),
                (_, Level::L4) => many::<false>(work, first, sums, scratch),
                _ => many::<true>(work, first, sums, scratch),
            }
        }
    });
}

/// One column: blocks `first..` of all records into `sums [blocks][64]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn one<const MID: bool>(work: &Sums<Factors>, first: usize, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let terms = read_products(work, first, scratch);
    put_factors(&scratch.widths[..work.rows.records], floats8(&terms.share), &mut scratch.factors);
    let dots = &mut scratch.dots[..sums.len()];
    dots.as_flattened_mut().as_flattened_mut().fill([0; 8]);
    for (pair, factors) in scratch.factors.iter().enumerate().take(work.rows.records.div_ceil(2)) {
        add_pair::<MID>(work.rows, first, pair, factors, dots);
    }
    for (i, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
        for (sums, dots) in sums.as_chunks_mut().0.iter_mut().zip(dots) {
            terms.add(i, &in_order(&load(dots)), sums);
        }
    }
}

/// Reads the cells of groups `first..` of all records and multiplies them by the only column's numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn read_products(work: &Sums<Factors>, first: usize, scratch: &mut Scratch) -> Terms<GROUPS> {
    let mut making = Making8::new();
    let of_records = work.factors.column(0).iter().zip(&mut scratch.widths);
    read_cells(work.rows, first, of_records, |(h, products), cells| {
        store8(products, making.take(*h, &cells));
    });
    making.terms()
}

/// The factors of the only column, pair by pair, from its products with the cells.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put_factors(products: &[OfGroups<f32>], share: __m256, factors: &mut [OfGroups<i32>; PAIRS]) {
    for (factors, products) in factors.iter_mut().zip(products.chunks(2)) {
        let mut both = [_mm256_setzero_si256(); 2];
        for (factor, product) in both.iter_mut().zip(products) {
            // What is no number becomes i32::MIN, whose lower word is the 0 it stands for.
            *factor = _mm256_cvtps_epi32(_mm256_mul_ps(floats8(product), share));
        }
        store_ints8(factors, _mm256_blend_epi16::<0xaa>(both[0], _mm256_slli_epi32::<16>(both[1])));
    }
}

/// The codes of two records, and how far behind them those lie that are asked for.
#[inline(always)]
fn pair_of<'a, const MID: bool>(rows: &Rows<'a>, pair: usize) -> ([PlaneBytes<'a>; 2], [Distance; 2]) {
    let pair = [2 * pair, 2 * pair + 1];
    (pair.map(|r| record_codes::<MID>(rows, r)), pair.map(|r| ahead::records(rows, r, FAR)))
}

/// Asks for block `block` of the record `far` behind that of `codes`.
#[inline(always)]
fn ask<const MID: bool>(codes: &PlaneBytes, block: usize, far: Distance) {
    for (codes, far) in codes.iter().zip(far).take(1 + usize::from(MID)) {
        prefetch(codes, (block * BLOCK / 2).wrapping_add(far));
    }
}

/// A pair of records into the sums of the blocks from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_pair<const MID: bool>(
    rows: &Rows,
    first: usize,
    pair: usize,
    factors: &OfGroups<i32>,
    dots: &mut [[[[i32; 8]; 4]; 2]],
) {
    let (records, far) = pair_of::<MID>(rows, pair);
    for (i, dots) in dots.iter_mut().enumerate().take(GROUPS) {
        let mut sums = [load(&dots[0]), load(&dots[1])];
        records.iter().zip(far).for_each(|(codes, far)| ask::<MID>(codes, first + i, far));
        let (codes, factors) = (by_weight::<MID>(&records, first + i), _mm256_set1_epi32(factors[i]));
        for (sum, codes) in sums.as_flattened_mut().iter_mut().zip(codes.as_flattened()) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*codes, factors));
        }
        for (to, sum) in dots.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            store_ints8(to, *sum);
        }
    }
}

/// Several columns: blocks `first..` of all records into `sums [blocks][N][64]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn many<const MID: bool>(work: &Sums<Factors>, first: usize, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let of_records = scratch.widths.iter_mut().zip(&mut scratch.origins);
    read_cells(work.rows, first, of_records, |(widths, origins), cells| {
        store8(widths, cells.width);
        store8(origins, cells.origin);
    });
    put_terms(work, scratch);
    for (i, sums) in sums.chunks_exact_mut(work.factors.columns).enumerate() {
        pack::<MID>(work.rows, first + i, &mut scratch.packed);
        group(work, i, sums, scratch);
    }
}

/// The terms of every column.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put_terms(work: &Sums<Factors>, scratch: &mut Scratch) {
    const AT_ONCE: usize = 5;
    let (columns, records) = (work.factors.columns, work.rows.records);
    scratch.terms.resize(columns, Terms::NONE);
    for (part, of_columns) in scratch.terms.chunks_mut(AT_ONCE).enumerate() {
        let mut of_part = [work.factors.column(0); AT_ONCE];
        for (n, column) in of_part.iter_mut().enumerate() {
            *column = work.factors.column((part * AT_ONCE + n).min(columns - 1));
        }
        let mut making = [Making8::new(); AT_ONCE];
        for (r, (widths, origins)) in scratch.widths[..records].iter().zip(&scratch.origins).enumerate() {
            let cells = Cells8 { width: floats8(widths), origin: floats8(origins) };
            for (making, column) in making.iter_mut().zip(&of_part) {
                making.take(column[r], &cells);
            }
        }
        of_columns.iter_mut().zip(making).for_each(|(to, making)| *to = making.terms());
    }
}

/// Packs the codes of a block of all records; a last single record meets factors of 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pack<const MID: bool>(rows: &Rows, block: usize, packed: &mut [[[[u8; 32]; 4]; PAIRS]; 2]) {
    for pair in 0..rows.records.div_ceil(2) {
        let (records, far) = pair_of::<MID>(rows, pair);
        records.iter().zip(far).for_each(|(codes, far)| ask::<MID>(codes, block, far));
        for (packed, codes) in packed.iter_mut().zip(by_weight::<MID>(&records, block)) {
            for (to, from) in packed[pair].iter_mut().zip(codes) {
                store_bytes32(to, from);
            }
        }
    }
}

/// Group `index` of eight for all columns: `sums` is `[N][64]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn group(work: &Sums<Factors>, index: usize, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let mut of_group = [0.0; CHUNK];
    for (width, widths) in of_group[..work.rows.records].iter_mut().zip(&scratch.widths) {
        *width = widths[index];
    }
    let pairs = black_box(work.rows.records.div_ceil(2));
    for (part, sums) in sums.chunks_mut(COLUMNS).enumerate() {
        let first = part * COLUMNS;
        for (n, column) in scratch.columns.iter_mut().enumerate().take(sums.len()) {
            put_column(work.factors.column(first + n), &of_group, scratch.terms[first + n].share[index], column);
        }
        let finish = |n: usize, half: usize, dots: &Half, sums: &mut [f32; BLOCK]| {
            scratch.terms[first + n].add(index, &in_order(dots), &mut sums.as_chunks_mut().0[half]);
        };
        match sums.len() {
            1 => columns::<1>(&scratch.packed, pairs, &scratch.columns, sums, finish),
            _ => columns::<COLUMNS>(&scratch.packed, pairs, &scratch.columns, sums, finish),
        }
    }
}

/// The first `N` columns' dots, each half handed to `finish` with its sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn columns<const N: usize>(
    packed: &[[[[u8; 32]; 4]; PAIRS]; 2],
    pairs: usize,
    columns: &[[i32; PAIRS]; COLUMNS],
    sums: &mut [[f32; BLOCK]],
    finish: impl Fn(usize, usize, &Half, &mut [f32; BLOCK]),
) {
    for (half, packed) in packed.iter().enumerate() {
        let dots = product::<N>(&packed[..pairs], columns);
        for (n, (sums, dots)) in sums.iter_mut().zip(&dots).enumerate() {
            finish(n, half, dots, sums);
        }
    }
}

/// Dots of packed codes with the factors of `N` columns, all in registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn product<const N: usize>(packed: &[[[u8; 32]; 4]], columns: &[[i32; PAIRS]; COLUMNS]) -> [Half; N] {
    let mut sums = [[_mm256_setzero_si256(); 4]; N];
    for (k, packed) in packed.iter().enumerate().take(PAIRS) {
        let codes = [bytes32(&packed[0]), bytes32(&packed[1]), bytes32(&packed[2]), bytes32(&packed[3])];
        for (sums, column) in sums.iter_mut().zip(columns) {
            let factors = _mm256_set1_epi32(column[k]);
            for (sum, codes) in sums.iter_mut().zip(&codes) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*codes, factors));
            }
        }
    }
    sums
}

/// The factors of one column and group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put_column(numbers: &[f32; CHUNK], widths: &[f32; CHUNK], share: f32, column: &mut [i32; PAIRS]) {
    let (numbers, widths) = (numbers.as_chunks::<8>().0, widths.as_chunks::<8>().0);
    let (share, word) = (_mm256_set1_ps(share), _mm256_set1_epi32(0xffff));
    for (i, to) in column.as_chunks_mut().0.iter_mut().enumerate() {
        let mut both = [_mm256_setzero_si256(); 2];
        for (half, factors) in both.iter_mut().enumerate() {
            let product = _mm256_mul_ps(floats8(&numbers[2 * i + half]), floats8(&widths[2 * i + half]));
            *factors = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(product, share)), word);
        }
        // Packing goes by halves of the register: the quarters are then put in order.
        store_ints8(to, _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(both[0], both[1])));
    }
}

/// Hands the cells of groups `first..` of every record to `take`, with what `of_records` gives for it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn read_cells<T>(rows: &Rows, first: usize, of_records: impl Iterator<Item = T>, mut take: impl FnMut(T, Cells8)) {
    for (r, of_record) in (0..rows.records).zip(of_records) {
        let scales = rows.scales(r);
        ahead::scales(rows, scales, first, ahead::records(rows, r, AHEAD));
        take(of_record, cells8(&rows.coding, rows.level, scales, first));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(dots: &[[i32; 8]; 4]) -> Half {
    [ints8(&dots[0]), ints8(&dots[1]), ints8(&dots[2]), ints8(&dots[3])]
}
