//! Columns of activations as the kernels of dots take them: in f32, or in int8 where records are codes of 4 and 8 bits.

#![forbid(unsafe_code)]

use super::lanes::LANES;
use crate::types::BLOCK;

/// Blocks of a strip, the length that loops over a record are cut into: as many scales as a register holds, and decoded,
/// those of a task's records take 64 KiB.
pub const STRIP: usize = LANES;

/// Half a block: its weights share the positions of their bytes in a nibble plane with the other half's.
pub const HALF: usize = BLOCK / 2;

/// Columns side by side in an [`Eight`].
pub const EIGHT: usize = 8;

/// Columns side by side in a [`Sixteen`].
pub const SIXTEEN: usize = 16;

/// N columns in f32.
#[derive(Clone, Debug)]
pub struct F32Columns {
    pub columns: usize,
    /// Blocks of a column.
    pub blocks: usize,
    /// `[strips][N][64 * blocks of the strip]`, zeros behind the width: the columns of a strip lie close together, where
    /// whole columns, a power of two apart, would push each other out of the caches.
    pub values: Vec<f32>,
}

impl F32Columns {
    /// The blocks of the only column.
    #[inline(always)]
    pub fn only(&self) -> &[[[f32; LANES]; BLOCK / LANES]] {
        self.values.as_chunks().0.as_chunks().0
    }

    /// A strip of all columns, `[N][64 * blocks of the strip]`.
    #[inline(always)]
    pub fn strip(&self, strip: usize) -> &[f32] {
        let first = strip * STRIP * BLOCK * self.columns;
        &self.values[first..][..STRIP.min(self.blocks - strip * STRIP) * BLOCK * self.columns]
    }
}

/// N columns in int8.
#[derive(Clone, Debug)]
pub struct Int8Columns {
    pub columns: usize,
    /// Blocks of a column.
    pub blocks: usize,
    /// `[N][strips]`.
    pub strips: Vec<Strip>,
    /// The same columns by eights, `[N / 8][blocks]`, where there are several; zeros where the last eight has none.
    pub eights: Vec<Eight>,
    /// By sixteens instead, `[N / 16][blocks]`, where tiles will multiply them; zeros where the last sixteen has none.
    pub sixteens: Vec<Sixteen>,
}

/// Sixteen blocks of a column in int8, zeros behind its last, so that kernels need no masks on this side. Codes lie as 64
/// bytes of a nibble plane meet them: the lower halves of blocks 2p and 2p + 1, then their upper halves.
#[derive(Clone, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Strip {
    pub codes: [[i8; BLOCK]; STRIP],
    pub scales: [f32; STRIP],
    /// Sums of the codes, times the scale.
    pub sums: [f32; STRIP],
}

/// One block of eight columns, four codes of each at a time: what a product with many columns reads in one go.
#[derive(Clone, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Eight {
    /// Quad k holds codes 4 k.. of every column.
    pub quads: [[[i8; 4]; EIGHT]; BLOCK / 4],
    pub scales: [f32; EIGHT],
    /// Sums of the codes, times the scale.
    pub sums: [f32; EIGHT],
}

/// One block of sixteen columns, codes in order.
#[derive(Clone, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Sixteen {
    pub codes: [[i8; BLOCK]; SIXTEEN],
    pub scales: [f32; SIXTEEN],
    /// Sums of the codes, times the scale.
    pub sums: [f32; SIXTEEN],
}

/// Columns side by side.
pub trait Side: Clone + Send {
    /// Columns.
    const MANY: usize;
    /// Zeros.
    const EMPTY: Self;
    /// Takes a block over into column `n` of these.
    fn put(&mut self, n: usize, from: &Strip, block: usize);
}

impl Int8Columns {
    /// Strips of a column.
    #[inline(always)]
    pub fn strips_each(&self) -> usize {
        self.blocks.div_ceil(STRIP)
    }

    /// The strips of column `n`.
    #[inline(always)]
    pub fn column(&self, n: usize) -> &[Strip] {
        &self.strips[n * self.strips_each()..][..self.strips_each()]
    }
}

impl Strip {
    pub const EMPTY: Strip = Strip { codes: [[0; BLOCK]; STRIP], scales: [0.0; STRIP], sums: [0.0; STRIP] };

    /// The codes of a block's lower or upper half.
    #[inline(always)]
    pub fn half(&self, block: usize, half: usize) -> &[i8; HALF] {
        &self.codes[block / 2 * 2 + half].as_chunks().0[block % 2]
    }

    /// The same to write to.
    #[inline(always)]
    pub fn half_mut(&mut self, block: usize, half: usize) -> &mut [i8; HALF] {
        &mut self.codes[block / 2 * 2 + half].as_chunks_mut().0[block % 2]
    }
}

impl Side for Eight {
    const MANY: usize = EIGHT;
    const EMPTY: Eight = Eight { quads: [[[0; 4]; EIGHT]; BLOCK / 4], scales: [0.0; EIGHT], sums: [0.0; EIGHT] };

    fn put(&mut self, n: usize, from: &Strip, block: usize) {
        (self.scales[n], self.sums[n]) = (from.scales[block], from.sums[block]);
        for (half, quads) in self.quads.chunks_exact_mut(HALF / 4).enumerate() {
            quads.iter_mut().zip(from.half(block, half).as_chunks().0).for_each(|(to, from)| to[n] = *from);
        }
    }
}

impl Side for Sixteen {
    const MANY: usize = SIXTEEN;
    const EMPTY: Sixteen = Sixteen { codes: [[0; BLOCK]; SIXTEEN], scales: [0.0; SIXTEEN], sums: [0.0; SIXTEEN] };

    fn put(&mut self, n: usize, from: &Strip, block: usize) {
        (self.scales[n], self.sums[n]) = (from.scales[block], from.sums[block]);
        let halves = self.codes[n].as_chunks_mut::<HALF>().0.iter_mut();
        halves.enumerate().for_each(|(half, codes)| *codes = *from.half(block, half));
    }
}
