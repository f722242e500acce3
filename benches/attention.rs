//! Attention of one token over a KV cache that no processor cache holds, in bytes of keys and values a second: heads of
//! 128 elements in the two usual groupings, short to long contexts, both kinds. To be read beside `stream` of
//! benches/core.rs. `cargo bench --bench attention [-- PARTS OF NAMES]`
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use m2cache_rs::kernels::Isa;
use m2cache_rs::kernels::attention::{Heads, attend};
use m2cache_rs::kv::{HeadView, KvCache, KvKind, Rope, SequenceId, Shape};
use m2cache_rs::types::LayerId;
use std::hint::black_box;

const DIM: usize = 128;
/// Keys and values of all layers together: every iteration reads another layer.
const SET: usize = 256 << 20;

/// A cache with `positions` positions in as many layers as fill the set.
fn filled(kv_heads: usize, kind: KvKind, positions: usize) -> (KvCache, SequenceId, usize) {
    let bytes = Shape::new(1, kv_heads, DIM, kind).unwrap().bytes_for(positions).unwrap() as usize;
    let layers = SET.div_ceil(bytes);
    let mut cache = KvCache::new(Shape::new(layers, kv_heads, DIM, kind).unwrap(), None).unwrap();
    let id = cache.create(Rope { inv_freq: vec![1.0; DIM / 2], attention_factor: 1.0 }).unwrap();
    let rows: Vec<f32> = (0..positions * kv_heads * DIM).map(|i| (i as f32 * 0.7).sin()).collect();
    for layer in 0..layers {
        cache.append(LayerId(layer as u32), id, 0..kv_heads, 0, &rows, &rows).unwrap();
    }
    (cache, id, layers)
}

fn attention(c: &mut Criterion) {
    for (name, kv_heads, group) in [("4 query heads per KV head", 8, 4), ("1 query head per KV head", 32, 1)] {
        let heads = Heads { kv_heads, group, head_dim: DIM, scale: 0.09 };
        let q = vec![0.3; kv_heads * group * DIM];
        let mut out = vec![0.0; q.len()];
        for kind in [KvKind::F16, KvKind::F32] {
            let mut bench = c.benchmark_group(format!("attention, {name}, {kind:?}"));
            for positions in [64usize, 1024, 4096] {
                let (cache, id, layers) = filled(kv_heads, kind, positions);
                let bytes = positions * kv_heads * DIM * 2 * kind.bytes();
                bench.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
                let mut layer = 0;
                bench.bench_function(BenchmarkId::from_parameter(positions), |b| {
                    b.iter(|| {
                        layer = (layer + 1) % layers;
                        let view = |head| cache.read(LayerId(layer as u32), id, head).unwrap();
                        let views: Vec<HeadView> = (0..kv_heads).map(view).collect();
                        let at = [positions as u32 - 1];
                        attend(Isa::chosen().unwrap(), &heads, &q, &at, |_, h| views[h].blocks(), black_box(&mut out))
                    })
                });
            }
        }
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
