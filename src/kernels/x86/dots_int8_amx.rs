//! Int8 dots of many columns by tiles: a lane a record, as with AVX-512 VNNI, and a row a column. One instruction is a
//! group's exact dots of sixteen columns with sixteen records. The sums of groups follow the order that `project` states;
//! lanes of the fold are computed one by one, so that those in the making stay in the first cache.

use super::ahead::Coming;
use super::amx::{Ints, Tiles};
use super::dots_int8_many::{Folding, GROUPS, Group, MICROPANELS, coming, fold, unpack};
use super::load::{floats, ints, store};
use crate::kernels::columns::{Int8Columns, SIXTEEN, STRIP, Sixteen};
use crate::kernels::lanes::LANES;
use crate::kernels::work::Dots;
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Sums of sixteen columns for every lane of the fold.
#[repr(C, align(64))]
struct Lanes(Folding<SIXTEEN>);

thread_local! {
    /// What a thread keeps between tasks, beside the groups of its records.
    static LANES_OF_FOLD: RefCell<Box<Lanes>> =
        RefCell::new(Box::new(Lanes([[[[0.0; LANES]; SIXTEEN]; MICROPANELS]; STRIP])));
}

/// Bytes of it.
pub const KEPT: usize = size_of::<Lanes>();

/// Dots of records of one group a block with columns by sixteens; `out` is `[micropanels][N][16]`, two micropanels at most.
///
/// # Safety
/// As [`Tiles::configure`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn dots(work: &Dots<Int8Columns>, out: &mut [[f32; LANES]]) {
    let columns = work.x.columns;
    assert!(
        work.x.sixteens.len() == columns.div_ceil(SIXTEEN) * work.rows.blocks(),
        "columns that are not by sixteens"
    );
    GROUPS.with_borrow_mut(|groups| {
        unpack(work, out.len() / columns, groups);
        let mut coming = coming(work, out.len() / columns);
        let out = &mut out.chunks_exact_mut(columns).collect::<Vec<_>>();
        // SAFETY: the caller's promise.
        let tiles = unsafe { Tiles::configure() };
        LANES_OF_FOLD.with_borrow_mut(|lanes| {
            for (part, x) in work.x.sixteens.chunks(groups.len()).enumerate() {
                let coming = (part == 0).then_some(&mut coming);
                pass(&tiles, groups, x, coming, &mut lanes.0);
                put(&lanes.0, part * SIXTEEN, out);
            }
        });
    });
}

/// Sixteen columns with all groups; `coming` are lines to ask for, so many at every group.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn pass(
    tiles: &Tiles,
    groups: &[Group],
    x: &[Sixteen],
    mut coming: Option<&mut (Coming, usize)>,
    lanes: &mut Folding<SIXTEEN>,
) {
    let mut dots = [Ints::ZERO; MICROPANELS];
    for (lane, sums) in lanes.iter_mut().enumerate() {
        if lane >= groups.len() {
            *sums = [[[0.0; LANES]; SIXTEEN]; MICROPANELS];
        }
        for (index, (group, x)) in groups.iter().zip(x).skip(lane).step_by(STRIP).enumerate() {
            if let Some((coming, lines)) = &mut coming {
                coming.ask::<true>(*lines);
            }
            tiles.dots(&x.codes, &group.codes, &mut dots);
            match index {
                0 => add::<true>(group, x, &dots, sums),
                _ => add::<false>(group, x, &dots, sums),
            }
        }
    }
}

/// Adds a group's terms to its lane of the fold, or begins that with them at +0.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add<const FIRST: bool>(
    group: &Group,
    x: &Sixteen,
    dots: &[Ints; MICROPANELS],
    sums: &mut [[[f32; LANES]; SIXTEEN]; MICROPANELS],
) {
    let widths = group.widths.each_ref().map(|widths| floats(widths));
    let origins = group.origins.each_ref().map(|origins| floats(origins));
    for n in 0..SIXTEEN {
        let (scale, sum) = (_mm512_set1_ps(x.scales[n]), _mm512_set1_ps(x.sums[n]));
        for (m, sums) in sums.iter_mut().enumerate() {
            let before = if FIRST { _mm512_setzero_ps() } else { floats(&sums[n]) };
            let dot = _mm512_mul_ps(_mm512_cvtepi32_ps(ints(&dots[m].0[n])), scale);
            let term = _mm512_fmadd_ps(widths[m], dot, before);
            store(&mut sums[n], _mm512_fmadd_ps(origins[m], sum, term));
        }
    }
}

/// Folds the lanes into the columns that there are from `first` on.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn put(lanes: &Folding<SIXTEEN>, first: usize, out: &mut [&mut [[f32; LANES]]]) {
    for (m, out) in out.iter_mut().enumerate() {
        for (n, out) in out[first..].iter_mut().enumerate().take(SIXTEEN) {
            fold(lanes, m, n, out);
        }
    }
}
