//! Accumulations in exact integers by tiles: factors of 16 bits in two bytes, sixteen columns a tile, times codes of 64
//! records, sixteen weights a tile. `256 * high + low` is the exact sum.
//!
//! Records meet in one order on both sides, whichever: byte j of dword d is of record `16 * j + d` of 64, which is how the
//! factors of four times sixteen records come together without crossing lanes.

use super::ahead::Coming;
use super::amx::{Codes, Halves, ROWS, Tiles, Words};
use super::load::{bytes32, floats, ints, store_bytes};
use super::pack::PlaneBytes;
use super::strip::{self, OfStrip};
use super::sums_exact_many::record_codes;
use crate::kernels::columns::STRIP;
use crate::kernels::factors::Factors;
use crate::kernels::work::Sums;
use crate::quant::Rows;
use crate::types::{BLOCK, CHUNK, Level};
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Records of a tile: four a dword.
const DEEP: usize = 64;

/// Tiles of a chunk's records.
const DEPTH: usize = CHUNK / DEEP;

/// What a thread keeps between tasks. Lines of the cache, since a register that straddles two costs twice.
#[repr(C, align(64))]
struct Scratch {
    of_strip: OfStrip,
    /// Codes of one block.
    codes: [Codes; DEPTH],
    /// Factors of sixteen columns for one group.
    factors: [Words; DEPTH],
    /// Sums of half a block each.
    sums: [Halves; 2],
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Box::new(Scratch {
        of_strip: OfStrip::EMPTY,
        codes: [Codes([[[0; 64]; ROWS]; 4]); DEPTH],
        factors: [Words { high: [[0; 64]; ROWS], low: [[0; 64]; ROWS] }; DEPTH],
        sums: [Halves::ZERO; 2],
    }));
}

/// Bytes that a thread keeps behind so many columns.
pub fn kept(columns: usize) -> usize {
    size_of::<Scratch>() + strip::kept(columns)
}

/// Sums of records of one group a block; `out` is `[blocks][N][64]`.
///
/// # Safety
/// As [`Tiles::configure`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn sums(work: &Sums<Factors>, out: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: the caller's promise.
        let tiles = unsafe { Tiles::configure() };
        for (part, sums) in out.as_chunks_mut::<BLOCK>().0.chunks_mut(STRIP * work.factors.columns).enumerate() {
            let first = work.first + part * STRIP;
            match work.rows.level {
                Level::L4 => of_strip::<false>(&tiles, work, first, sums, scratch),
                _ => of_strip::<true>(&tiles, work, first, sums, scratch),
            }
        }
    });
}

/// Blocks `first..` of all records into `sums [blocks][N][64]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn of_strip<const MID: bool>(
    tiles: &Tiles,
    work: &Sums<Factors>,
    first: usize,
    sums: &mut [[f32; BLOCK]],
    scratch: &mut Scratch,
) {
    let mut coming = strip::coming(work.rows, first);
    scratch.of_strip.take(work, first, || {
        if first == work.first {
            coming.ask::<MID>(STRIP / 2);
        }
    });
    let mut coming = strip::coming(work.rows, first + STRIP);
    for (index, sums) in sums.chunks_exact_mut(work.factors.columns).enumerate() {
        pack::<MID>(work.rows, first + index, &mut scratch.codes);
        for (part, sums) in sums.chunks_mut(ROWS).enumerate() {
            put_factors::<MID>(work, index, part * ROWS, &mut coming, scratch);
            multiply(tiles, work.rows.records, scratch);
            add(index, part * ROWS, scratch, sums);
        }
    }
}

/// Packs the codes of a block of all records; records that there are not meet factors of 0.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn pack<const MID: bool>(rows: &Rows, block: usize, codes: &mut [Codes; DEPTH]) {
    for (deep, Codes(tiles)) in codes.iter_mut().enumerate().take(rows.records.div_ceil(DEEP)) {
        for d in 0..ROWS {
            let mut records = [_mm512_setzero_si512(); 4];
            for (j, record) in records.iter_mut().enumerate() {
                *record = in_quarters::<MID>(&record_codes::<MID>(rows, deep * DEEP + ROWS * j + d), block);
            }
            tiles.iter_mut().zip(by_four(records)).for_each(|(tile, codes)| store_bytes(&mut tile[d], codes));
        }
    }
}

/// The codes of a record's block in bytes: dword t of quarter l holds codes `16 * t + 4 * l` and following, so that
/// [`by_four`] leaves weights in order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn in_quarters<const MID: bool>(codes: &PlaneBytes, block: usize) -> __m512i {
    // Bits of the second operand where the first has ones, else of the third.
    const SELECT: i32 = 0xca;
    let nibble = _mm512_set1_epi8(0x0f);
    // Dwords 2 and 3 of a quarter are upper nibbles.
    let right = _mm512_set4_epi32(4, 4, 0, 0);
    if !MID {
        return _mm512_and_si512(_mm512_srlv_epi32(dwords(codes[0], block), right), nibble);
    }
    let left = _mm512_set4_epi32(0, 0, 4, 4);
    let (base, mid) =
        (_mm512_sllv_epi32(dwords(codes[0], block), left), _mm512_srlv_epi32(dwords(codes[1], block), right));
    _mm512_ternarylogic_epi32::<SELECT>(nibble, mid, base)
}

/// The dwords of a block in a plane, in that order, for lower nibbles and for upper ones.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn dwords(plane: &[u8], block: usize) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 0, 4, 1, 5, 1, 5, 2, 6, 2, 6, 3, 7, 3, 7);
    let bytes = bytes32(&plane.as_chunks::<{ BLOCK / 2 }>().0[block]);
    _mm512_permutexvar_epi32(order, _mm512_castsi256_si512(bytes))
}

/// Codes of four records side by side, a dword a weight.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn by_four([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let low = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let high = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(low.0, low.1),
        _mm512_unpackhi_epi16(low.0, low.1),
        _mm512_unpacklo_epi16(high.0, high.1),
        _mm512_unpackhi_epi16(high.0, high.1),
    ]
}

/// The factors of columns `first..` for group `index`; those of other columns stay in the rows that these leave.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn put_factors<const MID: bool>(
    work: &Sums<Factors>,
    index: usize,
    first: usize,
    coming: &mut Coming,
    scratch: &mut Scratch,
) {
    let Scratch { of_strip, factors, .. } = scratch;
    let columns = work.factors.columns;
    for n in first..columns.min(first + ROWS) {
        if n < STRIP {
            (0..STRIP.div_ceil(columns)).for_each(|_| coming.ask::<MID>(STRIP / 2));
        }
        put_column(
            work.factors.column(n),
            &of_strip.by_group[index],
            of_strip.terms[n].share[index],
            n - first,
            factors,
        );
    }
}

/// The factors of one column and group, in row `row` of the tiles.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn put_column(numbers: &[f32; CHUNK], widths: &[f32; CHUNK], share: f32, row: usize, factors: &mut [Words; DEPTH]) {
    let share = _mm512_set1_ps(share);
    let numbers = numbers.as_chunks().0.as_chunks::<4>().0;
    let widths = widths.as_chunks().0.as_chunks::<4>().0;
    for ((numbers, widths), Words { high, low }) in numbers.iter().zip(widths).zip(factors) {
        let mut words = [_mm512_setzero_si512(); 4];
        for ((word, numbers), widths) in words.iter_mut().zip(numbers).zip(widths) {
            let product = _mm512_mul_ps(floats(numbers), floats(widths));
            *word = _mm512_cvtps_epi32(_mm512_mul_ps(product, share));
        }
        let (low_bytes, high_bytes) = in_bytes(words);
        store_bytes(&mut low[row], low_bytes);
        store_bytes(bytemuck::cast_mut(&mut high[row]), high_bytes);
    }
}

/// The lowest bytes of four words, and the next: of what is no number, whose lower bits are 0, both are.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn in_bytes([a, b, c, d]: [__m512i; 4]) -> (__m512i, __m512i) {
    // Bits of the second operand where the first has ones, else of the third.
    const SELECT: i32 = 0xca;
    let (first, third, two) = (_mm512_set1_epi32(0xff), _mm512_set1_epi32(0xff_0000), _mm512_set1_epi32(0xffff));
    let (ab, cd) = (
        _mm512_ternarylogic_epi32::<SELECT>(first, a, _mm512_slli_epi32::<8>(b)),
        _mm512_ternarylogic_epi32::<SELECT>(third, _mm512_slli_epi32::<16>(c), _mm512_slli_epi32::<24>(d)),
    );
    let low = _mm512_ternarylogic_epi32::<SELECT>(two, ab, cd);
    let (ab, cd) = (
        _mm512_ternarylogic_epi32::<SELECT>(first, _mm512_srli_epi32::<8>(a), b),
        _mm512_ternarylogic_epi32::<SELECT>(third, _mm512_slli_epi32::<8>(c), _mm512_slli_epi32::<16>(d)),
    );
    (low, _mm512_ternarylogic_epi32::<SELECT>(two, ab, cd))
}

/// Both halves of a block.
#[inline]
fn multiply(tiles: &Tiles, records: usize, scratch: &mut Scratch) {
    // Without records factors of 0 meet whatever there is.
    let depth = records.div_ceil(DEEP).max(1);
    for (half, sums) in scratch.sums.iter_mut().enumerate() {
        tiles.sums(&scratch.factors[..depth], &scratch.codes[..depth], half, sums);
    }
}

/// Adds what a group gives to the sums of columns `first..`.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add(index: usize, first: usize, scratch: &Scratch, sums: &mut [[f32; BLOCK]]) {
    let [first_half, second_half] = &scratch.sums;
    for (n, sums) in sums.iter_mut().enumerate().take(ROWS) {
        let dots = [dot(first_half, 0, n), dot(first_half, 1, n), dot(second_half, 0, n), dot(second_half, 1, n)];
        scratch.of_strip.terms[first + n].add(index, &dots, sums);
    }
}

/// Sums of factors and codes, of column `n` and sixteen weights.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn dot(Halves { high, low }: &Halves, tile: usize, n: usize) -> __m512i {
    _mm512_add_epi32(_mm512_slli_epi32::<8>(ints(&high[tile].0[n])), ints(&low[tile].0[n]))
}
