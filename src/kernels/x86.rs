//! The same kernels compiled for wider registers. The compiler contracts no product and sum into an FMA by itself and
//! keeps the order of f32 sums, so the bits are the portable ones (tested on every set this machine has).

use super::accumulate::{self, TileWork};
use super::isa::{Isa, Kind};
use super::project::{self, RowWork};

macro_rules! widened {
    ($module:ident, $features:literal) => {
        #[cfg(target_arch = "x86_64")]
        mod $module {
            use super::{RowWork, TileWork, accumulate, project};
            #[target_feature(enable = $features)]
            pub fn project_row(work: &mut RowWork, r: usize, out: &mut [f32]) {
                project::row(work, r, out);
            }
            #[target_feature(enable = $features)]
            pub fn accumulate_tile(work: &TileWork, chunk: &mut [f32]) {
                accumulate::tile(work, chunk);
            }
        }
    };
}

widened!(avx2, "avx2");
widened!(avx512, "avx2,avx512f,avx512bw,avx512vl");

/// One output row of a projection on `isa`.
pub fn project_row(isa: Isa, work: &mut RowWork, r: usize, out: &mut [f32]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::project_row(work, r, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::project_row(work, r, out) },
        _ => project::row(work, r, out),
    }
}

/// One tile of an accumulation on `isa`.
pub fn accumulate_tile(isa: Isa, work: &TileWork, chunk: &mut [f32]) {
    match isa.kind() {
        // SAFETY: an `Isa` of this kind exists only where detection found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::accumulate_tile(work, chunk) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::accumulate_tile(work, chunk) },
        _ => accumulate::tile(work, chunk),
    }
}
