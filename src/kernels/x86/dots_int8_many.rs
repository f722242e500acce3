//! Int8 dots of many columns with AVX-512 VNNI: a lane a record, so that an exact dot needs no folding and codes are
//! unpacked once for all columns. The sums of a group follow the order that `project` states.

use super::ahead::{Coming, LINE};
use super::load::{floats, store, store_bytes};
use super::pack::{RECORDS, by_column, by_record};
use super::product::{Packed, product};
use super::scales::cells;
use crate::kernels::columns::{Eight, Int8Columns, STRIP};
use crate::kernels::lanes::LANES;
use crate::kernels::work::Dots;
use crate::quant::{Record, Rows};
use crate::types::{BLOCK, Level};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;

/// Micropanels that share a pass over the activations.
pub const MICROPANELS: usize = 2;

/// Columns of a pass: their sixteen sums stay in registers.
const COLUMNS: usize = 8;

/// Quads of a block: four codes each.
const QUADS: usize = BLOCK / 4;

/// One group of two micropanels: codes and cells. Lines of the cache, since a register that straddles two costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Group {
    pub codes: [Packed<MICROPANELS>; QUADS],
    pub widths: [[f32; LANES]; MICROPANELS],
    pub origins: [[f32; LANES]; MICROPANELS],
}

/// Sums of `N` columns for every lane of the fold.
#[repr(C, align(64))]
struct Lanes<const N: usize>(Folding<N>);

/// `[lane of the fold][micropanel][column][record]`.
pub type Folding<const N: usize> = [[[[f32; LANES]; N]; MICROPANELS]; STRIP];

const EMPTY: Group = Group {
    codes: [[[0; 64]; MICROPANELS]; QUADS],
    widths: [[0.0; LANES]; MICROPANELS],
    origins: [[0.0; LANES]; MICROPANELS],
};

thread_local! {
    /// What a thread keeps between tasks: the groups of its records.
    pub static GROUPS: RefCell<Vec<Group>> = const { RefCell::new(vec![]) };
}

/// Bytes of it, for records of so many blocks.
pub fn kept(blocks: usize) -> usize {
    blocks * size_of::<Group>()
}

/// Dots of records of one group a block; `out` is `[micropanels][N][16]`, two micropanels at most.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn dots(work: &Dots<Int8Columns>, out: &mut [[f32; LANES]]) {
    let columns = work.x.columns;
    GROUPS.with_borrow_mut(|groups| {
        unpack(work, out.len() / columns, groups);
        let quads = black_box(QUADS);
        let mut coming = coming(work, out.len() / columns);
        let out = &mut out.chunks_exact_mut(columns).collect::<Vec<_>>();
        for (part, x) in work.x.eights.chunks(groups.len()).enumerate() {
            let first = part * COLUMNS;
            match columns - first {
                1 => pass::<1>(groups, x, quads, first, &mut coming, out),
                2 => pass::<2>(groups, x, quads, first, &mut coming, out),
                3..=4 => pass::<4>(groups, x, quads, first, &mut coming, out),
                _ => pass::<COLUMNS>(groups, x, quads, first, &mut coming, out),
            }
        }
    });
}

/// The groups of a task of so many micropanels.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn unpack(work: &Dots<Int8Columns>, micropanels: usize, groups: &mut Vec<Group>) {
    groups.resize(work.rows.blocks(), EMPTY);
    for index in 0..micropanels {
        match work.rows.level {
            Level::L4 => pack::<false>(work.rows, work.micropanel(index), index, groups),
            _ => pack::<true>(work.rows, work.micropanel(index), index, groups),
        }
    }
}

/// The records behind those of a task of so many micropanels, to be asked for while these are multiplied, and how many of
/// their lines at every block: all within the first columns.
pub fn coming<'a>(work: &Dots<'a, Int8Columns>, micropanels: usize) -> (Coming<'a>, usize) {
    let Dots { rows, first, .. } = work;
    let (codes, scales) = (rows.blocks() * BLOCK / 2, rows.coding.scale_bytes(rows.width));
    let lines = [(codes + scales).div_ceil(LINE), codes.div_ceil(LINE)];
    let records = micropanels * RECORDS;
    (Coming::new(rows, first + records, 0, lines), (records * lines[0]).div_ceil(rows.blocks()))
}

/// Unpacks the `index`th micropanel; its last record fills lanes that have none.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn pack<const MID: bool>(rows: &Rows, records: Range<usize>, index: usize, groups: &mut [Group]) {
    let records: [Record; RECORDS] = std::array::from_fn(|r| rows.record((records.start + r).min(records.end - 1)));
    for (block, group) in groups.iter_mut().enumerate() {
        let quads = by_record::<MID>(&records, block);
        group.codes.iter_mut().zip(quads).for_each(|(to, from)| store_bytes(&mut to[index], from));
    }
    for (strip, groups) in groups.chunks_mut(STRIP).enumerate() {
        let (mut widths, mut origins) = ([[0.0; STRIP]; RECORDS], [[0.0; STRIP]; RECORDS]);
        for ((record, widths), origins) in records.iter().zip(&mut widths).zip(&mut origins) {
            let cells = cells(&rows.coding, rows.level, record.scales, strip * STRIP);
            store(widths, cells.width);
            store(origins, cells.origin);
        }
        let (widths, origins) = (by_column(&widths), by_column(&origins));
        for (group, (width, origin)) in groups.iter_mut().zip(widths.into_iter().zip(origins)) {
            store(&mut group.widths[index], width);
            store(&mut group.origins[index], origin);
        }
    }
}

/// The first `N` of eight columns, as many as there are from `first` on, of all micropanels of `out`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn pass<const N: usize>(
    groups: &[Group],
    x: &[Eight],
    quads: usize,
    first: usize,
    (coming, lines): &mut (Coming, usize),
    out: &mut [&mut [[f32; LANES]]],
) {
    let Lanes(lanes) = &mut Lanes([[[[0.0; LANES]; N]; MICROPANELS]; STRIP]);
    for (block, (group, x)) in groups.iter().zip(x).enumerate() {
        if first == 0 {
            coming.ask::<true>(*lines);
        }
        let column = |k: usize, n: usize| i32::from_le_bytes(x.quads[k % QUADS][n].map(|code| code as u8));
        let multiply = |sum, codes, x| _mm512_dpbusd_epi32(sum, codes, x);
        let dots = product::<MICROPANELS, N>(&group.codes, quads, column, multiply);
        for (m, lanes) in lanes[block % STRIP].iter_mut().enumerate() {
            let (width, origin) = (floats(&group.widths[m]), floats(&group.origins[m]));
            for (n, lane) in lanes.iter_mut().enumerate() {
                let (scale, sum) = (_mm512_set1_ps(x.scales[n]), _mm512_set1_ps(x.sums[n]));
                let dot = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[n][m]), scale);
                let term = _mm512_fmadd_ps(width, dot, floats(lane));
                store(lane, _mm512_fmadd_ps(origin, sum, term));
            }
        }
    }
    for (m, out) in out.iter_mut().enumerate() {
        for (n, out) in out[first..].iter_mut().enumerate().take(N) {
            fold(lanes, m, n, out);
        }
    }
}

/// `lanes::fold16` of sixteen records at once.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn fold<const N: usize>(lanes: &Folding<N>, micropanel: usize, column: usize, out: &mut [f32; LANES]) {
    let mut sums = [_mm512_setzero_ps(); STRIP];
    sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum = floats(&lane[micropanel][column]));
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] = _mm512_add_ps(sums[i], sums[i + half]);
        }
    }
    store(out, sums[0]);
}
