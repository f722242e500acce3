//! The bookkeeping of the cache in calls a second, and the selection of neurons.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use m2cache_rs::config::{Above, Cut};
use m2cache_rs::select::{ActiveSet, choose};
use m2cache_rs::tier::{Block, BlockId, Dram};
use std::hint::black_box;

fn tier(c: &mut Criterion) {
    let blocks: Vec<Block> = (0..5000).map(|i| Block { bytes: 1 << 20, position: (i % 43) as f32 / 43.0 }).collect();
    let mut group = c.benchmark_group("tier");
    group.bench_function("place 5000 blocks", |b| b.iter(|| Dram::place(&blocks, 3 << 30)));
    let dram = Dram::place(&blocks, 3 << 30);
    group.bench_function("find", |b| b.iter(|| dram.find(black_box(BlockId(1234)))));
}

/// Neurons of a layer of LLaMA-2-7B.
const NEURONS: usize = 11008;

/// Scores as a gated FFN has them: the sizes of products of two numbers of a bell curve (roughly: sums of four).
fn scores(columns: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut bell = || {
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        uniform() + uniform() + uniform() + uniform()
    };
    (0..columns * NEURONS).map(|_| (bell() * bell()).abs()).collect()
}

fn select(c: &mut Criterion) {
    let half = NEURONS / 2;
    let cuts = [
        ("half at 4", Cut::Top([0, 0, half])),
        ("half, 25/25/50", Cut::Top([half / 4, half / 4, half / 2])),
        ("above", Cut::Above(Above { scores: [Some(0.3), Some(0.2), Some(0.04)], most: half })),
    ];
    let mut group = c.benchmark_group("select, 11008 neurons");
    for columns in [1, 32] {
        let scores = scores(columns);
        let mut set = ActiveSet::empty(columns, NEURONS);
        group.throughput(Throughput::Elements(columns as u64));
        for (name, cut) in &cuts {
            group.bench_function(BenchmarkId::new(*name, columns), |b| {
                b.iter(|| choose(None, black_box(&scores), NEURONS, cut, &mut set))
            });
        }
    }
}

criterion_group!(benches, tier, select);
criterion_main!(benches);
