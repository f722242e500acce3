//! The integer product behind every batched kernel: packed codes of M registers times N columns, all sums in registers.

use super::load::bytes;
use std::arch::asm;
use std::arch::x86_64::*;

/// Packed codes of one k: `M` registers of sixteen lanes.
pub type Packed<const M: usize> = [[u8; 64]; M];

/// `weights[k][m] * column(k, n)` summed over the first `depth` of k, `[n][m]`, by `multiply(sum, weights, column)`. What
/// a column gives (four bytes of an activation, two factors of 16 bits) meets all sixteen lanes.
///
/// `depth` must not be a constant to the compiler: it would unroll the loop, load ahead and spill.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn product<const M: usize, const N: usize>(
    weights: &[Packed<M>],
    depth: usize,
    column: impl Fn(usize, usize) -> i32,
    multiply: impl Fn(__m512i, __m512i, __m512i) -> __m512i,
) -> [[__m512i; M]; N] {
    let mut sums = [[_mm512_setzero_si512(); M]; N];
    for (k, weights) in weights[..depth].iter().enumerate() {
        let mut registers = [_mm512_setzero_si512(); M];
        registers.iter_mut().zip(weights).for_each(|(register, weights)| *register = bytes(weights));
        for (n, sums) in sums.iter_mut().enumerate() {
            let quad = _mm512_set1_epi32(column(k, n));
            for (sum, register) in sums.iter_mut().zip(&registers) {
                *sum = multiply(*sum, *register, quad);
            }
        }
    }
    sums
}

/// `sums + words * words`, two a lane. Written as the instruction: the compiler would take it apart to shorten a chain
/// of sums that is not what limits the loops here.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn add_words(mut sums: __m512i, codes: __m512i, factors: __m512i) -> __m512i {
    // SAFETY: registers in, registers out.
    unsafe {
        asm!(
            "vpdpwssd {sums}, {codes}, {factors}",
            sums = inout(zmm_reg) sums,
            codes = in(zmm_reg) codes,
            factors = in(zmm_reg) factors,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
