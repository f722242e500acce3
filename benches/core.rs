//! The core's inner loops in bytes of stored weights a second, to be read beside the machine's memory bandwidth (the
//! `stream` row), and the bookkeeping of the cache in calls a second. Weights are random.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use m2cache_rs::config::{Coding, Form};
use m2cache_rs::kernels::Isa;
use m2cache_rs::kernels::accumulate::Accumulator;
use m2cache_rs::kernels::project::{Inputs, project};
use m2cache_rs::quant::{Column, Rows, encode_record};
use m2cache_rs::tier::{Block, BlockId, Dram};
use m2cache_rs::types::{Level, Plane};
use std::hint::black_box;

const WIDTH: usize = 4096;
const RECORDS: usize = 1024;

struct Weights {
    coding: Coding,
    planes: Vec<Vec<u8>>,
}

impl Weights {
    fn random(form: Form) -> Weights {
        let coding = Coding { form, group: 64, cells: [1, 1, 1] };
        let mut planes: Vec<Vec<u8>> = vec![vec![]; 3];
        for r in 0..RECORDS {
            let row: Vec<f32> = (0..WIDTH).map(|i| ((r * WIDTH + i) as f32 * 0.7).sin()).collect();
            let mut parts: Vec<Vec<u8>> = Plane::ALL.iter().map(|p| vec![0; coding.plane_bytes(*p, WIDTH)]).collect();
            let mut views: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
            encode_record(&coding, &row, &mut views).unwrap();
            planes.iter_mut().zip(parts).for_each(|(all, part)| all.extend(part));
        }
        Weights { coding, planes }
    }

    fn rows(&self, level: Level) -> Rows<'_> {
        let columns = self.planes.iter().take(level.plane_count());
        let columns = columns.map(|p| Column { bytes: p, stride: p.len() / RECORDS, offset: 0 }).collect();
        Rows { coding: self.coding, level, width: WIDTH, count: RECORDS, columns }
    }
}

fn kernels(c: &mut Criterion) {
    let weights = Weights::random(Form::Affine);
    for level in [Level::L4, Level::L8, Level::L16] {
        let rows = weights.rows(level);
        let bytes: usize = rows.columns.iter().map(|c| c.bytes.len()).sum();
        let mut group = c.benchmark_group(format!("{}-bit", level.bits()));
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
        for count in [1usize, 8] {
            let x = vec![0.5f32; count * WIDTH];
            let inputs = Inputs::new(Isa::detect(), &x, WIDTH, level != Level::L16);
            let mut out = vec![0.0; RECORDS * count];
            group.bench_function(BenchmarkId::new("project", count), |b| {
                b.iter(|| project(Isa::detect(), &rows, &inputs, black_box(&mut out)))
            });
            let factors = vec![0.5f32; RECORDS * count];
            group.bench_function(BenchmarkId::new("accumulate", count), |b| {
                let mut sum = Accumulator::new(count, WIDTH, None);
                b.iter(|| sum.add(Isa::detect(), &rows, black_box(&factors)))
            });
        }
    }
}

/// What a pass over memory costs here: the bound of every kernel above.
fn stream(c: &mut Criterion) {
    let memory = vec![1u64; 32 << 20];
    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Bytes(8 * memory.len() as u64)).sample_size(10);
    group.bench_function("sum, one thread", |b| {
        b.iter(|| black_box(&memory).iter().fold(0u64, |s, x| s.wrapping_add(*x)))
    });
}

fn tier(c: &mut Criterion) {
    let blocks: Vec<Block> = (0..5000).map(|i| Block { bytes: 1 << 20, position: (i % 43) as f32 / 43.0 }).collect();
    let mut group = c.benchmark_group("tier");
    group.bench_function("place 5000 blocks", |b| b.iter(|| Dram::place(&blocks, 3 << 30)));
    let dram = Dram::place(&blocks, 3 << 30);
    group.bench_function("find", |b| b.iter(|| dram.find(black_box(BlockId(1234)))));
}

criterion_group!(benches, kernels, stream, tier);
criterion_main!(benches);
