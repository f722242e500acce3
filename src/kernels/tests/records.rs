//! Records for the tests of kernels, and the noise they are made of.

use crate::config::{Coding, Form};
use crate::kernels::panel::Panel;
use crate::quant::{PlaneView, Rows, encode_record};
use crate::types::{Level, Plane};
use half::f16;
use proptest::prelude::*;

/// A small generator, so that one seed makes a case.
#[derive(Clone, Debug)]
pub struct Noise(pub u64);

impl Noise {
    /// 31 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// Records of one matrix in the planes that a level reads.
#[derive(Clone, Debug)]
pub struct Records {
    pub coding: Coding,
    pub level: Level,
    pub width: usize,
    pub count: usize,
    /// Bytes before a record's part and behind it, as where sections hold several matrices.
    pub around: (usize, usize),
    pub planes: Vec<Vec<u8>>,
}

impl Records {
    /// Zeros.
    pub fn new(coding: Coding, level: Level, width: usize, count: usize, around: (usize, usize)) -> Records {
        let mut records = Records { coding, level, width, count, around, planes: vec![] };
        records.planes = level.planes().iter().map(|plane| vec![0; count * records.stride(*plane)]).collect();
        records
    }

    /// Random bytes; scales are what `scale` makes of the noise.
    pub fn random(mut self, noise: &mut Noise, mut scale: impl FnMut(&mut Noise) -> f16) -> Records {
        self.planes.iter_mut().flatten().for_each(|byte| *byte = noise.next() as u8);
        (0..self.count).for_each(|r| self.set_scales(r, |_| scale(noise)));
        self
    }

    /// Weights `[records, width]`.
    pub fn encoded(coding: Coding, level: Level, width: usize, weights: &[f32]) -> Records {
        let mut records = Records::new(coding, level, width, weights.len() / width, (0, 0));
        records.planes.iter_mut().for_each(Vec::clear);
        for row in weights.chunks_exact(width) {
            let mut planes: Vec<Vec<u8>> = Plane::ALL.iter().map(|p| vec![0; coding.plane_bytes(*p, width)]).collect();
            let mut views: Vec<&mut [u8]> = planes.iter_mut().map(Vec::as_mut_slice).collect();
            encode_record(&coding, row, &mut views).unwrap();
            records.planes.iter_mut().zip(planes).for_each(|(all, plane)| all.extend(plane));
        }
        records
    }

    /// Replaces the scales of record `r`.
    pub fn set_scales(&mut self, r: usize, mut scale: impl FnMut(usize) -> f16) {
        let (stride, scales) = (self.stride(Plane::Base), self.coding.scale_bytes(self.width));
        let end = (r + 1) * stride - self.around.1;
        for (i, to) in self.planes[0][end - scales..end].as_chunks_mut().0.iter_mut().enumerate() {
            *to = scale(i).to_le_bytes();
        }
    }

    /// Those at `places`, copied together.
    pub fn copied(&self, places: &[u32]) -> Records {
        let copied = |plane: &Plane| {
            let record = |place: &u32| self.planes[*plane as usize][*place as usize * self.stride(*plane)..].iter();
            places.iter().flat_map(|place| record(place).take(self.stride(*plane))).copied().collect()
        };
        Records { count: places.len(), planes: self.level.planes().iter().map(copied).collect(), ..self.clone() }
    }

    /// All of them.
    pub fn rows(&self) -> Rows<'_> {
        let Records { coding, level, width, count, .. } = *self;
        let mut planes = [PlaneView::EMPTY; 3];
        for ((view, plane), bytes) in planes.iter_mut().zip(Plane::ALL).zip(&self.planes) {
            *view = PlaneView::of(bytes, self.stride(plane), self.around.0);
        }
        Rows { coding, level, width, records: count, planes }
    }

    /// Those at places that are listed for each plane.
    pub fn listed<'a>(&'a self, places: [&'a [u32]; 3]) -> Rows<'a> {
        let mut rows = Rows { records: places[0].len(), ..self.rows() };
        rows.planes.iter_mut().zip(places).take(self.planes.len()).for_each(|(view, places)| *view = view.at(places));
        rows
    }

    fn stride(&self, plane: Plane) -> usize {
        self.around.0 + self.coding.plane_bytes(plane, self.width) + self.around.1
    }
}

/// Forms, groups and where in its cell a code lies.
pub fn codings() -> impl Strategy<Value = Coding> {
    let form = prop_oneof![Just(Form::Symmetric), Just(Form::Affine)];
    (form, prop_oneof![3 => Just(64usize), 1 => Just(32)], [0u8..2, 0u8..2, 0u8..2])
        .prop_map(|(form, group, cells)| Coding { form, group, cells })
}

/// All of them.
pub fn levels() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::L4), Just(Level::L8), Just(Level::L16)]
}

/// The bits of a panel, `[N][records]`.
pub fn panel_bits(panel: &Panel) -> Vec<u32> {
    bits((0..panel.columns()).flat_map(|n| panel.column(n)))
}

/// Bits, with one for all that are not a number: which of those comes out of a sum of two is the compiler's choice.
pub fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}
