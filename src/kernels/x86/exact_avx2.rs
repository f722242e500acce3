//! Accumulations in exact integers with AVX2, as `exact`: words of codes times factors of 16 bits, two records a lane
//! (sums of byte products would saturate). Eight groups at a time: the cells of all records first, then their codes.

use super::super::exact::ExactWork;
use super::super::factors::TOP;
use super::exact::{AHEAD, VISIT, ahead, record_codes};
use super::int8_avx2::cells;
use super::load::{bytes32, floats8, ints8, prefetch, store_bytes32, store_ints8, store8};
use super::pack::Codes;
use super::pack_avx2::{Half, by_weight, in_order};
use crate::quant::Rows;
use crate::types::{BLOCK, CHUNK, Level};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::hint::black_box;

/// Blocks at a time: as many as there are lanes for their cells.
const RUN: usize = 8;

/// Pairs of records in a chunk.
const PAIRS: usize = CHUNK / 2;

/// Half a block.
const HALF: usize = BLOCK / 2;

/// Columns of a pass: their eight sums for half a block and its four registers of codes fit the register file.
const COLUMNS: usize = 2;

/// One number for each group of a run.
type OfRun<T> = [T; RUN];

/// What a thread keeps between tiles. Lines of the cache, since a register that straddles two costs twice.
#[repr(C, align(64))]
struct Scratch {
    /// Cells of a run's groups and what code 0 decodes to, by record.
    widths: [OfRun<f32>; CHUNK],
    origins: [OfRun<f32>; CHUNK],
    /// Factors of one column and the run's groups, by pair of records: the first in the lower word.
    factors: [OfRun<i32>; PAIRS],
    /// Sums of a run's blocks for one column, by halves.
    dots: OfRun<[[[i32; 8]; 4]; 2]>,
    /// Codes of the halves of one block.
    packed: [[[[u8; 32]; 4]; PAIRS]; 2],
    /// Factors of some columns for one group.
    columns: [[i32; PAIRS]; COLUMNS],
    /// What codes of 0 add: `[N]` of a run's groups.
    offsets: Vec<OfRun<f32>>,
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Box::new(Scratch {
        widths: [[0.0; RUN]; CHUNK],
        origins: [[0.0; RUN]; CHUNK],
        factors: [[0; RUN]; PAIRS],
        dots: [[[[0; 8]; 4]; 2]; RUN],
        packed: [[[[0; 32]; 4]; PAIRS]; 2],
        columns: [[0; PAIRS]; COLUMNS],
        offsets: vec![],
    }));
}

/// All records into one tile's chunk, `[blocks][N][64]`, of work that `exact::takes`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn tile(work: &ExactWork, chunk: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        for (run, sums) in chunk.as_chunks_mut::<BLOCK>().0.chunks_mut(RUN * work.factors.count).enumerate() {
            let first = work.first + run * RUN;
            match (work.factors.count, work.rows.level) {
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
fn one<const MID: bool>(work: &ExactWork, first: usize, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let most = read_cells(work.rows, first, scratch);
    let offset = lanes(put_factors(work, most, scratch));
    let dots = &mut scratch.dots[..sums.len()];
    dots.as_flattened_mut().as_flattened_mut().fill([0; 8]);
    for visit in (0..work.rows.count.div_ceil(2)).step_by(VISIT) {
        add_visit::<MID>(work.rows, first, visit, &scratch.factors, dots);
    }
    let most = lanes(most);
    for (i, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
        let scale = work.factors.largest(0) * (most[i] / TOP);
        for (sums, dots) in sums.as_chunks_mut().0.iter_mut().zip(dots) {
            add_scaled(sums, &load(dots), scale, offset[i]);
        }
    }
}

/// The factors of the only column, pair by pair; returns what codes of 0 add.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put_factors(work: &ExactWork, most: __m256, scratch: &mut Scratch) -> __m256 {
    let (units, raw) = (work.factors.units(0), work.factors.raw(0));
    let (share, mut offset) = (_mm256_div_ps(_mm256_set1_ps(TOP), most), _mm256_setzero_ps());
    for (pair, factors) in scratch.factors.iter_mut().enumerate().take(work.rows.count.div_ceil(2)) {
        let mut both = [_mm256_setzero_si256(); 2];
        for (r, factor) in (2 * pair..work.rows.count).zip(&mut both) {
            offset = _mm256_fmadd_ps(_mm256_set1_ps(raw[r]), floats8(&scratch.origins[r]), offset);
            let share = _mm256_mul_ps(floats8(&scratch.widths[r]), share);
            // What is no number becomes i32::MIN, whose lower word is the 0 it stands for.
            *factor = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_set1_ps(units[r]), share));
        }
        store_ints8(factors, _mm256_blend_epi16::<0xaa>(both[0], _mm256_slli_epi32::<16>(both[1])));
    }
    offset
}

/// Pairs of records `visit..`, at most [`VISIT`], into the sums of the blocks from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_visit<const MID: bool>(
    rows: &Rows,
    first: usize,
    visit: usize,
    factors: &[OfRun<i32>; PAIRS],
    dots: &mut [[[[i32; 8]; 4]; 2]],
) {
    let mut records = [[Codes::default(); 2]; VISIT];
    for (r, codes) in records.as_flattened_mut().iter_mut().enumerate() {
        *codes = record_codes::<MID>(rows, 2 * visit + r);
    }
    let pairs = VISIT.min(rows.count.div_ceil(2) - visit);
    for (i, dots) in dots.iter_mut().enumerate().take(RUN) {
        let mut sums = [load(&dots[0]), load(&dots[1])];
        for (pair, factors) in records[..pairs].iter().zip(&factors[visit..]) {
            for codes in pair {
                ahead::<MID>(rows, codes, first + i);
            }
            let (codes, factors) = (by_weight::<MID>(pair, first + i), _mm256_set1_epi32(factors[i]));
            for (sum, codes) in sums.as_flattened_mut().iter_mut().zip(codes.as_flattened()) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*codes, factors));
            }
        }
        for (to, sum) in dots.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            store_ints8(to, *sum);
        }
    }
}

/// Several columns: blocks `first..` of all records into `sums [blocks][N][64]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn many<const MID: bool>(work: &ExactWork, first: usize, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let most = lanes(read_cells(work.rows, first, scratch));
    put_offsets(work, scratch);
    for (i, sums) in sums.chunks_exact_mut(work.factors.count).enumerate() {
        pack::<MID>(work.rows, first + i, &mut scratch.packed);
        group(work, i, most[i], sums, scratch);
    }
}

/// What codes of 0 add in every column.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put_offsets(work: &ExactWork, scratch: &mut Scratch) {
    const AT_ONCE: usize = 8;
    let (count, records) = (work.factors.count, work.rows.count);
    scratch.offsets.resize(count, [0.0; RUN]);
    for (part, offsets) in scratch.offsets.chunks_mut(AT_ONCE).enumerate() {
        let mut columns = [work.factors.raw(0); AT_ONCE];
        for (n, column) in columns.iter_mut().enumerate() {
            *column = work.factors.raw((part * AT_ONCE + n).min(count - 1));
        }
        let mut sums = [_mm256_setzero_ps(); AT_ONCE];
        for (r, origins) in scratch.origins[..records].iter().enumerate() {
            let origins = floats8(origins);
            for (sum, column) in sums.iter_mut().zip(&columns) {
                *sum = _mm256_fmadd_ps(_mm256_set1_ps(column[r]), origins, *sum);
            }
        }
        for (offsets, sum) in offsets.iter_mut().zip(sums) {
            store8(offsets, sum);
        }
    }
}

/// Packs the codes of a block of all records; a last single record meets factors of 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pack<const MID: bool>(rows: &Rows, block: usize, packed: &mut [[[[u8; 32]; 4]; PAIRS]; 2]) {
    for pair in 0..rows.count.div_ceil(2) {
        let records = [record_codes::<MID>(rows, 2 * pair), record_codes::<MID>(rows, 2 * pair + 1)];
        for codes in &records {
            ahead::<MID>(rows, codes, block);
        }
        for (packed, codes) in packed.iter_mut().zip(by_weight::<MID>(&records, block)) {
            for (to, from) in packed[pair].iter_mut().zip(codes) {
                store_bytes32(to, from);
            }
        }
    }
}

/// Group `index` of a run for all columns: `sums` is `[N][64]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn group(work: &ExactWork, index: usize, most: f32, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let mut shares = [0.0; CHUNK];
    for (share, widths) in shares[..work.rows.count].iter_mut().zip(&scratch.widths) {
        *share = widths[index] * (TOP / most);
    }
    let (pairs, unit) = (black_box(work.rows.count.div_ceil(2)), most / TOP);
    for (part, sums) in sums.chunks_mut(COLUMNS).enumerate() {
        let first = part * COLUMNS;
        for (n, column) in scratch.columns.iter_mut().enumerate().take(sums.len()) {
            put_column(work.factors.units(first + n), &shares, column);
        }
        let finish = |n: usize, half: usize, dots: &Half, sums: &mut [f32; BLOCK]| {
            let scale = work.factors.largest(first + n) * unit;
            add_scaled(&mut sums.as_chunks_mut().0[half], dots, scale, scratch.offsets[first + n][index]);
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
fn put_column(units: &[f32; CHUNK], shares: &[f32; CHUNK], column: &mut [i32; PAIRS]) {
    let (units, shares) = (units.as_chunks::<8>().0, shares.as_chunks::<8>().0);
    let word = _mm256_set1_epi32(0xffff);
    for (i, to) in column.as_chunks_mut().0.iter_mut().enumerate() {
        let mut both = [_mm256_setzero_si256(); 2];
        for (half, factors) in both.iter_mut().enumerate() {
            let product = _mm256_mul_ps(floats8(&units[2 * i + half]), floats8(&shares[2 * i + half]));
            *factors = _mm256_and_si256(_mm256_cvtps_epi32(product), word);
        }
        // Packing goes by halves of the register: the quarters are then put in order.
        store_ints8(to, _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(both[0], both[1])));
    }
}

/// Reads the cells of groups `first..` of all records and returns the largest of every group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn read_cells(rows: &Rows, first: usize, scratch: &mut Scratch) -> __m256 {
    let mut most = _mm256_setzero_si256();
    let far = first * rows.coding.form.scale_bytes() + AHEAD * rows.columns[0].stride;
    for (r, (widths, origins)) in scratch.widths.iter_mut().zip(&mut scratch.origins).enumerate().take(rows.count) {
        let scales = rows.scales(r);
        prefetch(scales, far);
        let cells = cells(rows, scales, first);
        store8(widths, cells.width);
        store8(origins, cells.origin);
        // As bits, what is no number is the largest.
        let size = _mm256_and_si256(_mm256_castps_si256(cells.width), _mm256_set1_epi32(0x7fff_ffff));
        most = _mm256_max_epu32(most, size);
    }
    _mm256_castsi256_ps(most)
}

/// `sums += fma(scale, dots, offset)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_scaled(sums: &mut [f32; HALF], dots: &Half, scale: f32, offset: f32) {
    let (scale, offset) = (_mm256_set1_ps(scale), _mm256_set1_ps(offset));
    for (sums, dots) in sums.as_chunks_mut().0.iter_mut().zip(in_order(dots)) {
        let term = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots), offset);
        store8(sums, _mm256_add_ps(floats8(sums), term));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes(x: __m256) -> OfRun<f32> {
    let mut out = [0.0; RUN];
    store8(&mut out, x);
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(dots: &[[i32; 8]; 4]) -> Half {
    [ints8(&dots[0]), ints8(&dots[1]), ints8(&dots[2]), ints8(&dots[3])]
}
