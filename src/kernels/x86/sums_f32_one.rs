//! Accumulations of one column with AVX-512, added by rising record, each product rounded first. One record at a time:
//! the planes of several do not stream from memory.

use super::ahead;
use super::block::Block;
use super::decode::{Decoder, Values, by_coding};
use super::load::{floats, store};
use crate::kernels::columns::STRIP;
use crate::kernels::work::{F32Factors, Sums};
use std::arch::x86_64::*;

/// Records between what is computed and what is asked for: a task of 16 blocks has 2 KB of each at 16 bits.
const AHEAD: usize = 4;

/// Records of one group a block times their factors for the only column; `out` is `[blocks][64]`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn sums(work: &Sums<F32Factors>, out: &mut [f32]) {
    by_coding!(work.rows, records(work, out))
}

#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn records<const BITS: u32, const AFFINE: bool>(work: &Sums<F32Factors>, out: &mut [f32]) {
    let decoder = Decoder::<BITS, AFFINE>::new(work.rows);
    let sums: &mut [Block] = out.as_chunks_mut().0.as_chunks_mut().0;
    for (r, factor) in work.factors.values.iter().enumerate() {
        let (record, next) = (work.rows.record(r), ahead::records(work.rows, r, AHEAD));
        for (strip, sums) in sums.chunks_mut(STRIP).enumerate() {
            let first = work.first + strip * STRIP;
            let blocks = decoder.blocks(&record, first, sums.len());
            ahead::scales(work.rows, record.scales, first, next);
            for (block, sums) in sums.iter_mut().enumerate() {
                ahead::block(work.rows.level, &record, first + block, next);
                let products = decoder.products(&blocks, block, _mm512_set1_ps(*factor));
                add(sums, &products);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn add(sums: &mut Block, products: &Values) {
    sums.iter_mut().zip(products).for_each(|(sum, product)| store(sum, _mm512_add_ps(floats(sum), *product)));
}
