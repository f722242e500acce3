//! Sums of records times factors, in the order that [`crate::kernels::accumulate`] states.

use crate::kernels::lanes::axpy;
use crate::kernels::work::{F32Factors, Sums};
use crate::quant::values;
use crate::types::BLOCK;

/// In f32; `out` is `[blocks][N][64]`.
#[inline(always)]
pub fn sums_f32(work: &Sums<F32Factors>, out: &mut [f32]) {
    let mut weights = [0.0; BLOCK];
    for (r, factors) in work.factors.values.chunks_exact(work.factors.columns).enumerate() {
        let record = work.rows.record(r);
        for (block, sums) in out.chunks_exact_mut(work.factors.columns * BLOCK).enumerate() {
            values(&work.rows.coding, work.rows.level, &record, work.first + block, &mut weights);
            for (sums, factor) in sums.chunks_exact_mut(BLOCK).zip(factors) {
                axpy(sums, *factor, &weights);
            }
        }
    }
}
