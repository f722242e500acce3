//! Registers from arrays and back. Loads and stores of any alignment; the array's type says that the bytes are there.

use std::arch::x86_64::*;

macro_rules! loads {
    ($features:literal $($(#[$doc:meta])* $name:ident($from:ty) -> $to:ty = $load:ident;)*) => {$(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = $features)]
        pub fn $name(from: &$from) -> $to {
            const { assert!(size_of::<$from>() == size_of::<$to>()) };
            // SAFETY: a reference to as many bytes as are loaded, alive for the call.
            unsafe { $load(from.as_ptr().cast()) }
        }
    )*};
}

loads! { "avx2"
    /// 32 bytes.
    bytes32([u8; 32]) -> __m256i = _mm256_loadu_si256;
    /// 32 activations.
    signed32([i8; 32]) -> __m256i = _mm256_loadu_si256;
    /// 16 words.
    words([i16; 16]) -> __m256i = _mm256_loadu_si256;
    /// 8 words.
    words8([i16; 8]) -> __m128i = _mm_loadu_si128;
    /// 8 integers.
    ints8([i32; 8]) -> __m256i = _mm256_loadu_si256;
    /// 8 floats.
    floats8([f32; 8]) -> __m256 = _mm256_loadu_ps;
}

loads! { "avx2,avx512f,avx512bw,avx512vl"
    /// 64 bytes.
    bytes([u8; 64]) -> __m512i = _mm512_loadu_si512;
    /// 16 bytes.
    bytes16([u8; 16]) -> __m128i = _mm_loadu_si128;
    /// 64 activations.
    signed([i8; 64]) -> __m512i = _mm512_loadu_si512;
    /// 16 integers.
    ints([i32; 16]) -> __m512i = _mm512_loadu_si512;
    /// 16 floats.
    floats([f32; 16]) -> __m512 = _mm512_loadu_ps;
}

macro_rules! stores {
    ($features:literal $($(#[$doc:meta])* $name:ident($from:ty) -> $to:ty = $store:ident;)*) => {$(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = $features)]
        pub fn $name(to: &mut $to, from: $from) {
            const { assert!(size_of::<$from>() == size_of::<$to>()) };
            // SAFETY: a unique reference to as many bytes as are written, alive for the call.
            unsafe { $store(to.as_mut_ptr().cast(), from) }
        }
    )*};
}

stores! { "avx2"
    /// 32 bytes.
    store_bytes32(__m256i) -> [u8; 32] = _mm256_storeu_si256;
    /// 8 integers.
    store_ints8(__m256i) -> [i32; 8] = _mm256_storeu_si256;
    /// 16 words.
    store_words(__m256i) -> [i16; 16] = _mm256_storeu_si256;
    /// 8 words.
    store_words8(__m128i) -> [i16; 8] = _mm_storeu_si128;
    /// 8 floats.
    store8(__m256) -> [f32; 8] = _mm256_storeu_ps;
    /// 4 floats.
    store4(__m128) -> [f32; 4] = _mm_storeu_ps;
}

stores! { "avx2,avx512f,avx512bw,avx512vl"
    /// 64 bytes.
    store_bytes(__m512i) -> [u8; 64] = _mm512_storeu_si512;
    /// 16 integers.
    store_ints(__m512i) -> [i32; 16] = _mm512_storeu_si512;
    /// 16 floats.
    store(__m512) -> [f32; 16] = _mm512_storeu_ps;
}

/// Pieces of memory that are read line by line, from `begins` on: checked once for all.
#[derive(Clone, Copy)]
pub struct Pieces<'a, const N: usize> {
    from: &'a [u8],
    begins: [usize; N],
    len: usize,
}

impl<'a, const N: usize> Pieces<'a, N> {
    /// Pieces of `len` bytes, if all of them are there.
    #[inline(always)]
    pub fn new(from: &'a [u8], begins: [usize; N], len: usize) -> Option<Pieces<'a, N>> {
        let last = from.len().checked_sub(len)?;
        begins.iter().all(|begin| *begin <= last).then_some(Pieces { from, begins, len })
    }

    /// 64 bytes of four pieces, from byte `at` of each.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    pub fn four(&self, four: usize, at: usize) -> [__m512i; 4] {
        assert!(at < self.len && self.len - at >= 64, "a line that is not of the piece");
        let mut lines = [_mm512_setzero_si512(); 4];
        for (line, begin) in lines.iter_mut().zip(&self.begins.as_chunks::<4>().0[four]) {
            // SAFETY: `begin + len` lies within `from`, and `at + 64` within `len`.
            *line = unsafe { _mm512_loadu_si512(self.from.as_ptr().add(begin + at).cast()) };
        }
        lines
    }
}

/// Asks for the cache line `distance` bytes behind the start of `at`; beyond our memory nothing happens.
#[inline(always)]
pub fn prefetch<T>(at: &[T], distance: usize) {
    // SAFETY: a prefetch reads nothing that the program sees and never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().cast::<i8>().wrapping_add(distance)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::testing::skipped;
    use std::panic::catch_unwind;

    fn available(test: &str) -> bool {
        let there = Isa::available().iter().any(|isa| isa.name() == "avx512");
        if !there {
            skipped(&format!("kernels::x86::load::{test}: this machine has no AVX-512"));
        }
        there
    }

    #[test]
    fn pieces_that_are_not_all_there_are_none() {
        let bytes = [7; 256];
        let have = |len: usize, begins, piece| Pieces::new(&bytes[..len], begins, piece).is_some();
        assert!(have(256, [0, 64, 192, 128], 64) && have(64, [0; 4], 64));
        assert!(!have(255, [0, 64, 192, 128], 64) && !have(256, [193, 0, 0, 0], 64) && !have(63, [0; 4], 64));
        assert!(!have(256, [0, 0, 0, usize::MAX], 64) && !have(256, [0; 4], usize::MAX));
    }

    #[test]
    fn lines_behind_a_piece_are_refused() {
        if !available("lines_behind_a_piece_are_refused") {
            return;
        }
        let pieces = Pieces::new(&[7; 256], [0; 4], 128).unwrap();
        // SAFETY: the set is there.
        let line = |at| catch_unwind(|| unsafe { pieces.four(0, at) });
        assert!(line(64).is_ok());
        for at in [65, 128, usize::MAX] {
            let why = line(at).unwrap_err();
            assert_eq!(why.downcast_ref(), Some(&"a line that is not of the piece"), "{at}");
        }
    }
}
