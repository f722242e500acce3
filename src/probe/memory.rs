//! Rates at which this machine goes through weights in memory: reading them, and computing with them.

use super::median_rate;
use super::scratch::Noise;
use crate::config::{Coding, Form};
use crate::error::{Error, Result};
use crate::kernels::accumulate::ChunkSum;
use crate::kernels::panel::Panel;
use crate::kernels::project::{Inputs, project};
use crate::kernels::{Arithmetic, Cpu, Isa, stream};
use crate::mem::{Arena, ReadLease, SlotId};
use crate::quant::{PlaneView, Rows};
use crate::types::{CHUNK, Level, Plane};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// Weights a record: the model dimension of 7B and 8B models.
const WIDTH: usize = 4096;
/// What conversion writes unless told otherwise.
const CODING: Coding = Coding { form: Form::Affine, group: 64, cells: [1; 3] };
/// Bytes read between two looks at the clock: about as short as a chunk of records, so that other programs disturb both
/// alike, and long enough for every thread.
const STEP: usize = 4 << 20;
/// The least that is measured: a chunk of records with all planes.
const LEAST: usize = STEP;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// [`project`]: q, k, v, gate, up, head.
    Dot,
    /// [`ChunkSum::add`]: o, down.
    Accumulate,
}

/// Random weights in the memory that the cache uses, and the threads that go through them.
pub struct Memory {
    bytes: ReadLease,
    cpu: Cpu,
}

impl Memory {
    /// `bytes` of weights, which should be several times the caches; none for `threads` takes one per core.
    ///
    /// # Errors
    /// `Error::Usage` for under 4 MiB or over 1 GiB, and for an instruction set forced that is not there; `Error::Memory`.
    pub fn new(bytes: usize, threads: Option<usize>) -> Result<Memory> {
        if !(LEAST..=1 << 30).contains(&bytes) {
            return Err(Error::usage(format!("{bytes} bytes of memory to measure; it must be 4 MiB to 1 GiB")));
        }
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let built = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = built.map_err(|e| Error::usage(format!("could not start {threads} threads: {e}")))?;
        let mut lease = Arena::new(&[&[bytes]])?.write(SlotId(0))?;
        let stride = CODING.plane_bytes(Plane::Base, WIDTH);
        pool.install(|| lease.par_chunks_mut(stride).enumerate().for_each(|(r, record)| fill(r, record)));
        let cpu = Cpu::new(Isa::chosen()?, Arithmetic::Integer, Arc::new(pool));
        Ok(Memory { bytes: lease.into_read(), cpu })
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.cpu.threads()
    }

    /// GB of memory read a second, by all threads or by one.
    pub fn bandwidth(&self, all: bool, limit: Duration) -> f64 {
        let words: &[u64] = bytemuck::cast_slice(&self.bytes[..self.bytes.len() / STEP * STEP]);
        let mut steps = words.chunks(STEP / 8).cycle();
        let read = if all { stream::read } else { stream::read_alone };
        self.cpu.run(|| {
            median_rate(limit, || {
                let step = steps.next().unwrap_or_default();
                black_box(read(self.cpu.isa, step));
                8 * step.len()
            })
        })
    }

    /// GB of stored weights that a kernel takes a second at a level for one token, on all threads, a chunk of records for
    /// each as in a layer.
    pub fn kernel(&self, kernel: Kernel, level: Level, limit: Duration) -> f64 {
        let rows = self.rows(level);
        let chunks = self.cpu.threads().clamp(1, (rows.records / CHUNK).max(1));
        let records = chunks * CHUNK;
        let bytes = rows.planes.iter().map(PlaneView::stride).sum::<usize>() * records;
        let mut step: Box<dyn FnMut(&Rows) + Send + '_> = match kernel {
            Kernel::Dot => dot(&self.cpu, level, records),
            Kernel::Accumulate => accumulate(&self.cpu, chunks),
        };
        let mut parts = (0..rows.records / records).cycle();
        self.cpu.run(|| {
            median_rate(limit, || {
                let first = parts.next().unwrap_or(0) * records;
                step(&rows.slice(first, first + records));
                bytes
            })
        })
    }

    /// As many records as the memory holds at a level, plane after plane.
    fn rows(&self, level: Level) -> Rows<'_> {
        let strides: Vec<usize> = level.planes().iter().map(|p| CODING.plane_bytes(*p, WIDTH)).collect();
        let records = self.bytes.len() / strides.iter().sum::<usize>();
        let mut rest = &self.bytes[..];
        let mut planes = [PlaneView::EMPTY; 3];
        for (view, stride) in planes.iter_mut().zip(strides) {
            let (bytes, behind) = rest.split_at(records * stride);
            rest = behind;
            *view = PlaneView::of(bytes, stride, 0);
        }
        Rows { coding: CODING, level, width: WIDTH, records, planes }
    }
}

fn dot(cpu: &Cpu, level: Level, records: usize) -> Box<dyn FnMut(&Rows) + Send + '_> {
    let x: Vec<f32> = (0..WIDTH).map(|i| (i as f32).sin()).collect();
    let (inputs, mut out) = (Inputs::new(cpu, &x, WIDTH, &[level]), Panel::new(records, 1));
    Box::new(move |rows| project(cpu, rows, &inputs, black_box(&mut out)))
}

fn accumulate(cpu: &Cpu, chunks: usize) -> Box<dyn FnMut(&Rows) + Send + '_> {
    let factors = Panel::of_rows(&[0.5; CHUNK], CHUNK, 0..CHUNK);
    let mut sums = vec![ChunkSum::new(1, WIDTH); chunks];
    Box::new(move |rows| {
        black_box(&mut sums).par_iter_mut().enumerate().for_each(|(i, sum)| {
            sum.add(cpu, &rows.slice(i * CHUNK, (i + 1) * CHUNK), black_box(&factors), 1);
        });
    })
}

/// Random codes, and scales of the range -1 to 1: random ones would make infinities and denormals.
fn fill(index: usize, record: &mut [u8]) {
    Noise(index as u64 + 1).fill(record);
    let codes = CODING.plane_bytes(Plane::Base, WIDTH) - CODING.scale_bytes(WIDTH);
    if let Some(scales) = record.get_mut(codes..) {
        let pair = [half::f16::NEG_ONE.to_le_bytes(), half::f16::from_f32_const(2.0).to_le_bytes()].concat();
        scales.chunks_exact_mut(4).for_each(|scale| scale.copy_from_slice(&pair));
    }
}
