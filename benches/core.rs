//! The bookkeeping of the cache in calls a second.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use m2cache_rs::tier::{Block, BlockId, Dram};
use std::hint::black_box;

fn tier(c: &mut Criterion) {
    let blocks: Vec<Block> = (0..5000).map(|i| Block { bytes: 1 << 20, position: (i % 43) as f32 / 43.0 }).collect();
    let mut group = c.benchmark_group("tier");
    group.bench_function("place 5000 blocks", |b| b.iter(|| Dram::place(&blocks, 3 << 30)));
    let dram = Dram::place(&blocks, 3 << 30);
    group.bench_function("find", |b| b.iter(|| dram.find(black_box(BlockId(1234)))));
}

criterion_group!(benches, tier);
criterion_main!(benches);
