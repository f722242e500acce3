//! Int8 dots of one column with AVX-512 VNNI: sixteen groups of a record at a time, the exact dot of each in its own
//! lane, so that scaling and summing are two vector expressions in the order `project` states.

use super::ahead;
use super::load::{bytes, floats, signed, store, store_words, words};
use super::pack::joined;
use super::scales::{cells, whole};
use crate::kernels::columns::{Int8Columns, STRIP, Strip};
use crate::kernels::groups::{Groups, StripDots, kept};
use crate::kernels::lanes::{LANES, fold16};
use crate::kernels::work::{Job, record_by_record};
use crate::quant::{Record, Rows};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;

/// Bytes of a nibble plane that a strip takes.
const BYTES: usize = STRIP * BLOCK / 2;

/// Dots of records of one group a block with the only column.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn dots(jobs: &mut [Job<Int8Columns>]) {
    record_by_record(jobs, |work, r, out| {
        let (rows, x) = (work.rows, &work.x.strips);
        *out = match (&mut work.groups, rows.level) {
            (Groups::Passing, Level::L4) => dot::<true, false>(rows, r, x, |_, dots| dots),
            (Groups::Passing, _) => dot::<true, true>(rows, r, x, |_, dots| dots),
            (Groups::Kept(of_task), _) => {
                let kept = kept(of_task, r - work.first, x.len());
                dot::<true, false>(rows, r, x, |strip, dots| {
                    put(&mut kept[strip], dots);
                    dots
                })
            }
            (Groups::Known(known), _) => {
                ahead::known(known, r);
                let known = known.record(r);
                let base = |strip: usize| _mm512_slli_epi32::<4>(get(&known[strip]));
                dot::<false, true>(rows, r, x, |strip, dots| _mm512_add_epi32(base(strip), dots))
            }
        };
    });
}

/// The dot of record `r` from its codes in some planes; `groups` makes exact dots of a strip's groups of what those give.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot<const BASE: bool, const MID: bool>(
    rows: &Rows,
    r: usize,
    x: &[Strip],
    mut whole: impl FnMut(usize, __m512i) -> __m512i,
) -> f32 {
    let (record, next) = (rows.record(r), ahead::records(rows, r, ahead::ONE_COLUMN));
    let mut lanes = _mm512_setzero_ps();
    for (strip, x) in x.iter().enumerate() {
        ahead::strip::<BASE, MID>(rows, &record, strip * STRIP, next);
        let cells = cells(&rows.coding, rows.level, record.scales, strip * STRIP);
        let dots = _mm512_cvtepi32_ps(whole(strip, groups(&codes::<BASE, MID>(&record, strip), &x.codes)));
        lanes = _mm512_fmadd_ps(cells.width, _mm512_mul_ps(dots, floats(&x.scales)), lanes);
        lanes = _mm512_fmadd_ps(cells.origin, floats(&x.sums), lanes);
    }
    let mut out = [0.0; LANES];
    store(&mut out, lanes);
    fold16(out)
}

/// Keeps the dots of a strip.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn put(kept: &mut StripDots, dots: __m512i) {
    store_words(&mut kept.low, _mm512_cvtepi32_epi16(dots));
    for (bit, high) in kept.high.iter_mut().enumerate() {
        *high = _mm512_test_epi32_mask(dots, _mm512_set1_epi32(1 << (16 + bit))).to_le_bytes();
    }
}

/// Kept dots of a strip.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn get(kept: &StripDots) -> __m512i {
    let [plus, minus] = kept.high.map(u16::from_le_bytes);
    let low = _mm512_cvtepu16_epi32(words(&kept.low));
    let low = _mm512_mask_add_epi32(low, plus, low, _mm512_set1_epi32(1 << 16));
    _mm512_mask_sub_epi32(low, minus, low, _mm512_set1_epi32(1 << 17))
}

/// The codes of a strip in the planes base and mid, or in one of them, laid out as [`Strip::codes`], zeros behind the
/// record's end.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn codes<const BASE: bool, const MID: bool>(record: &Record, strip: usize) -> [__m512i; STRIP] {
    let mut codes = [_mm512_setzero_si512(); STRIP];
    let mut spare = [None; 2];
    let [spare_first, spare_mid] = &mut spare;
    let first = whole::<BYTES>(&record.codes[usize::from(!BASE)][strip * BYTES..], spare_first).as_chunks().0;
    let joins = BASE && MID;
    let mid = if joins { whole::<BYTES>(&record.codes[1][strip * BYTES..], spare_mid) } else { &[0; BYTES] };
    for (pair, mid) in mid.as_chunks().0.iter().enumerate() {
        let (first, mid) = (bytes(&first[pair]), bytes(mid));
        [codes[2 * pair], codes[2 * pair + 1]] =
            if joins { joined::<true>(first, mid) } else { joined::<false>(first, mid) };
    }
    codes
}

/// Sixteen exact dots of 64 codes with 64 activations, in block order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn groups(codes: &[__m512i; STRIP], x: &[[i8; BLOCK]; STRIP]) -> __m512i {
    let mut pairs = [_mm512_setzero_si512(); STRIP / 2];
    for (p, pair) in pairs.iter_mut().enumerate() {
        let low = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[2 * p], signed(&x[2 * p]));
        *pair = _mm512_dpbusd_epi32(low, codes[2 * p + 1], signed(&x[2 * p + 1]));
    }
    gather(&pairs)
}

/// Sums of eight lanes each, lower and upper halves of eight registers, as sixteen lanes in order.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn gather(pairs: &[__m512i; 8]) -> __m512i {
    let two = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let four = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let low = four(two(pairs[0], pairs[1]), two(pairs[2], pairs[3]));
    let high = four(two(pairs[4], pairs[5]), two(pairs[6], pairs[7]));
    // Quarters of `low`: blocks 0 2 4 6 twice, then 1 3 5 7 twice; of `high` the next eight.
    let even_quarters = _mm512_shuffle_i32x4::<0x88>(low, high);
    let odd_quarters = _mm512_shuffle_i32x4::<0xdd>(low, high);
    let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    _mm512_permutexvar_epi32(order, _mm512_add_epi32(even_quarters, odd_quarters))
}
