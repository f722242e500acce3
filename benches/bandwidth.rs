//! The plane kernels in GB/s of stored bytes (1e9) and in multiply-adds, beside a plain pass over memory in the same
//! rounds: medians of interleaved samples from sets that no cache holds, d = 4096, one and two threads, and the share of
//! the pass that each kernel reaches. `cargo bench --bench bandwidth [-- --quick] [PARTS OF ROW NAMES]`; `M2CACHE_ISA` chooses the set.
#![allow(clippy::unwrap_used, missing_docs)]

use m2cache_rs::config::{Coding, Form};
use m2cache_rs::kernels::accumulate::ChunkSum;
use m2cache_rs::kernels::panel::Panel;
use m2cache_rs::kernels::project::{Inputs, project};
use m2cache_rs::kernels::{Arithmetic, Cpu, Isa, stream};
use m2cache_rs::mem::{Arena, ReadLease, SlotId};
use m2cache_rs::quant::{PlaneView, Rows};
use m2cache_rs::types::{CHUNK, Level, Plane};
use rayon::ThreadPoolBuilder;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const WIDTH: usize = 4096;
const SET: usize = 256 << 20;
const SAMPLES: usize = 101;

/// A set is worked through in parts of 16 chunks, around a millisecond each: on a busy machine most are not interrupted.
const PART: usize = 16 * CHUNK;

/// Records of one matrix with random codes, in memory like the cache's.
struct Weights {
    coding: Coding,
    planes: Vec<ReadLease>,
}

/// A row of the table: its name, the bytes of a part, what it does with a part.
struct Row<'a> {
    name: String,
    bytes: usize,
    /// Multiply-adds of a part.
    products: usize,
    parts: usize,
    run: Box<dyn FnMut(usize) + Send + 'a>,
}

impl Weights {
    fn random(form: Form) -> Weights {
        let coding = Coding { form, group: 64, cells: [1, 1, 1] };
        let size = |plane: Plane, level| SET / record_bytes(&coding, level) * coding.plane_bytes(plane, WIDTH);
        let sizes = [size(Plane::Base, Level::L4), size(Plane::Mid, Level::L8), size(Plane::Low, Level::L16)];
        let arena = Arena::new(&[&sizes]).unwrap();
        for slot in 0..3 {
            noise(&mut arena.write(SlotId(slot)).unwrap());
        }
        let mut base = arena.write(SlotId(0)).unwrap();
        // Lower ends and ranges near 0.001 and 0.002.
        for record in base.chunks_exact_mut(coding.plane_bytes(Plane::Base, WIDTH)) {
            record[WIDTH / 2..].as_chunks_mut().0.fill(0x1818_1418u32.to_le_bytes());
        }
        drop(base);
        Weights { coding, planes: (0..3).map(|slot| arena.read(SlotId(slot)).unwrap()).collect() }
    }

    fn rows(&self, level: Level) -> Rows<'_> {
        let records = SET / record_bytes(&self.coding, level) / PART * PART;
        let mut planes = [PlaneView::EMPTY; 3];
        for (view, plane) in planes.iter_mut().zip(level.planes()) {
            let stride = self.coding.plane_bytes(*plane, WIDTH);
            *view = PlaneView::of(&self.planes[*plane as usize][..records * stride], stride, 0);
        }
        Rows { coding: self.coding, level, width: WIDTH, records, planes }
    }
}

fn record_bytes(coding: &Coding, level: Level) -> usize {
    level.planes().iter().map(|p| coding.plane_bytes(*p, WIDTH)).sum()
}

fn noise(bytes: &mut [u8]) {
    let mut state = 1u64;
    for word in bytes.as_chunks_mut().0 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *word = (state ^ state >> 29).to_le_bytes();
    }
}

/// `cpus`: in integers, and in f32.
fn rows<'a>(weights: &'a Weights, cpus: &'a [Cpu; 2]) -> Vec<Row<'a>> {
    let mut all = vec![pass(weights, &cpus[0])];
    for level in [Level::L4, Level::L8, Level::L16] {
        for count in [1, 8, 32, 256] {
            for cpu in cpus.iter().skip(usize::from(level == Level::L16)) {
                all.push(dots(weights.rows(level), cpu, count));
                all.push(sums(weights.rows(level), cpu, count));
            }
        }
    }
    all
}

fn pass<'a>(weights: &'a Weights, cpu: &'a Cpu) -> Row<'a> {
    let bytes = PART * record_bytes(&weights.coding, Level::L4);
    let words: &[u64] = bytemuck::cast_slice(&weights.planes[0][..weights.planes[0].len() / 8 * 8]);
    let run = move |part: usize| {
        let words = &words[part * bytes / 8..][..bytes / 8];
        black_box(cpu.run(|| stream::read(cpu.isa, words)));
    };
    Row { name: "read".into(), bytes, products: 0, parts: 8 * words.len() / bytes, run: Box::new(run) }
}

/// A row that works through the chunks of every part.
fn row<'a>(
    name: &str,
    cpu: &'a Cpu,
    rows: Rows<'a>,
    count: usize,
    mut chunk: impl FnMut(&Rows<'a>) + Send + 'a,
) -> Row<'a> {
    let kind = if cpu.arithmetic.is_integer(rows.level) { "int8" } else { "f32" };
    let name = format!("{name} {kind} level {} N {count}", rows.level.bits());
    let (bytes, parts) = (PART * record_bytes(&rows.coding, rows.level), rows.records / PART);
    // Many columns take long enough with a single chunk.
    let records = if count > 32 { CHUNK } else { PART };
    let bytes = bytes / (PART / records);
    let run = move |part: usize| {
        let first = (part * PART..part * PART + records).step_by(CHUNK);
        cpu.run(|| first.for_each(|first| chunk(&rows.slice(first, first + CHUNK))));
    };
    Row { name, bytes, products: records * WIDTH * count, parts, run: Box::new(run) }
}

fn dots<'a>(rows: Rows<'a>, cpu: &'a Cpu, count: usize) -> Row<'a> {
    let x: Vec<f32> = (0..count * WIDTH).map(|i| (i as f32 * 0.7).sin()).collect();
    let inputs = Inputs::new(cpu, &x, WIDTH, &[rows.level]);
    let mut out = Panel::new(CHUNK, count);
    row("dot", cpu, rows, count, move |rows| {
        project(cpu, rows, &inputs, black_box(&mut out));
    })
}

fn sums<'a>(rows: Rows<'a>, cpu: &'a Cpu, count: usize) -> Row<'a> {
    let factors: Vec<f32> = (0..count * CHUNK).map(|i| (i as f32 * 0.3).sin()).collect();
    let factors = Panel::of_rows(&factors, CHUNK, 0..CHUNK);
    let mut sum = ChunkSum::new(count, WIDTH);
    row("sum", cpu, rows, count, move |rows| {
        black_box(&mut sum).add(cpu, rows, &factors, cpu.threads());
    })
}

/// Median rates in GB/s, parts and rows interleaved.
fn medians(rows: &mut [Row], samples: usize) -> Vec<f64> {
    let mut rates = vec![vec![]; rows.len()];
    for sample in 0..samples {
        for (row, rates) in rows.iter_mut().zip(&mut rates) {
            let start = Instant::now();
            (row.run)(sample % row.parts);
            rates.push(row.bytes as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    rates.iter_mut().for_each(|r| r.sort_by(f64::total_cmp));
    rates.iter().map(|r| r[samples / 2]).collect()
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let samples = if std::env::args().any(|a| a == "--quick") { 3 } else { SAMPLES };
    let isa = Isa::chosen().unwrap();
    let weights = Weights::random(Form::Affine);
    println!("{}, affine, group 64, d = {WIDTH}, {} MiB", isa.name(), SET >> 20);
    for threads in [1, 2] {
        let pool = Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        let cpus = [Arithmetic::Integer, Arithmetic::Float].map(|arithmetic| Cpu::new(isa, arithmetic, pool.clone()));
        let mut rows = rows(&weights, &cpus);
        rows.retain(|row| row.name == "read" || wanted.iter().all(|part| row.name.contains(part)));
        let rates = medians(&mut rows, samples);
        for (row, rate) in rows.iter().zip(&rates) {
            println!(
                "{threads} threads  {:24} {rate:6.1} GB/s  {:3.0} % of reading  {:6.1} G multiply-adds/s",
                row.name,
                100.0 * rate / rates[0],
                rate * row.products as f64 / row.bytes as f64,
            );
        }
    }
}
