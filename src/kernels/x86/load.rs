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

/// Writes 16 floats.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn store(to: &mut [f32; 16], from: __m512) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), from) }
}

/// Writes 16 integers.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn store_ints(to: &mut [i32; 16], from: __m512i) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), from) }
}

/// Writes 64 bytes.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn store_bytes(to: &mut [u8; 64], from: __m512i) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), from) }
}

/// Writes 16 words.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub fn store_words(to: &mut [i16; 16], from: __m256i) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), from) }
}

/// Writes 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store_bytes32(to: &mut [u8; 32], from: __m256i) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), from) }
}

/// Writes 8 integers.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store_ints8(to: &mut [i32; 8], from: __m256i) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), from) }
}

/// Writes 8 floats.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store8(to: &mut [f32; 8], from: __m256) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), from) }
}

/// Writes 4 floats.
#[inline]
#[target_feature(enable = "avx2")]
pub fn store4(to: &mut [f32; 4], from: __m128) {
    // SAFETY: a unique reference to as many bytes as are written.
    unsafe { _mm_storeu_ps(to.as_mut_ptr(), from) }
}

/// Asks for the cache line `ahead` bytes behind the start of `at`; beyond our memory nothing happens.
#[inline(always)]
pub fn prefetch(at: &[u8], ahead: usize) {
    // SAFETY: a prefetch reads nothing that the program sees and never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().wrapping_add(ahead).cast()) }
}
