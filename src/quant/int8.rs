//! Activations as int8 per group of 64, for the integer kernels at levels 4 and 8.

use crate::types::BLOCK;

/// Below this a group is taken as zero: 127 / m would overflow.
const TINY: f32 = 1e-30;

/// Blocks that the integer kernels take at a time: as many as there are lanes in a sum.
pub const TILE: usize = 16;

/// Codes that share scales with the same byte positions of a plane: weights i and i + 32 of a block share a byte.
const HALF: usize = BLOCK / 2;

/// N activation rows, quantised: `x ~ codes * scales` per group of 64. Rows are padded with zeros to whole tiles of 16
/// blocks, so that kernels need no masks on this side.
///
/// Codes lie as 64 bytes of a nibble plane meet them: the lower halves of blocks 2p and 2p + 1, then their upper halves.
#[derive(Clone, Debug)]
pub struct Int8 {
    /// Tiles per row.
    pub tiles: usize,
    /// `[N][tiles]`: lower and upper halves of eight pairs of blocks.
    pub codes: Vec<[[i8; BLOCK]; TILE]>,
    /// `[N][tiles]`.
    pub scales: Vec<[f32; TILE]>,
    /// `[N][tiles]`: sums of the codes, times the scale.
    pub sums: Vec<[f32; TILE]>,
}

impl Int8 {
    /// Quantises rows of `blocks * 64` zero-padded values: `rint(x * (127 / max|x|))`, half to even.
    ///
    /// A group with a value that is not finite gets a NaN scale, so that the damage reaches the logits and is seen.
    #[inline(always)]
    pub fn quantise(rows: &[f32], blocks: usize) -> Int8 {
        let tiles = blocks.div_ceil(TILE);
        let count = rows.len() / (blocks * BLOCK) * tiles;
        let (codes, scales) = (vec![[[0; BLOCK]; TILE]; count], vec![[0.0; TILE]; count]);
        let mut x = Int8 { tiles, codes, scales, sums: vec![[0.0; TILE]; count] };
        for (n, row) in rows.chunks_exact(blocks * BLOCK).enumerate() {
            for (block, group) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                x.put(n * tiles + block / TILE, block % TILE, group);
            }
        }
        x
    }

    #[inline(always)]
    fn put(&mut self, tile: usize, block: usize, group: &[f32; BLOCK]) {
        let (codes, scale) = quantise_group(group);
        self.scales[tile][block] = scale;
        self.sums[tile][block] = codes.iter().map(|c| i32::from(*c)).sum::<i32>() as f32 * scale;
        for half in [0, 1] {
            let to = &mut self.codes[tile][block / 2 * 2 + half][block % 2 * HALF..][..HALF];
            to.copy_from_slice(&codes[half * HALF..][..HALF]);
        }
    }

    /// Codes of block `block` of row `n`: its lower or upper 32.
    #[inline(always)]
    pub fn half(&self, n: usize, block: usize, half: usize) -> &[i8; HALF] {
        let tile = &self.codes[n * self.tiles + block / TILE];
        &tile[block % TILE / 2 * 2 + half].as_chunks().0[block % 2]
    }

    /// Scale of block `block` of row `n`.
    #[inline(always)]
    pub fn scale(&self, n: usize, block: usize) -> f32 {
        self.scales[n * self.tiles + block / TILE][block % TILE]
    }

    /// Sum of the codes of block `block` of row `n`, times its scale.
    #[inline(always)]
    pub fn sum(&self, n: usize, block: usize) -> f32 {
        self.sums[n * self.tiles + block / TILE][block % TILE]
    }
}

/// One block of eight rows, step by step: what a product of many columns reads in one go.
#[derive(Clone, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Eight {
    /// Step k holds codes 4 k.. of every row.
    pub quads: [[[i8; 4]; 8]; BLOCK / 4],
    /// Scales of the rows.
    pub scales: [f32; 8],
    /// Sums of the codes, times the scale.
    pub sums: [f32; 8],
}

impl Int8 {
    /// The rows by eights, `[N / 8][blocks]`, zeros where the last eight has no row.
    pub fn by_eight(&self, blocks: usize) -> Vec<Eight> {
        let count = self.codes.len() / self.tiles;
        let rows = |part: usize| 8 * part..count.min(8 * part + 8);
        let parts = (0..count.div_ceil(8)).flat_map(|part| (0..blocks).map(move |block| (part, block)));
        parts.map(|(part, block)| self.eight(rows(part), block)).collect()
    }

    fn eight(&self, rows: std::ops::Range<usize>, block: usize) -> Eight {
        let mut eight = Eight { quads: [[[0; 4]; 8]; BLOCK / 4], scales: [0.0; 8], sums: [0.0; 8] };
        for (i, n) in rows.enumerate() {
            (eight.scales[i], eight.sums[i]) = (self.scale(n, block), self.sum(n, block));
            for half in [0, 1] {
                let quads = eight.quads[half * HALF / 4..].iter_mut();
                quads.zip(self.half(n, block, half).as_chunks().0).for_each(|(to, from)| to[i] = *from);
            }
        }
        eight
    }
}

#[inline(always)]
fn quantise_group(group: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    if !group.iter().all(|x| x.is_finite()) {
        return ([0; BLOCK], f32::NAN);
    }
    let max = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if max < TINY {
        return ([0; BLOCK], 0.0);
    }
    let inverse = 127.0 / max;
    (group.map(|x| (x * inverse).round_ties_even() as i8), max / 127.0)
}
