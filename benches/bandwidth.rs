//! The plane kernels in GB/s of stored bytes (1e9) and in multiply-adds, beside a plain pass over memory in the same
//! rounds: medians of interleaved samples from sets that no cache holds, d = 4096, one and two threads, and the share of
//! the pass that each kernel reaches. Rows "of 26", 128 and 256 take so many records of every chunk, here and there, and
//! count their bytes alone. `cargo bench --bench bandwidth [-- --quick] [PARTS OF ROW NAMES]`; `M2CACHE_ISA` chooses the set.
#![allow(clippy::unwrap_used, missing_docs)]

use m2cache_rs::config::{Activation, Coding, Form};
use m2cache_rs::kernels::accumulate::{Accumulator, ChunkSum};
use m2cache_rs::kernels::neurons::{Linear, Neurons, values};
use m2cache_rs::kernels::panel::Panel;
use m2cache_rs::kernels::project::{Inputs, project};
use m2cache_rs::kernels::{Arithmetic, Cpu, Isa, stream};
use m2cache_rs::mem::{Arena, ReadLease, SlotId};
use m2cache_rs::quant::{PlaneView, Rows};
use m2cache_rs::types::{CHUNK, Level, Plane};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const WIDTH: usize = 4096;
const SET: usize = 256 << 20;
const SAMPLES: usize = 101;

/// A set is worked through in parts of 16 chunks, around a millisecond each: on a busy machine most are not interrupted.
const PART: usize = 16 * CHUNK;

/// Lists of the same chunks that take turns: what one lists is not in a cache when its turn comes again.
const SETS: usize = 16;

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
    for level in [Level::L4, Level::L8, Level::L16] {
        for some in [26, 128, CHUNK] {
            all.push(pass_listed(weights.rows(level), &cpus[0], some));
            for count in [1, 8] {
                let cpu = &cpus[usize::from(level == Level::L16)];
                all.push(dots_listed(weights.rows(level), cpu, count, some));
                all.push(sums_listed(weights.rows(level), cpu, count, some));
            }
        }
    }
    all.extend([26, 128, CHUNK].map(|some| Layer::new(weights, &cpus[0], some).row()));
    all
}

/// Rising places of `some` of every chunk's records, drawn at random.
fn lists(chunks: usize, some: usize) -> Vec<Vec<u32>> {
    let mut state = 7u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let list = |_| {
        let mut left = some;
        (0..CHUNK as u32)
            .filter(|place| {
                let taken = below(CHUNK - *place as usize) < left;
                left -= usize::from(taken);
                taken
            })
            .collect()
    };
    (0..chunks).map(list).collect()
}

/// A row of chunks that threads take one by one, some records of each.
fn row_listed<'a, S: Send + Sync + 'a>(
    name: String,
    cpu: &'a Cpu,
    rows: Rows<'a>,
    some: usize,
    products: usize,
    mut state: Vec<S>,
    chunk: impl Fn(&Rows, &mut S) + Send + Sync + 'a,
) -> Row<'a> {
    let (lists, mut turn) = (lists(SETS * rows.records / CHUNK, some), 0);
    let (per, parts) = (PART / CHUNK, rows.records / PART);
    let bytes = per * some * record_bytes(&rows.coding, rows.level);
    let run = move |part: usize| {
        turn = (turn + 1) % SETS;
        let lists = &lists[turn * rows.records / CHUNK..];
        cpu.run(|| {
            state.par_iter_mut().enumerate().with_max_len(1).for_each(|(i, state)| {
                let at = part * per + i;
                chunk(&rows.slice(at * CHUNK, (at + 1) * CHUNK).at(&lists[at]), state);
            });
        });
    };
    Row { name, bytes, products: per * some * products, parts, run: Box::new(run) }
}

fn pass_listed<'a>(rows: Rows<'a>, cpu: &'a Cpu, some: usize) -> Row<'a> {
    let name = format!("read level {} of {some}", rows.level.bits());
    row_listed(name, cpu, rows, some, 0, vec![(); PART / CHUNK], |rows, ()| {
        for r in 0..rows.records {
            let record = rows.record(r);
            for codes in record.codes.iter().take(rows.level.plane_count()).chain([&record.scales]) {
                let words = bytemuck::cast_slice(codes);
                black_box(stream::read_alone(cpu.isa, words));
            }
        }
    })
}

fn dots_listed<'a>(rows: Rows<'a>, cpu: &'a Cpu, count: usize, some: usize) -> Row<'a> {
    let x: Vec<f32> = (0..count * WIDTH).map(|i| (i as f32 * 0.7).sin()).collect();
    let inputs = Inputs::new(cpu, &x, WIDTH, &[rows.level]);
    let name = format!("dot level {} N {count} of {some}", rows.level.bits());
    let out = vec![Panel::new(some, count); PART / CHUNK];
    row_listed(name, cpu, rows, some, WIDTH * count, out, move |rows, out| project(cpu, rows, &inputs, out))
}

fn sums_listed<'a>(rows: Rows<'a>, cpu: &'a Cpu, count: usize, some: usize) -> Row<'a> {
    let factors: Vec<f32> = (0..count * some).map(|i| (i as f32 * 0.3).sin()).collect();
    let factors = Panel::of_rows(&factors, some, 0..some);
    let name = format!("sum level {} N {count} of {some}", rows.level.bits());
    let sums = vec![ChunkSum::new(count, WIDTH); PART / CHUNK];
    row_listed(name, cpu, rows, some, WIDTH * count, sums, move |rows, sum| sum.add(cpu, rows, &factors, 1))
}

/// An FFN at 4 bits for one token, some of the neurons of each chunk: as the engine computes a layer that lies in memory.
struct Layer<'a> {
    cpu: &'a Cpu,
    all: Rows<'a>,
    /// Neurons of a chunk.
    some: usize,
    lists: Vec<Vec<u32>>,
    inputs: Inputs,
}

impl<'a> Layer<'a> {
    const CHUNKS: usize = 40;

    fn new(weights: &'a Weights, cpu: &'a Cpu, some: usize) -> Layer<'a> {
        let x: Vec<f32> = (0..WIDTH).map(|i| (i as f32 * 0.7).sin()).collect();
        let inputs = Inputs::new(cpu, &x, WIDTH, &[Level::L4]);
        Layer { cpu, all: weights.rows(Level::L4), some, lists: lists(SETS * Self::CHUNKS, some), inputs }
    }

    /// A chunk of a matrix that lies in a section with others, from chunk `first` of all memory on.
    fn matrix(&self, first: usize, of: usize, index: usize) -> Rows<'a> {
        let (stride, bytes) = (self.all.planes[0].stride(), self.all.planes[0].bytes());
        let section = &bytes[first * CHUNK * stride..][..CHUNK * of * stride];
        let base = PlaneView::of(section, of * stride, index * stride);
        Rows { records: CHUNK, planes: [base, PlaneView::EMPTY, PlaneView::EMPTY], ..self.all }
    }

    fn chunk(&self, pair: usize, down: usize, list: &[u32]) -> ChunkSum {
        let linear = |index| Linear { rows: self.matrix(pair, 2, index), bias: None };
        let neurons = Neurons { gate: Some(linear(0)), up: linear(1) };
        let h = values(self.cpu, &self.inputs, Activation::Silu, &neurons.at(list));
        let mut sum = ChunkSum::new(1, WIDTH);
        sum.add(self.cpu, &self.matrix(down, 1, 0).at(list), &h, 1);
        sum
    }

    fn compute(&self, first: usize, lists: &[Vec<u32>]) {
        let chunk = |i: usize| self.chunk(first + 2 * i, first + 2 * Self::CHUNKS + i, &lists[i]);
        let chunks: Vec<ChunkSum> = (0..Self::CHUNKS).into_par_iter().with_max_len(1).map(chunk).collect();
        let mut sum = Accumulator::new(1, WIDTH, None);
        sum.fold(&chunks);
        black_box(sum.finish());
    }

    fn row(self) -> Row<'a> {
        let (name, records) = (format!("layer level 4 N 1 of {}", self.some), 3 * Self::CHUNKS * self.some);
        let (bytes, parts) = (records * self.all.planes[0].stride(), self.all.records / CHUNK / (3 * Self::CHUNKS));
        let mut turn = 0;
        let run = move |part: usize| {
            turn = (turn + 1) % SETS;
            let lists = &self.lists[turn * Self::CHUNKS..];
            self.cpu.run(|| self.compute(part * 3 * Self::CHUNKS, lists));
        };
        Row { name, bytes, products: records * WIDTH, parts, run: Box::new(run) }
    }
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

/// Runs `part` while the other threads of its pool wait for their shares awake, as in the engine: one that sleeps is there
/// when a short row is over.
fn awake<T>(part: impl FnOnce() -> T + Send) -> T
where
    T: Send,
{
    let (me, over) = (rayon::current_thread_index(), AtomicBool::new(false));
    rayon::scope(|scope| {
        scope.spawn_broadcast(|_, context| {
            while Some(context.index()) != me && !over.load(Ordering::Acquire) {
                if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    std::hint::spin_loop();
                }
            }
        });
        let result = part();
        over.store(true, Ordering::Release);
        result
    })
}

/// Median rates in GB/s, parts and rows interleaved.
fn medians(rows: &mut [Row], samples: usize) -> Vec<f64> {
    let mut rates = vec![vec![]; rows.len()];
    for sample in 0..samples {
        for (i, (row, rates)) in rows.iter_mut().zip(&mut rates).enumerate() {
            let start = Instant::now();
            // Not the part that the row before has just brought into the last cache.
            (row.run)((sample + 11 * i) % row.parts);
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
        let rates = cpus[0].run(|| awake(|| medians(&mut rows, samples)));
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
