//! Int8 dots of many columns with AVX-512 VNNI: a lane a record, so that an exact dot needs no folding and codes are
//! unpacked once for all columns. The sums of a group follow the order that `project` states.

use super::super::lanes::LANES;
use super::super::project::{RowWork, in_tile};
use super::load::{floats, prefetch, store, store_bytes};
use super::pack::{RECORDS, by_record};
use super::product::{Packed, product};
use super::scales::cells;
use crate::quant::{Eight, Record, Rows, TILE};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::hint::black_box;

/// Tiles of sixteen records that share a pass over the activations.
const TILES: usize = 2;

/// Columns of a pass: their sixteen sums stay in registers.
const COLUMNS: usize = 8;

/// Steps of a block: four codes each.
const STEPS: usize = BLOCK / 4;

/// One group of two tiles: codes and cells. Lines of the cache, since a register that straddles two costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group {
    codes: [Packed<TILES>; STEPS],
    widths: [[f32; LANES]; TILES],
    origins: [[f32; LANES]; TILES],
}

/// Sums of `N` columns for every lane of the fold.
#[repr(C, align(64))]
struct Lanes<const N: usize>([[[[f32; LANES]; N]; TILES]; TILE]);

const EMPTY: Group =
    Group { codes: [[[0; 64]; TILES]; STEPS], widths: [[0.0; LANES]; TILES], origins: [[0.0; LANES]; TILES] };

thread_local! {
    /// What a thread keeps between tasks: the groups of its records.
    static GROUPS: RefCell<Vec<Group>> = const { RefCell::new(vec![]) };
}

/// Records `first..` of work that `int8::takes`; `out` is `[tiles][N][16]`, two tiles at most.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn task(work: &RowWork, first: usize, out: &mut [[f32; LANES]]) {
    let count = work.inputs.count;
    GROUPS.with_borrow_mut(|groups| {
        groups.resize(work.rows.blocks(), EMPTY);
        for tile in 0..out.len() / count {
            match work.rows.level {
                Level::L4 => pack::<false>(work.rows, first, tile, groups),
                _ => pack::<true>(work.rows, first, tile, groups),
            }
        }
        let steps = black_box(STEPS);
        let out = &mut out.chunks_exact_mut(count).collect::<Vec<_>>();
        for (part, x) in work.inputs.eights.chunks(groups.len()).enumerate() {
            let first = part * COLUMNS;
            match count - first {
                1 => columns::<1>(groups, x, steps, first, out),
                2 => columns::<2>(groups, x, steps, first, out),
                3..=4 => columns::<4>(groups, x, steps, first, out),
                _ => columns::<COLUMNS>(groups, x, steps, first, out),
            }
        }
    });
}

/// Unpacks tile `tile` of the records from `first` on; the last record fills lanes that have none.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn pack<const MID: bool>(rows: &Rows, first: usize, tile: usize, groups: &mut [Group]) {
    let first = first + tile * LANES;
    let last = in_tile(rows, first) - 1;
    let records: [Record; RECORDS] = std::array::from_fn(|r| rows.record(first + r.min(last)));
    for (block, group) in groups.iter_mut().enumerate() {
        ahead::<MID>(rows, &records, block);
        let steps = by_record::<MID>(&records, block);
        group.codes.iter_mut().zip(steps).for_each(|(to, from)| store_bytes(&mut to[tile], from));
    }
    for (r, record) in records.iter().enumerate() {
        for (run, groups) in groups.chunks_mut(TILE).enumerate() {
            let cells = cells(&rows.coding, rows.level, record.scales, run * TILE);
            let (mut widths, mut origins) = ([0.0; TILE], [0.0; TILE]);
            store(&mut widths, cells.width);
            store(&mut origins, cells.origin);
            for (group, (width, origin)) in groups.iter_mut().zip(widths.into_iter().zip(origins)) {
                (group.widths[tile][r], group.origins[tile][r]) = (width, origin);
            }
        }
    }
}

/// Asks for the lines of the same blocks in the next tile.
#[inline(always)]
pub fn ahead<const MID: bool>(rows: &Rows, records: &[Record; RECORDS], block: usize) {
    if block.is_multiple_of(2) {
        for plane in 0..1 + usize::from(MID) {
            let far = block * BLOCK / 2 + RECORDS * rows.columns[plane].stride;
            records.iter().for_each(|record| prefetch(record.codes[plane], far));
        }
    }
}

/// The first `N` of eight columns, as many as there are from `first` on, of all tiles of `out`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn columns<const N: usize>(groups: &[Group], x: &[Eight], steps: usize, first: usize, out: &mut [&mut [[f32; LANES]]]) {
    let Lanes(lanes) = &mut Lanes([[[[0.0; LANES]; N]; TILES]; TILE]);
    for (block, (group, x)) in groups.iter().zip(x).enumerate() {
        let column = |k: usize, n: usize| i32::from_le_bytes(x.quads[k % STEPS][n].map(|code| code as u8));
        let multiply = |sum, codes, x| _mm512_dpbusd_epi32(sum, codes, x);
        let dots = product::<TILES, N>(&group.codes, steps, column, multiply);
        for (tile, lanes) in lanes[block % TILE].iter_mut().enumerate() {
            let (width, origin) = (floats(&group.widths[tile]), floats(&group.origins[tile]));
            for (n, lane) in lanes.iter_mut().enumerate() {
                let (scale, sum) = (_mm512_set1_ps(x.scales[n]), _mm512_set1_ps(x.sums[n]));
                let dot = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[n][tile]), scale);
                let term = _mm512_fmadd_ps(width, dot, floats(lane));
                store(lane, _mm512_fmadd_ps(origin, sum, term));
            }
        }
    }
    for (tile, out) in out.iter_mut().enumerate() {
        for (n, out) in out[first..].iter_mut().enumerate().take(N) {
            fold(lanes, tile, n, out);
        }
    }
}

/// `lanes::fold16` of sixteen records at once.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn fold<const N: usize>(
    lanes: &[[[[f32; LANES]; N]; TILES]; TILE],
    tile: usize,
    column: usize,
    out: &mut [f32; LANES],
) {
    let mut sums = [_mm512_setzero_ps(); TILE];
    sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum = floats(&lane[tile][column]));
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] = _mm512_add_ps(sums[i], sums[i + half]);
        }
    }
    store(out, sums[0]);
}
