//! Codes in bytes, and rearranged for products: a lane a record (dots of many columns), a lane a weight (accumulations).

use super::load::{bytes, bytes32, floats};
use super::scales::whole;
use crate::kernels::lanes::LANES;
use crate::quant::Record;
use crate::types::BLOCK;
use std::arch::x86_64::*;

/// Bytes of a nibble plane that a block takes.
const BYTES: usize = BLOCK / 2;

/// Records of a register: one a lane.
pub const RECORDS: usize = 16;

/// A record's bytes in the nibble planes, base and mid.
pub type PlaneBytes<'a> = [&'a [u8]; 2];

/// Registers of two blocks: `[half of every eight][which of four]`.
pub type Pair = [[__m512i; 4]; 2];

/// Block `block` of sixteen records: quad k holds, in lane r, codes 4 k.. of record r.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn by_record<const MID: bool>(records: &[Record; RECORDS], block: usize) -> [__m512i; BLOCK / 4] {
    let base = transposed(records, 0, block);
    let mid = if MID { transposed(records, 1, block) } else { base };
    let mut quads = [_mm512_setzero_si512(); BLOCK / 4];
    for i in 0..BLOCK / 8 {
        [quads[i], quads[BLOCK / 8 + i]] = joined::<MID>(base[i], mid[i]);
    }
    quads
}

/// Bytes 4 i.. of a block in a plane, of sixteen records, in register i.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn transposed(records: &[Record; RECORDS], plane: usize, block: usize) -> [__m512i; 8] {
    let part = |r: usize| bytes32(&records[r].codes[plane].as_chunks::<BYTES>().0[block]);
    let mut rows = [_mm512_setzero_si512(); 8];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(part(r)), part(r + 8));
    }
    let mut fours = [[_mm512_setzero_si512(); 4]; 2];
    for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (a, b) = (_mm512_unpacklo_epi32(rows[0], rows[1]), _mm512_unpackhi_epi32(rows[0], rows[1]));
        let (c, d) = (_mm512_unpacklo_epi32(rows[2], rows[3]), _mm512_unpackhi_epi32(rows[2], rows[3]));
        *four = [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ];
    }
    // Quarters of fours[0]: records 0..4 for i, 0..4 for 4 + i, 8..12 for i, 8..12 for 4 + i; fours[1] holds the others.
    let even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    let mut all = [_mm512_setzero_si512(); 8];
    for i in 0..4 {
        all[i] = _mm512_permutex2var_epi64(fours[0][i], even, fours[1][i]);
        all[4 + i] = _mm512_permutex2var_epi64(fours[0][i], odd, fours[1][i]);
    }
    all
}

/// Blocks `block` and `block + 1` of two records, their codes side by side as words: `[half of every eight][which of
/// four]`. Quarters 0 and 1 of a register belong to the first block, 2 and 3 to the second; [`of_blocks`] parts them.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn by_weight<const MID: bool>(pair: &[PlaneBytes; 2], block: usize) -> Pair {
    let codes = |codes: &PlaneBytes| {
        let (mut spare, at) = ([None; 2], block * BYTES);
        let [spare_base, spare_mid] = &mut spare;
        let base = bytes(whole(&codes[0][at..], spare_base));
        joined::<MID>(base, if MID { bytes(whole(&codes[1][at..], spare_mid)) } else { base })
    };
    let (a, b) = (codes(&pair[0]), codes(&pair[1]));
    let low = [_mm512_unpacklo_epi16(a[0], b[0]), _mm512_unpacklo_epi16(a[1], b[1])];
    let high = [_mm512_unpackhi_epi16(a[0], b[0]), _mm512_unpackhi_epi16(a[1], b[1])];
    [words(low), words(high)]
}

/// Codes in bytes from bytes of the nibble planes: those of the lower halves of blocks and those of the upper.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn joined<const MID: bool>(base: __m512i, mid: __m512i) -> [__m512i; 2] {
    // Bits of the first operand where the mask has ones, else of the second.
    const SELECT: i32 = 0xca;
    let nibble = _mm512_set1_epi8(0x0f);
    if MID {
        let low = _mm512_ternarylogic_epi32::<SELECT>(nibble, mid, _mm512_slli_epi16::<4>(base));
        let high = _mm512_ternarylogic_epi32::<SELECT>(nibble, _mm512_srli_epi16::<4>(mid), base);
        [low, high]
    } else {
        [_mm512_and_si512(base, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(base), nibble)]
    }
}

/// Even and odd bytes of two registers as words: even and odd of the first, even and odd of the second.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn words([low, high]: [__m512i; 2]) -> [__m512i; 4] {
    let byte = _mm512_set1_epi16(0xff);
    let (even, odd) = (|x| _mm512_and_si512(x, byte), |x| _mm512_srli_epi16::<8>(x));
    [even(low), odd(low), even(high), odd(high)]
}

/// Column i of sixteen rows in register i.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn by_column(rows: &[[f32; LANES]; LANES]) -> [__m512; LANES] {
    let mut fours = [[_mm512_setzero_pd(); 4]; 4];
    for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (a, b, c, d) = (floats(&rows[0]), floats(&rows[1]), floats(&rows[2]), floats(&rows[3]));
        let (ab, cd) = (_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d)));
        let (ab_high, cd_high) =
            (_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d)));
        *four = [
            _mm512_unpacklo_pd(ab, cd),
            _mm512_unpackhi_pd(ab, cd),
            _mm512_unpacklo_pd(ab_high, cd_high),
            _mm512_unpackhi_pd(ab_high, cd_high),
        ];
    }
    // Quarter q of fours[f][i]: column 4 q + i of rows 4 f.. .
    let mut columns = [_mm512_setzero_ps(); LANES];
    for i in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|f| _mm512_castpd_ps(fours[f][i]));
        let (ab, cd) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
        let (ab_high, cd_high) = (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
        columns[i] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
        columns[4 + i] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
        columns[8 + i] = _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high);
        columns[12 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high);
    }
    columns
}

/// Registers of two blocks, or their sums, as registers of one block each.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn of_blocks(all: &Pair) -> [[__m512i; 4]; 2] {
    let mut blocks = *all;
    for i in 0..4 {
        blocks[0][i] = _mm512_shuffle_i64x2::<0x44>(all[0][i], all[1][i]);
        blocks[1][i] = _mm512_shuffle_i64x2::<0xee>(all[0][i], all[1][i]);
    }
    blocks
}

/// Sums in one block's registers as 64 weights in order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn in_order(sums: &[__m512i; 4]) -> [__m512i; 4] {
    // Quarters of a register: weights 0.., 16.., 8.., 24.. of the half, two apart.
    let first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    let mut ordered = [_mm512_setzero_si512(); 4];
    for half in [0, 1] {
        let (even, odd) = (sums[2 * half], sums[2 * half + 1]);
        let (low, high) = (_mm512_unpacklo_epi32(even, odd), _mm512_unpackhi_epi32(even, odd));
        ordered[2 * half] = _mm512_permutex2var_epi64(low, first, high);
        ordered[2 * half + 1] = _mm512_permutex2var_epi64(low, second, high);
    }
    ordered
}
