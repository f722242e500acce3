//! Attention over a KV cache that no processor cache holds, heads of 128 elements, the two usual groupings and two with
//! few KV heads: tokens that are decoded in GB/s of keys and values (1e9) beside a plain pass over memory, prompts in
//! GFLOP/s beside bare multiply-adds. Medians of interleaved samples, one and two threads.
//! `cargo bench --bench attention [-- --quick] [PARTS OF ROW NAMES]`; `M2CACHE_ISA` chooses the set.
#![allow(clippy::unwrap_used, missing_docs)]

use m2cache_rs::kernels::attention::{Heads, attend};
use m2cache_rs::kernels::{Isa, peak, stream};
use m2cache_rs::kv::{HeadView, KvCache, KvKind, Rope, SequenceId, Shape};
use m2cache_rs::types::{Kind, LayerId, Tokens};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::hint::black_box;
use std::time::Instant;

const DIM: usize = 128;
/// Keys and values of all layers together: every sample reads another layer.
const SET: usize = 256 << 20;
/// What a sample of the plain pass reads: a layer of 4096 positions with 32 KV heads.
const PASS: usize = 64 << 20;
const SAMPLES: usize = 31;
/// A length at which prompts would take minutes: a few tokens only.
const LONG: usize = 16384;

/// What a row's rate is compared with.
#[derive(Clone, Copy, PartialEq)]
enum Bound {
    Memory,
    Arithmetic,
}

/// A row of the table: its name, what a sample does and its amount in bytes or operations.
struct Row<'a> {
    name: String,
    bound: Bound,
    amount: usize,
    run: Box<dyn FnMut() + Send + 'a>,
}

/// A sequence of `positions` positions in as many layers as fill the set.
struct Filled {
    cache: KvCache,
    id: SequenceId,
    layers: usize,
    heads: Heads,
    positions: usize,
    kind: KvKind,
}

impl Filled {
    fn new(kv_heads: usize, group: usize, kind: KvKind, positions: usize) -> Filled {
        let bytes = Shape::new(1, kv_heads, DIM, kind).unwrap().bytes_for(positions).unwrap() as usize;
        let layers = SET.div_ceil(bytes);
        let mut cache = KvCache::new(Shape::new(layers, kv_heads, DIM, kind).unwrap(), None).unwrap();
        let id = cache.create(Rope { inv_freq: vec![1.0; DIM / 2], attention_factor: 1.0 }).unwrap();
        let rows: Vec<f32> = (0..64 * kv_heads * DIM).map(|i| (i as f32 * 0.7).sin()).collect();
        // By 64 positions through all layers, as prompts and decoding leave them.
        for first in (0..positions).step_by(64) {
            let rows = &rows[..(positions - first).min(64) * kv_heads * DIM];
            for layer in 0..layers {
                cache.append(LayerId(layer as u32), id, 0..kv_heads, first, rows, rows).unwrap();
            }
        }
        Filled { cache, id, layers, heads: Heads { kv_heads, group, head_dim: DIM, scale: 0.09 }, positions, kind }
    }

    /// The last `count` tokens.
    fn row<'a>(&'a self, isa: Isa, pool: &'a ThreadPool, count: usize) -> Row<'a> {
        let Filled { cache, id, layers, heads, positions, kind } = self;
        let q: Vec<f32> = (0..count * heads.kv_heads * heads.item()).map(|i| (i as f32 * 0.3).sin()).collect();
        let (mut out, mut layer) = (vec![0.0; q.len()], 0);
        let (sequences, at): (Vec<u32>, Vec<u32>) = (positions - count..*positions).map(|p| (0, p as u32)).unzip();
        let seen: usize = at.iter().map(|p| *p as usize + 1).sum();
        let run = move || {
            layer = (layer + 1) % layers;
            let view = |head| cache.read(LayerId(layer as u32), *id, head).unwrap();
            let views: Vec<HeadView> = (0..heads.kv_heads).map(view).collect();
            let tokens = Tokens { sequences: &sequences, positions: &at, kind: Kind::Decode };
            pool.install(|| attend(isa, heads, &q, tokens, |_, h| views[h].blocks(), black_box(&mut out)));
        };
        let (bound, amount) = match count {
            ..=32 => (Bound::Memory, positions * heads.kv_heads * DIM * 2 * kind.bytes()),
            _ => (Bound::Arithmetic, 4 * seen * heads.kv_heads * heads.item()),
        };
        let shape = format!("{} x {}", heads.kv_heads, heads.group);
        Row { name: format!("{shape} {kind:?}, {count} at {positions}"), bound, amount, run: Box::new(run) }
    }
}

fn pass<'a>(isa: Isa, pool: &'a ThreadPool, words: &'a [u64]) -> Row<'a> {
    let mut parts = words.chunks_exact(PASS / 8).cycle();
    let run = move || {
        black_box(pool.install(|| stream::read(isa, parts.next().unwrap())));
    };
    Row { name: "reading".into(), bound: Bound::Memory, amount: PASS, run: Box::new(run) }
}

fn arithmetic(isa: Isa, pool: &ThreadPool) -> Row<'_> {
    const ROUNDS: usize = 1_000_000;
    let amount = pool.current_num_threads() * ROUNDS * peak::ROUND;
    let run = move || {
        pool.broadcast(|_| peak::multiply_add(isa, ROUNDS));
    };
    Row { name: "multiply-adds".into(), bound: Bound::Arithmetic, amount, run: Box::new(run) }
}

/// Median seconds, rows interleaved.
fn medians(rows: &mut [Row], samples: usize) -> Vec<f64> {
    let mut times = vec![vec![]; rows.len()];
    for _ in 0..samples {
        for (row, times) in rows.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (row.run)();
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
    times.iter().map(|t| t[samples / 2]).collect()
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let samples = if std::env::args().any(|a| a == "--quick") { 3 } else { SAMPLES };
    let isa = Isa::chosen().unwrap();
    let words = vec![1u64; SET / 8];
    let usual = [(32, 1, KvKind::F16), (8, 4, KvKind::F16), (32, 1, KvKind::F32)];
    let filled = |(kv_heads, group, kind), lengths: &[usize]| {
        lengths.iter().map(|positions| Filled::new(kv_heads, group, kind, *positions)).collect::<Vec<_>>()
    };
    let mut sets: Vec<Filled> = usual.into_iter().flat_map(|shape| filled(shape, &[64, 512, 4096])).collect();
    sets.extend(usual[..2].iter().flat_map(|shape| filled(*shape, &[LONG])));
    sets.extend([(1, 8), (2, 8)].into_iter().flat_map(|(h, g)| filled((h, g, KvKind::F16), &[4096, LONG])));
    println!("{}: KV heads x query heads of each, kind, tokens at length", isa.name());
    for threads in [1, 2] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut rows: Vec<Row> = sets
            .iter()
            .flat_map(|set| [1, 8, 256].map(|n| (set, n)))
            .filter(|(set, n)| *n <= set.positions && (*n <= 8 || set.positions < LONG))
            .map(|(set, n)| set.row(isa, &pool, n))
            .collect();
        rows.retain(|row| wanted.iter().all(|part| row.name.contains(part)));
        let mut all = vec![pass(isa, &pool, &words), arithmetic(isa, &pool)];
        all.append(&mut rows);
        let times = medians(&mut all, samples);
        let rates: Vec<f64> = all.iter().zip(&times).map(|(row, time)| row.amount as f64 / time / 1e9).collect();
        for ((row, time), rate) in all.iter().zip(&times).zip(&rates) {
            let (unit, whole) = match row.bound {
                Bound::Memory => ("GB/s", rates[0]),
                Bound::Arithmetic => ("GFLOP/s", rates[1]),
            };
            let share = 100.0 * rate / whole;
            println!("{threads} threads  {:28} {:8.2} ms {rate:7.1} {unit:7} {share:4.0} %", row.name, time * 1e3);
        }
    }
}
