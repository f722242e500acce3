//! Codes rearranged as in `pack`, with AVX2.

use super::load::bytes32;
use super::pack::PlaneBytes;
use crate::quant::Record;
use crate::types::BLOCK;
use std::arch::x86_64::*;

/// Bytes of a nibble plane that a block takes.
const BYTES: usize = BLOCK / 2;

/// Records of a register: one a lane.
pub const RECORDS: usize = 8;

/// Registers of half a block; [`in_order`] says which weights they hold.
pub type Half = [__m256i; 4];

/// Bytes 4 i.. of a block in a plane, of eight records, in register i.
#[inline]
#[target_feature(enable = "avx2")]
pub fn transposed(records: &[Record; RECORDS], plane: usize, block: usize) -> [__m256i; RECORDS] {
    let mut rows = [_mm256_setzero_si256(); RECORDS];
    for (row, record) in rows.iter_mut().zip(records) {
        *row = bytes32(&record.codes[plane].as_chunks::<BYTES>().0[block]);
    }
    let mut fours = [[_mm256_setzero_si256(); 4]; 2];
    for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (a, b) = (_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[0], rows[1]));
        let (c, d) = (_mm256_unpacklo_epi32(rows[2], rows[3]), _mm256_unpackhi_epi32(rows[2], rows[3]));
        *four = [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ];
    }
    let mut all = [_mm256_setzero_si256(); RECORDS];
    for i in 0..4 {
        all[i] = _mm256_permute2x128_si256::<0x20>(fours[0][i], fours[1][i]);
        all[4 + i] = _mm256_permute2x128_si256::<0x31>(fours[0][i], fours[1][i]);
    }
    all
}

/// Block `block` of two records, their codes side by side as words, by halves of the block.
#[inline]
#[target_feature(enable = "avx2")]
pub fn by_weight<const MID: bool>(pair: &[PlaneBytes; 2], block: usize) -> [Half; 2] {
    let base = interleaved(pair, 0, block);
    let mid = if MID { interleaved(pair, 1, block) } else { base };
    let (low, high) = (joined::<MID>(base[0], mid[0]), joined::<MID>(base[1], mid[1]));
    [words(low[0], high[0]), words(low[1], high[1])]
}

/// A block's bytes in a plane of two records, by twos: the lower and the upper half of every sixteen.
#[inline]
#[target_feature(enable = "avx2")]
fn interleaved(pair: &[PlaneBytes; 2], plane: usize, block: usize) -> [__m256i; 2] {
    let a = bytes32(&pair[0][plane].as_chunks::<BYTES>().0[block]);
    let b = bytes32(&pair[1][plane].as_chunks::<BYTES>().0[block]);
    [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)]
}

/// Codes in bytes from bytes of the nibble planes: those of the lower half of the block and those of the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn joined<const MID: bool>(base: __m256i, mid: __m256i) -> [__m256i; 2] {
    let nibble = _mm256_set1_epi8(0x0f);
    let lower = |x| _mm256_and_si256(x, nibble);
    if !MID {
        return [lower(base), lower(_mm256_srli_epi16::<4>(base))];
    }
    let upper = |x| _mm256_andnot_si256(nibble, x);
    let low = _mm256_or_si256(upper(_mm256_slli_epi16::<4>(base)), lower(mid));
    [low, _mm256_or_si256(upper(base), lower(_mm256_srli_epi16::<4>(mid)))]
}

/// Even and odd bytes of two registers as words: even and odd of the first, even and odd of the second.
#[inline]
#[target_feature(enable = "avx2")]
fn words(low: __m256i, high: __m256i) -> Half {
    let byte = _mm256_set1_epi16(0xff);
    let (even, odd) = (|x| _mm256_and_si256(x, byte), |x| _mm256_srli_epi16::<8>(x));
    [even(low), odd(low), even(high), odd(high)]
}

/// Sums of half a block as 32 weights in order.
#[inline]
#[target_feature(enable = "avx2")]
pub fn in_order([low_even, low_odd, high_even, high_odd]: &Half) -> Half {
    // Halves of a register: weights 0.. and 16.. of the half block, two apart; of the upper ones 8.. and 24...
    let (a, b) = (_mm256_unpacklo_epi32(*low_even, *low_odd), _mm256_unpackhi_epi32(*low_even, *low_odd));
    let (c, d) = (_mm256_unpacklo_epi32(*high_even, *high_odd), _mm256_unpackhi_epi32(*high_even, *high_odd));
    [
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x20>(c, d),
        _mm256_permute2x128_si256::<0x31>(a, b),
        _mm256_permute2x128_si256::<0x31>(c, d),
    ]
}
