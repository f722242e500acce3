//! Int8 dots of several columns with AVX2: as `dots_int8_many`, a lane a record, codes unpacked once for all columns. Nibble
//! planes are multiplied apart: eight products of four nibbles with activations (at most 8 * 2 * 15 * 127) fit 16 bits.

use super::ahead::{self, Distance};
use super::load::{bytes32, floats8, store_bytes32, store8};
use super::pack_avx2::{RECORDS, transposed};
use super::scales::cells8;
use crate::kernels::columns::{Eight, Int8Columns, STRIP};
use crate::kernels::lanes::LANES;
use crate::kernels::work::Dots;
use crate::quant::{Record, Rows};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;

/// Registers that hold a micropanel's records.
const SIDES: usize = LANES / RECORDS;

/// Quads of half a block: four codes each.
const QUADS: usize = BLOCK / 8;

/// Columns of a pass: their eight sums stay in registers.
const COLUMNS: usize = 4;

/// Nibbles of half a block.
type Nibbles = [[[u8; 32]; SIDES]; QUADS];

/// One group of a micropanel: nibbles by plane and half, and cells. Lines of the cache, since a register that straddles two
/// costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group {
    nibbles: [[Nibbles; 2]; 2],
    widths: [f32; LANES],
    origins: [f32; LANES],
}

/// Sums of `N` columns for every lane of the fold.
#[repr(C, align(64))]
struct Lanes<const N: usize>([[[[f32; RECORDS]; SIDES]; N]; STRIP]);

const EMPTY: Group =
    Group { nibbles: [[[[[0; 32]; SIDES]; QUADS]; 2]; 2], widths: [0.0; LANES], origins: [0.0; LANES] };

thread_local! {
    /// What a thread keeps between tasks: the groups of its records.
    static GROUPS: RefCell<Vec<Group>> = const { RefCell::new(vec![]) };
}

/// Bytes of it, for records of so many blocks.
pub fn kept(blocks: usize) -> usize {
    blocks * size_of::<Group>()
}

/// Dots of records of one group a block; `out` is `[micropanels][N][16]`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn dots(work: &Dots<Int8Columns>, out: &mut [[f32; LANES]]) {
    GROUPS.with_borrow_mut(|groups| {
        groups.resize(work.rows.blocks(), EMPTY);
        for (i, out) in out.chunks_exact_mut(work.x.columns).enumerate() {
            match work.rows.level {
                Level::L4 => micropanel::<false>(work, i, groups, out),
                _ => micropanel::<true>(work, i, groups, out),
            }
        }
    });
}

/// Dots of the `index`th micropanel; `out` is `[N][16]`.
#[target_feature(enable = "avx2,fma,f16c")]
fn micropanel<const MID: bool>(work: &Dots<Int8Columns>, index: usize, groups: &mut [Group], out: &mut [[f32; LANES]]) {
    pack::<MID>(work.rows, work.micropanel(index), groups);
    let quads = black_box(QUADS);
    for (x, out) in work.x.eights.chunks(groups.len()).zip(out.chunks_mut(2 * COLUMNS)) {
        for (four, out) in out.chunks_mut(COLUMNS).enumerate() {
            match out.len() {
                1 => columns::<MID, 1>(groups, x, quads, four, out),
                2 => columns::<MID, 2>(groups, x, quads, four, out),
                _ => columns::<MID, COLUMNS>(groups, x, quads, four, out),
            }
        }
    }
}

/// Unpacks the records of a micropanel; the last fills lanes that have none.
#[target_feature(enable = "avx2,fma,f16c")]
fn pack<const MID: bool>(rows: &Rows, records: Range<usize>, groups: &mut [Group]) {
    let first = records.start;
    let records: [Record; LANES] = std::array::from_fn(|r| rows.record((first + r).min(records.end - 1)));
    let level = if MID { Level::L8 } else { Level::L4 };
    let next: [Distance; LANES] = std::array::from_fn(|r| ahead::records(rows, first + r, LANES));
    for (block, group) in groups.iter_mut().enumerate() {
        records.iter().zip(next).for_each(|(record, next)| ahead::block(level, record, block, next));
        for (plane, nibbles) in group.nibbles.iter_mut().enumerate().take(1 + usize::from(MID)) {
            for (side, records) in records.as_chunks().0.iter().enumerate() {
                part(&transposed(records, plane, block), side, nibbles);
            }
        }
    }
    for (r, record) in records.iter().enumerate() {
        for (eight, groups) in groups.chunks_mut(RECORDS).enumerate() {
            let cells = cells8(&rows.coding, rows.level, record.scales, eight * RECORDS);
            let (mut widths, mut origins) = ([0.0; RECORDS], [0.0; RECORDS]);
            store8(&mut widths, cells.width);
            store8(&mut origins, cells.origin);
            for (group, (width, origin)) in groups.iter_mut().zip(widths.into_iter().zip(origins)) {
                (group.widths[r], group.origins[r]) = (width, origin);
            }
        }
    }
}

/// Parts bytes into the nibbles of the lower and of the upper half of their block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn part(bytes: &[__m256i; QUADS], side: usize, [low, high]: &mut [Nibbles; 2]) {
    let nibble = _mm256_set1_epi8(0x0f);
    for ((low, high), bytes) in low.iter_mut().zip(high).zip(bytes) {
        store_bytes32(&mut low[side], _mm256_and_si256(*bytes, nibble));
        store_bytes32(&mut high[side], _mm256_and_si256(_mm256_srli_epi16::<4>(*bytes), nibble));
    }
}

/// The first `N` columns of the lower or upper four of eight, as many as `out` has.
#[target_feature(enable = "avx2,fma,f16c")]
fn columns<const MID: bool, const N: usize>(
    groups: &[Group],
    x: &[Eight],
    quads: usize,
    four: usize,
    out: &mut [[f32; LANES]],
) {
    let Lanes(lanes) = &mut Lanes([[[[0.0; RECORDS]; SIDES]; N]; STRIP]);
    for (block, (group, x)) in groups.iter().zip(x).enumerate() {
        let dots = multiply::<MID, N>(group, x, quads, four);
        let (widths, origins) = (sides(&group.widths), sides(&group.origins));
        let scales: &[f32; COLUMNS] = &x.scales.as_chunks().0[four];
        let sums: &[f32; COLUMNS] = &x.sums.as_chunks().0[four];
        for (n, lanes) in lanes[block % STRIP].iter_mut().enumerate() {
            let (scale, sum) = (_mm256_set1_ps(scales[n]), _mm256_set1_ps(sums[n]));
            for (side, lane) in lanes.iter_mut().enumerate() {
                let dot = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[n][side]), scale);
                let term = _mm256_fmadd_ps(widths[side], dot, floats8(lane));
                store8(lane, _mm256_fmadd_ps(origins[side], sum, term));
            }
        }
    }
    for (n, out) in out.iter_mut().enumerate().take(N) {
        for (side, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            fold(lanes, n, side, out);
        }
    }
}

/// Exact dots of a group with `N` columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const MID: bool, const N: usize>(
    group: &Group,
    x: &Eight,
    count: usize,
    four: usize,
) -> [[__m256i; SIDES]; N] {
    let mut dots = [[_mm256_setzero_si256(); SIDES]; N];
    for (plane, halves) in group.nibbles.iter().enumerate().take(1 + usize::from(MID)) {
        let place = _mm256_set1_epi16(if MID && plane == 0 { 16 } else { 1 });
        for (nibbles, quads) in halves.iter().zip(x.quads.as_chunks().0) {
            let sums = product::<N>(nibbles, quads, count, four);
            for (dot, sum) in dots.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(*sum, place));
            }
        }
    }
    dots
}

/// Sums of nibbles with activations in words, two a record. `count` is no constant to the compiler: it would unroll the
/// loop, load ahead and spill.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn product<const N: usize>(
    nibbles: &Nibbles,
    quads: &[[[i8; 4]; 2 * COLUMNS]; QUADS],
    count: usize,
    four: usize,
) -> [[__m256i; SIDES]; N] {
    let mut sums = [[_mm256_setzero_si256(); SIDES]; N];
    for (nibbles, quads) in nibbles[..count].iter().zip(quads) {
        let nibbles = [bytes32(&nibbles[0]), bytes32(&nibbles[1])];
        let quads: &[[i8; 4]; COLUMNS] = &quads.as_chunks().0[four];
        for (sums, quad) in sums.iter_mut().zip(quads) {
            let quad = _mm256_set1_epi32(i32::from_le_bytes(quad.map(|code| code as u8)));
            for (sum, nibbles) in sums.iter_mut().zip(&nibbles) {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*nibbles, quad));
            }
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sides(values: &[f32; LANES]) -> [__m256; SIDES] {
    let sides = values.as_chunks().0;
    [floats8(&sides[0]), floats8(&sides[1])]
}

/// `lanes::fold16` of eight records at once.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fold<const N: usize>(
    lanes: &[[[[f32; RECORDS]; SIDES]; N]; STRIP],
    n: usize,
    side: usize,
    out: &mut [f32; RECORDS],
) {
    let mut sums = [_mm256_setzero_ps(); STRIP];
    for (sum, lane) in sums.iter_mut().zip(lanes) {
        *sum = floats8(&lane[n][side]);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] = _mm256_add_ps(sums[i], sums[i + half]);
        }
    }
    store8(out, sums[0]);
}
