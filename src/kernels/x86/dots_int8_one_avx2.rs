//! Int8 dots of one column with AVX2: as `dots_int8_one`, eight groups of a record at a time. Nibble planes are multiplied
//! apart: products of whole byte codes would saturate the 16 bits that `maddubs` sums pairs in, those of nibbles (at most
//! 4 * 15 * 127) fit.

use super::ahead;
use super::load::{bytes32, floats8, signed32, store_words8, store8, words8};
use super::scales::cells8;
use crate::kernels::columns::{Int8Columns, STRIP, Strip};
use crate::kernels::groups::{Groups, StripDots, kept};
use crate::kernels::lanes::{LANES, fold16};
use crate::kernels::work::{Job, record_by_record};
use crate::quant::{Record, Rows};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Groups at a time: half a strip.
const GROUPS: usize = STRIP / PARTS;

/// Parts of a strip.
const PARTS: usize = 2;

/// Dots of records of one group a block with the only column.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn dots(jobs: &mut [Job<Int8Columns>]) {
    record_by_record(jobs, |work, r, out| {
        let (rows, x) = (work.rows, &work.x.strips);
        *out = match (&mut work.groups, rows.level) {
            (Groups::Passing, Level::L4) => dot::<true, false>(rows, r, x, |_, dots| dots),
            (Groups::Passing, _) => dot::<true, true>(rows, r, x, |_, dots| dots),
            (Groups::Kept(of_task), _) => {
                let kept = kept(of_task, r - work.first, x.len());
                dot::<true, false>(rows, r, x, |part, dots| {
                    put(&mut kept[part / PARTS], part % PARTS, dots);
                    dots
                })
            }
            (Groups::Known(known), _) => {
                ahead::known(known, r);
                let known = known.record(r);
                let base = |part: usize| get(&known[part / PARTS], part % PARTS);
                dot::<false, true>(rows, r, x, |part, dots| _mm256_add_epi32(_mm256_slli_epi32::<4>(base(part)), dots))
            }
        };
    });
}

/// The dot of record `r` from its codes in some planes; `whole` makes exact dots of half a strip's groups of what those
/// give.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<const BASE: bool, const MID: bool>(
    rows: &Rows,
    r: usize,
    x: &[Strip],
    mut whole: impl FnMut(usize, __m256i) -> __m256i,
) -> f32 {
    let (record, next) = (rows.record(r), ahead::records(rows, r, ahead::ONE_COLUMN));
    let mut lanes = [0.0; LANES];
    for first in (0..rows.blocks()).step_by(GROUPS) {
        let (strip, part) = (first / STRIP, first % STRIP / GROUPS);
        if part == 0 {
            ahead::strip::<BASE, MID>(rows, &record, first, next);
        }
        let (x, cells) = (&x[strip], cells8(&rows.coding, rows.level, record.scales, first));
        let (sums, scales) = (&x.sums.as_chunks().0[part], &x.scales.as_chunks().0[part]);
        let dots = whole(first / GROUPS, groups::<BASE, MID>(&record, first, &x.codes));
        let dots = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), floats8(scales));
        let lanes = &mut lanes.as_chunks_mut().0[part];
        let sum = _mm256_fmadd_ps(cells.width, dots, floats8(lanes));
        store8(lanes, _mm256_fmadd_ps(cells.origin, floats8(sums), sum));
    }
    fold16(lanes)
}

/// Keeps the dots of half a strip.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put(kept: &mut StripDots, half: usize, dots: __m256i) {
    let low = _mm256_and_si256(dots, _mm256_set1_epi32(0xffff));
    // Packing goes by halves of the register.
    let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(low, low));
    store_words8(&mut kept.low.as_chunks_mut().0[half], _mm256_castsi256_si128(packed));
    let sign = |dots| _mm256_movemask_ps(_mm256_castsi256_ps(dots)) as u8;
    kept.high[0][half] = sign(_mm256_slli_epi32::<15>(dots));
    kept.high[1][half] = sign(_mm256_slli_epi32::<14>(dots));
}

/// Kept dots of half a strip.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn get(kept: &StripDots, half: usize) -> __m256i {
    let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let where_set = |mask: u8| {
        let of_lanes = _mm256_and_si256(_mm256_set1_epi32(i32::from(mask)), bits);
        _mm256_cmpeq_epi32(of_lanes, bits)
    };
    // Lanes of ones are -1.
    let [plus, minus] = kept.high.map(|high| where_set(high[half]));
    let low = _mm256_cvtepu16_epi32(words8(&kept.low.as_chunks().0[half]));
    let low = _mm256_sub_epi32(low, _mm256_slli_epi32::<16>(plus));
    _mm256_add_epi32(low, _mm256_slli_epi32::<17>(minus))
}

/// Exact dots of blocks `first..first + 8`, in the planes base and mid or in one of them, with their activations in a
/// strip, zeros behind the record's last block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn groups<const BASE: bool, const MID: bool>(record: &Record, first: usize, x: &[[i8; BLOCK]; STRIP]) -> __m256i {
    let one = &record.codes[usize::from(!BASE)].as_chunks().0[first..];
    let mid = if BASE && MID { &record.codes[1].as_chunks().0[first..] } else { &[] };
    let mut dots = [_mm256_setzero_si256(); GROUPS];
    for (i, (dot, one)) in dots.iter_mut().zip(one).enumerate() {
        let pair = first % STRIP / 2 + i / 2;
        let low = signed32(&x[2 * pair].as_chunks().0[i % 2]);
        let high = signed32(&x[2 * pair + 1].as_chunks().0[i % 2]);
        *dot = if BASE && MID {
            let (base, mid) = (nibble_dots(one, low, high), nibble_dots(&mid[i], low, high));
            let base = _mm256_madd_epi16(base, _mm256_set1_epi16(16));
            _mm256_add_epi32(base, _mm256_madd_epi16(mid, _mm256_set1_epi16(1)))
        } else {
            _mm256_madd_epi16(nibble_dots(one, low, high), _mm256_set1_epi16(1))
        };
    }
    gather(&dots)
}

/// Sums of four products each of a plane's nibbles with activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibble_dots(plane: &[u8; 32], low: __m256i, high: __m256i) -> __m256i {
    let (plane, nibble) = (bytes32(plane), _mm256_set1_epi8(0x0f));
    let lower = _mm256_maddubs_epi16(_mm256_and_si256(plane, nibble), low);
    let upper = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(plane), nibble), high);
    _mm256_add_epi16(lower, upper)
}

/// Sums of eight registers' lanes, in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gather(all: &[__m256i; GROUPS]) -> __m256i {
    let two = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let four = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let low = four(two(all[0], all[1]), two(all[2], all[3]));
    let high = four(two(all[4], all[5]), two(all[6], all[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}
