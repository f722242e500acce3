//! Stores of random weights, for shapes whose real weights cannot be had: codes are drawn as they are stored, without
//! coding a single weight, so that the disk sets the pace.

use super::layout::{FileLayout, SectionLayout};
use super::writer::StoreWriter;
use crate::config::{Architecture, Coding, Encoding, Form};
use crate::error::Result;
use crate::types::{BLOCK, Matrix, Plane};
use half::f16;
use rayon::prelude::*;

/// Bytes drawn at a time: all the memory that it takes.
const TILE: usize = 8 << 20;
/// Sections of a file are numbered below this in the seed of their records, vectors above.
const VECTORS: u64 = 1 << 32;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl StoreWriter {
    /// Fills the open file with random weights that depend on nothing but `seed`, the file and the shape.
    ///
    /// Weights of a matrix with n inputs are uniform within ±√(3 / n), so that inputs of variance 1 give outputs of
    /// variance 1 and activations stay finite at any depth; gains are 1, biases uniform within ±0.1.
    ///
    /// # Errors
    /// `Error::Usage` when no file is open, `Error::Io`.
    pub fn synthesize(&mut self, seed: u64) -> Result<()> {
        let (file, layout) = self.opened_layout()?;
        let seed = mix(seed ^ mix(file as u64));
        for (index, vector) in layout.vectors.iter().enumerate() {
            self.vector(&vector.name, &vector_values(&vector.name, vector.len, mix(seed ^ (VECTORS + index as u64))))?;
        }
        (0..layout.sections.len()).try_for_each(|index| self.draw_section(&layout, index, mix(seed ^ index as u64)))
    }

    fn draw_section(&mut self, layout: &FileLayout, index: usize, seed: u64) -> Result<()> {
        let section = &layout.sections[index];
        let (arch, encoding) = self.shape();
        let pattern = Pattern::new(section, arch, encoding);
        let tile = (TILE / section.stride / section.check).max(1) * section.check;
        let mut bytes = vec![0; tile.min(section.records) * section.stride];
        for first in (0..section.records).step_by(tile) {
            let part = &mut bytes[..tile.min(section.records - first) * section.stride];
            let records = part.par_chunks_exact_mut(section.stride).enumerate();
            records.for_each(|(r, out)| pattern.draw(mix(seed.wrapping_add((first + r) as u64)), out));
            self.coded(index, first, part)?;
        }
        Ok(())
    }
}

/// What the records of a section have in common, as little-endian words: which bits are drawn, and the scales.
struct Pattern {
    drawn: Vec<u64>,
    fixed: Vec<u64>,
}

impl Pattern {
    fn new(section: &SectionLayout, arch: &Architecture, encoding: &Encoding) -> Pattern {
        let (mut drawn, mut fixed) = (Vec::with_capacity(section.stride), Vec::with_capacity(section.stride));
        for (matrix, plane) in &section.parts {
            drawn.extend(drawn_bits(*plane, arch.hidden));
            fixed.resize(drawn.len(), 0);
            if *plane == Plane::Base {
                fixed.extend(scales(&encoding.coding, arch.hidden, largest(arch, *matrix)));
                drawn.resize(fixed.len(), 0);
            }
        }
        drawn.resize(section.stride, 0);
        fixed.resize(section.stride, 0);
        Pattern { drawn: words(&drawn), fixed: words(&fixed) }
    }

    fn draw(&self, seed: u64, record: &mut [u8]) {
        let words = self.drawn.iter().zip(&self.fixed).zip(record.chunks_exact_mut(8)).enumerate();
        for (i, ((drawn, fixed), out)) in words {
            let random = mix(seed.wrapping_add((i as u64).wrapping_mul(GOLDEN)));
            out.copy_from_slice(&(random & drawn | fixed).to_le_bytes());
        }
    }
}

/// Strides are whole cache lines, so nothing is left over.
fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|w| u64::from_le_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]])).collect()
}

/// One for every bit of a record's plane that belongs to a weight: codes behind the width stay 0.
fn drawn_bits(plane: Plane, width: usize) -> impl Iterator<Item = u8> {
    let size = plane.block_bytes();
    (0..width.div_ceil(BLOCK) * size).map(move |at| {
        let first = at / size * BLOCK + at % size;
        let (here, later) = (first < width, first + BLOCK / 2 < width);
        match plane {
            Plane::Low => u8::from(here) * 0xff,
            Plane::Base | Plane::Mid => u8::from(here) * 0x0f + u8::from(later) * 0xf0,
        }
    })
}

/// The scales of a record whose weights lie within ±`largest`; groups behind the width have none.
fn scales(coding: &Coding, width: usize, largest: f32) -> Vec<u8> {
    let entry: Vec<f16> = match coding.form {
        Form::Symmetric => vec![f16::from_f32(largest)],
        Form::Affine => vec![f16::from_f32(-largest), f16::from_f32(2.0 * largest)],
    };
    let entry: Vec<u8> = entry.iter().flat_map(|s| s.to_le_bytes()).collect();
    let mut all = entry.repeat(width.div_ceil(coding.group));
    all.resize(coding.scale_bytes(width), 0);
    all
}

/// √(3 / inputs): the bound of a uniform distribution of variance 1 / inputs.
fn largest(arch: &Architecture, matrix: Matrix) -> f32 {
    let inputs = match matrix {
        Matrix::O | Matrix::Down => arch.records(matrix),
        _ => arch.hidden,
    };
    (3.0 / inputs as f32).sqrt()
}

fn vector_values(name: &str, len: usize, seed: u64) -> Vec<f32> {
    let bias = |i: usize| (mix(seed.wrapping_add(i as u64)) >> 40) as f32 / (1 << 24) as f32 * 0.2 - 0.1;
    (0..len).map(|i| if name.starts_with("bias.") { bias(i) } else { 1.0 }).collect()
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014): any two inputs give unrelated outputs.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(GOLDEN);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bits_behind_the_width_are_never_drawn() {
        let count = |plane, width| drawn_bits(plane, width).map(u8::count_ones).sum::<u32>() as usize;
        for width in [1, 31, 32, 33, 63, 64, 65, 72, 4096] {
            assert_eq!(count(Plane::Base, width), 4 * width);
            assert_eq!(count(Plane::Mid, width), 4 * width);
            assert_eq!(count(Plane::Low, width), 8 * width);
        }
        assert_eq!(drawn_bits(Plane::Base, 33).take(3).collect::<Vec<_>>(), [0xff, 0x0f, 0x0f]);
    }

    #[test]
    fn scales_cover_the_width_and_nothing_behind_it() {
        let affine = Coding { form: Form::Affine, group: 32, cells: [1, 1, 1] };
        let (lo, range) = (f16::from_f32(-0.5).to_le_bytes(), f16::ONE.to_le_bytes());
        let entry = [lo, range].concat();
        assert_eq!(scales(&affine, 65, 0.5), [entry.repeat(3), vec![0; 4]].concat());
        let symmetric = Coding { form: Form::Symmetric, group: 64, cells: [1, 1, 1] };
        assert_eq!(scales(&symmetric, 64, 1.0), f16::ONE.to_le_bytes());
    }

    #[test]
    fn mix_is_the_published_generator() {
        assert_eq!([mix(0), mix(GOLDEN)], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }
}
