//! Registers from arrays and back. Loads and stores of any alignment; the array's type says that the bytes are there.

use std::arch::x86_64::*;

macro_rules! loads {
    ($($(#[$doc:meta])* $name:ident($from:ty) -> $to:ty = $load:ident;)*) => {$(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
        pub fn $name(from: &$from) -> $to {
            const { assert!(size_of::<$from>() == size_of::<$to>()) };
            // SAFETY: a reference to as many bytes as are loaded, alive for the call.
            unsafe { $load(from.as_ptr().cast()) }
        }
    )*};
}

loads! {
    /// 64 bytes.
    bytes([u8; 64]) -> __m512i = _mm512_loadu_si512;
    /// 32 bytes.
    bytes32([u8; 32]) -> __m256i = _mm256_loadu_si256;
    /// 16 bytes.
    bytes16([u8; 16]) -> __m128i = _mm_loadu_si128;
    /// 64 activations.
    signed([i8; 64]) -> __m512i = _mm512_loadu_si512;
    /// 16 integers.
    ints([i32; 16]) -> __m512i = _mm512_loadu_si512;
    /// 16 floats.
    floats([f32; 16]) -> __m512 = _mm512_loadu_ps;
}

/// Writes 16 floats.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn store(to: &mut [f32; 16], from: __m512) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), from) }
}
