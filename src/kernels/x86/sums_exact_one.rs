//! Exact sums of one column with AVX-512 VNNI: a lane a weight, four records a lane. A factor's two bytes are multiplied
//! apart, each with four codes an instruction, and joined at the end.

use super::ahead::{self, Coming, LINE};
use super::load::{Pieces, bytes, floats, ints, store, store_ints};
use super::pack::{Pair, joined};
use super::scales::{cells, whole};
use super::terms::{Making, Terms};
use crate::kernels::columns::STRIP;
use crate::kernels::factors::Factors;
use crate::kernels::lanes::LANES;
use crate::kernels::work::Sums;
use crate::quant::Rows;
use crate::types::{BLOCK, CHUNK, Level};
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Strips whose codes are read together: records of 64 blocks from end to end, since what is read in short pieces, a
/// record apart, comes at half the memory's rate.
pub const STRIPS: usize = 4;

/// Records of a lane.
const FOUR: usize = 4;

/// Records that share a visit to the sums, and are asked for while those in front of them are computed: 32 KB of codes
/// at d = 4096, in one plane or in two. Twice as much does not stay in the first cache.
const fn at_once(mid: bool) -> usize {
    if mid { VISIT / 2 } else { VISIT }
}

/// Records of a visit at most.
const VISIT: usize = 16;

/// Records between scales that are asked for and those that are read, a quarter of them where they are few.
const AHEAD: usize = 32;

/// Factors of four records for the groups of a strip: a lane a group, upper and lower bytes.
type Four = [[i32; LANES]; 2];

/// Sums of two blocks: of upper and of lower bytes.
type Two = [[[i32; LANES]; 8]; 2];

/// What a thread keeps between tasks. Lines of the cache, since a register that straddles two costs twice.
#[repr(C, align(64))]
struct Scratch {
    /// The column's numbers times the cells of a strip's groups, by record.
    products: [[[f32; LANES]; CHUNK]; STRIPS],
    factors: [[Four; STRIPS]; CHUNK / FOUR],
    sums: [Two; STRIPS * STRIP / 2],
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Box::new(Scratch {
        products: [[[0.0; LANES]; CHUNK]; STRIPS],
        factors: [[[[0; LANES]; 2]; STRIPS]; CHUNK / FOUR],
        sums: [[[[0; LANES]; 8]; 2]; STRIPS * STRIP / 2],
    }));
}

/// Bytes that a thread keeps.
pub const KEPT: usize = size_of::<Scratch>();

/// Sums of records of one group a block with one column; `out` is `[blocks][64]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn sums(work: &Sums<Factors>, out: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        for (part, sums) in out.as_chunks_mut::<BLOCK>().0.chunks_mut(STRIPS * STRIP).enumerate() {
            let first = work.first + part * STRIPS * STRIP;
            match work.rows.level {
                Level::L4 => blocks::<false>(work, first, sums, scratch),
                _ => blocks::<true>(work, first, sums, scratch),
            }
        }
    });
}

/// Blocks `first..` of all records into their sums.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn blocks<const MID: bool>(work: &Sums<Factors>, first: usize, sums: &mut [[f32; BLOCK]], scratch: &mut Scratch) {
    let twos = sums.len().div_ceil(2);
    let mut coming = Coming::new(work.rows, 0, first * BLOCK / 2, [twos; 2]);
    let terms = read_products::<MID>(work, first, twos, &mut coming, scratch);
    for (strip, terms) in terms.iter().enumerate().take(sums.len().div_ceil(STRIP)) {
        put_factors(&scratch.products[strip][..work.rows.records], strip, terms, &mut scratch.factors);
    }
    let dots = &mut scratch.sums[..twos];
    dots.fill([[[0; LANES]; 8]; 2]);
    for visit in (0..work.rows.records).step_by(at_once(MID)) {
        add_visit::<MID>(work.rows, first, visit, &scratch.factors, &mut coming, dots);
    }
    for (two, (sums, dots)) in sums.chunks_mut(2).zip(dots).enumerate() {
        for (i, (sums, dots)) in sums.iter_mut().zip(in_order(dots)).enumerate() {
            terms[2 * two / STRIP].add((2 * two + i) % STRIP, &dots, sums);
        }
    }
}

/// Reads the cells of all records and multiplies them by the column's numbers.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn read_products<const MID: bool>(
    work: &Sums<Factors>,
    first: usize,
    twos: usize,
    coming: &mut Coming,
    scratch: &mut Scratch,
) -> [Terms<LANES>; STRIPS] {
    let (rows, strips) = (work.rows, twos.div_ceil(STRIP / 2));
    let of_visit = (twos * at_once(MID)).div_ceil(rows.records.max(at_once(MID)));
    let ahead = AHEAD.min(rows.records / 4);
    let mut making = [Making::new(); STRIPS];
    for (r, h) in work.factors.column(0)[..rows.records].iter().enumerate() {
        let (scales, far) = (rows.scales(r), ahead::records(rows, r, ahead));
        // And the codes of the first visit.
        (0..of_visit.div_ceil(FOUR)).for_each(|_| coming.ask::<MID>(FOUR.min(of_visit)));
        for (strip, products) in scratch.products.iter_mut().enumerate().take(strips) {
            let first = first + strip * STRIP;
            ahead::scales(rows, scales, first, far);
            let cells = cells(&rows.coding, rows.level, scales, first);
            store(&mut products[r], making[strip].take(*h, &cells));
        }
    }
    let mut terms = [Terms::NONE; STRIPS];
    terms.iter_mut().zip(making).for_each(|(terms, making)| *terms = making.terms());
    terms
}

/// The factors of one strip, four records at a time, from the products with its cells; zeros behind the last record.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn put_factors(products: &[[f32; LANES]], strip: usize, terms: &Terms<LANES>, factors: &mut [[Four; STRIPS]]) {
    let share = floats(&terms.share);
    for (factors, products) in factors.iter_mut().zip(products.chunks(FOUR)) {
        let mut four = [_mm512_setzero_si512(); FOUR];
        for (factor, product) in four.iter_mut().zip(products) {
            // What is no number becomes i32::MIN, whose lower word is the 0 it stands for.
            *factor = _mm512_cvtps_epi32(_mm512_mul_ps(floats(product), share));
        }
        let [upper, lower] = &mut factors[strip];
        store_ints(lower, lower_bytes(&four));
        // factor = 256 * upper + lower, both signed.
        let carried = four.map(|factor| _mm512_srli_epi32::<8>(_mm512_add_epi32(factor, _mm512_set1_epi32(128))));
        store_ints(upper, lower_bytes(&carried));
    }
}

/// The lowest byte of each lane of four registers, side by side.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn lower_bytes(four: &[__m512i; FOUR]) -> __m512i {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let first = _mm512_mask_blend_epi8(ODD, four[0], _mm512_slli_epi32::<8>(four[1]));
    let second = _mm512_mask_blend_epi8(ODD, four[2], _mm512_slli_epi32::<8>(four[3]));
    _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(second))
}

/// Records `visit..`, at most [`at_once`], into the sums of the pairs of blocks from `first` on.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_visit<const MID: bool>(
    rows: &Rows,
    first: usize,
    visit: usize,
    factors: &[[Four; STRIPS]],
    coming: &mut Coming,
    sums: &mut [Two],
) {
    let fours = at_once(MID).min(rows.records - visit).div_ceil(FOUR);
    let factors = &factors[visit / FOUR..][..fours];
    let base = Codes::new(rows, 0, first, visit, sums.len());
    let codes = [base, if MID { Codes::new(rows, 1, first, visit, sums.len()) } else { base }];
    // Lanes 0 to 7 belong to the first block, 8 to 15 to the second.
    let first_two = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for (two, sums) in sums.iter_mut().enumerate() {
        let strip = 2 * two / STRIP;
        let of_lanes = _mm512_add_epi32(first_two, _mm512_set1_epi32((2 * two % STRIP) as i32));
        let [mut upper, mut lower] = [load(&sums[0]), load(&sums[1])];
        for (four, factors) in factors.iter().enumerate() {
            coming.ask::<MID>(FOUR);
            let by_upper = _mm512_permutexvar_epi32(of_lanes, ints(&factors[strip][0]));
            let by_lower = _mm512_permutexvar_epi32(of_lanes, ints(&factors[strip][1]));
            for (i, codes) in by_weight::<MID>(&codes, four, two).as_flattened().iter().enumerate() {
                upper[i] = _mm512_dpbusd_epi32(upper[i], *codes, by_upper);
                lower[i] = _mm512_dpbusd_epi32(lower[i], *codes, by_lower);
            }
        }
        keep(&mut sums[0], &upper);
        keep(&mut sums[1], &lower);
    }
}

/// Pairs of blocks of a visit's records in a plane.
#[derive(Clone, Copy)]
enum Codes<'a> {
    Whole(Pieces<'a, VISIT>),
    /// A record's last line may end behind the bytes.
    Torn(&'a [u8], [usize; VISIT]),
}

impl<'a> Codes<'a> {
    /// Of the records `visit..`; behind the last of them it is read again, and meets factors of 0.
    #[inline(always)]
    fn new(rows: &Rows<'a>, plane: usize, first: usize, visit: usize, twos: usize) -> Codes<'a> {
        let view = &rows.planes[plane];
        let mut begins = [0; VISIT];
        for (r, begin) in begins.iter_mut().enumerate() {
            *begin = view.begin((visit + r).min(rows.records - 1)) + first * BLOCK / 2;
        }
        match Pieces::new(view.bytes(), begins, twos * LINE) {
            Some(pieces) => Codes::Whole(pieces),
            None => Codes::Torn(view.bytes(), begins),
        }
    }

    /// Line `two` of four records.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    fn lines(&self, four: usize, two: usize) -> [__m512i; FOUR] {
        match self {
            Codes::Whole(pieces) => pieces.four(four, two * LINE),
            Codes::Torn(from, begins) => torn(from, &begins[FOUR * four..], two * LINE),
        }
    }
}

/// The line at byte `at` of four records; zeros for what is not there.
#[cold]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn torn(from: &[u8], begins: &[usize], at: usize) -> [__m512i; FOUR] {
    let mut lines = [_mm512_setzero_si512(); FOUR];
    for (line, begin) in lines.iter_mut().zip(begins) {
        let mut spare = None;
        *line = bytes(whole(from.get(begin + at..).unwrap_or_default(), &mut spare));
    }
    lines
}

/// Two blocks of four records, the codes of a weight side by side: `[half][which of four]`. Quarters 0 and 1 of a register
/// belong to the first block, 2 and 3 to the second; [`in_order`] parts them.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn by_weight<const MID: bool>(planes: &[Codes; 2], four: usize, two: usize) -> Pair {
    let base = interleaved(planes[0].lines(four, two));
    let mid = if MID { interleaved(planes[1].lines(four, two)) } else { base };
    let mut codes = [[_mm512_setzero_si512(); 4]; 2];
    for i in 0..4 {
        [codes[0][i], codes[1][i]] = joined::<MID>(base[i], mid[i]);
    }
    codes
}

/// Lines of four records, the bytes in the same place side by side. Behind the last block there may be anything: it is not
/// taken.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn interleaved([a, b, c, d]: [__m512i; FOUR]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(ab, cd),
        _mm512_unpackhi_epi16(ab, cd),
        _mm512_unpacklo_epi16(ab_high, cd_high),
        _mm512_unpackhi_epi16(ab_high, cd_high),
    ]
}

/// The sums of two blocks, 64 weights in order each.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn in_order(sums: &Two) -> [[__m512i; 4]; 2] {
    let mut blocks = [[_mm512_setzero_si512(); 4]; 2];
    for half in [0, 1] {
        let mut four = [_mm512_setzero_si512(); 4];
        for (i, four) in four.iter_mut().enumerate() {
            let (upper, lower) = (ints(&sums[0][4 * half + i]), ints(&sums[1][4 * half + i]));
            *four = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower);
        }
        let quarters = transposed(four);
        [blocks[0][2 * half], blocks[0][2 * half + 1]] = [quarters[0], quarters[1]];
        [blocks[1][2 * half], blocks[1][2 * half + 1]] = [quarters[2], quarters[3]];
    }
    blocks
}

/// Quarter i of register k as quarter k of register i.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
    let (ab_high, cd_high) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn load(sums: &[[i32; LANES]; 8]) -> [__m512i; 8] {
    let mut registers = [_mm512_setzero_si512(); 8];
    registers.iter_mut().zip(sums).for_each(|(register, sums)| *register = ints(sums));
    registers
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn keep(sums: &mut [[i32; LANES]; 8], registers: &[__m512i; 8]) {
    sums.iter_mut().zip(registers).for_each(|(sums, register)| store_ints(sums, *register));
}
