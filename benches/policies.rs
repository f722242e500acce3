//! Policies of the tier by what they hit and what an access costs, with quick_cache as the baseline from outside.
//!
//! Accesses are a dense model's (every block once a token, in order), or SYNTHETIC ones of sparse models by
//! trace(share, overlap, skew, seed) of docs/design.md, 5: quality is not shown by these figures, nor is a selector's
//! cost.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use m2cache_rs::tier::policy::{Access, Kind, Policy};
use m2cache_rs::tier::{Block, BlockId};
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use std::hint::black_box;

const SHARES: [f64; 5] = [0.1, 0.3, 0.6, 0.8, 0.95];
/// The capacity at which accesses are timed.
const TIMED: f64 = 0.3;

/// What a model asks for: tokens of accesses to blocks.
struct Workload {
    name: String,
    blocks: Vec<Block>,
    tokens: Vec<Vec<u32>>,
}

/// Gives every policy and the baseline one face.
trait Tier {
    fn hit(&mut self, block: u32) -> bool;
}

struct Ours {
    policy: Box<dyn Policy>,
    evicted: Vec<BlockId>,
}

impl Tier for Ours {
    fn hit(&mut self, block: u32) -> bool {
        self.policy.access(BlockId(block), &|_| true, &mut self.evicted) == Access::Hit
    }
}

#[derive(Clone)]
struct Sizes(Vec<u64>);

impl Weighter<u32, ()> for Sizes {
    fn weight(&self, block: &u32, _: &()) -> u64 {
        self.0[*block as usize]
    }
}

impl Tier for Cache<u32, (), Sizes> {
    fn hit(&mut self, block: u32) -> bool {
        let found = self.get(&block).is_some();
        if !found {
            self.insert(block, ());
        }
        found
    }
}

impl Workload {
    /// LLaMA-2-7B at 4 bits: records of 2304 bytes, chunks of 256.
    fn dense() -> Workload {
        let layer: Vec<Block> = [(16, 1), (16, 1), (16, 1), (16, 1), (43, 2), (43, 1)]
            .iter()
            .flat_map(|(chunks, width)| {
                let position = |i: usize| (i as f32 + 0.5) / *chunks as f32;
                (0..*chunks).map(move |i| Block { bytes: width * 256 * 2304, position: position(i) })
            })
            .collect();
        let blocks: Vec<Block> = (0..32).flat_map(|_| layer.iter().copied()).collect();
        let sweep: Vec<u32> = (0..blocks.len() as u32).collect();
        Workload { name: "dense".into(), tokens: vec![sweep; 64], blocks }
    }

    /// Neurons of 6912 bytes in 8 layers, each with a trace of its own.
    fn sparse(share: f64, overlap: f64, skew: f64, seed: u64) -> Workload {
        const LAYERS: usize = 8;
        const NEURONS: usize = 4096;
        let tokens = 160;
        let mut sets: Vec<Vec<u32>> = vec![vec![]; tokens];
        for layer in 0..LAYERS {
            let mut trace = Trace::fitted(NEURONS, share, overlap, skew, seed + layer as u64);
            for set in &mut sets {
                set.extend(trace.next_set().into_iter().map(|n| (layer * NEURONS) as u32 + n));
            }
        }
        let position = |i: usize| (i % NEURONS) as f32 / NEURONS as f32;
        let blocks = (0..LAYERS * NEURONS).map(|i| Block { bytes: 6912, position: position(i) }).collect();
        let name = format!("synthetic, share {share}, overlap {overlap}, skew {skew}, seed {seed}");
        Workload { name, blocks, tokens: sets }
    }

    fn capacity(&self, share: f64) -> u64 {
        (share * self.blocks.iter().map(|b| b.bytes as f64).sum::<f64>()) as u64
    }

    fn tiers(&self, share: f64) -> Vec<(&'static str, Box<dyn Tier>)> {
        let capacity = self.capacity(share);
        let ours = |kind: Kind| -> (&'static str, Box<dyn Tier>) {
            (kind.name(), Box::new(Ours { policy: kind.build(&self.blocks, capacity), evicted: vec![] }))
        };
        let sizes = Sizes(self.blocks.iter().map(|b| b.bytes as u64).collect());
        let items = (share * self.blocks.len() as f64) as usize;
        let outside: Box<dyn Tier> = Box::new(Cache::with_weighter(items, capacity, sizes));
        Kind::ALL.map(ours).into_iter().chain([("quick_cache", outside)]).collect()
    }

    /// Share of bytes that are hits, behind a first half that warms the tier.
    fn hit_rate(&self, tier: &mut dyn Tier) -> f64 {
        let (warm, counted) = self.tokens.split_at(self.tokens.len() / 2);
        warm.iter().flatten().for_each(|block| _ = tier.hit(*block));
        let (mut hits, mut all) = (0, 0);
        for block in counted.iter().flatten() {
            let bytes = self.blocks[*block as usize].bytes;
            all += bytes;
            hits += if tier.hit(*block) { bytes } else { 0 };
        }
        hits as f64 / all as f64
    }
}

/// trace(share, overlap, skew, seed): the wanted neurons are the top share of mean + latent.
struct Trace {
    means: Vec<f64>,
    latent: Vec<f64>,
    wanted: usize,
    /// Correlation of the latent with itself one token before.
    r: f64,
    random: Normal,
}

impl Trace {
    fn new(neurons: usize, share: f64, r: f64, skew: f64, seed: u64) -> Trace {
        let mut random = Normal(seed);
        let means = (0..neurons).map(|_| skew * random.draw()).collect();
        let latent = (0..neurons).map(|_| random.draw()).collect();
        Trace { means, latent, wanted: (share * neurons as f64) as usize, r, random }
    }

    /// With r such that the mean share of a set that was in the one before is `overlap`.
    fn fitted(neurons: usize, share: f64, overlap: f64, skew: f64, seed: u64) -> Trace {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..12 {
            let middle = (low + high) / 2.0;
            let below = Trace::new(neurons, share, middle, skew, seed).overlap() < overlap;
            (low, high) = if below { (middle, high) } else { (low, middle) };
        }
        Trace::new(neurons, share, low, skew, seed)
    }

    fn overlap(&mut self) -> f64 {
        let mut last = vec![false; self.means.len()];
        let (mut common, mut all) = (0, 0);
        for token in 0..24 {
            let set = self.next_set();
            common += if token > 0 { set.iter().filter(|n| last[**n as usize]).count() } else { 0 };
            all += if token > 0 { set.len() } else { 0 };
            last.fill(false);
            set.iter().for_each(|n| last[*n as usize] = true);
        }
        f64::from(common as u32) / f64::from(all as u32)
    }

    fn next_set(&mut self) -> Vec<u32> {
        let Trace { means, latent, wanted, r, random } = self;
        latent.iter_mut().for_each(|z| *z = *r * *z + (1.0 - *r * *r).sqrt() * random.draw());
        let score = |n: u32| means[n as usize] + latent[n as usize];
        let mut order: Vec<u32> = (0..means.len() as u32).collect();
        order.select_nth_unstable_by(*wanted, |a, b| score(*b).total_cmp(&score(*a)));
        order.truncate(*wanted);
        order.sort_unstable();
        order
    }
}

/// Normal numbers: splitmix64 and Box-Muller.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn draw(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

fn hit_rates(workload: &Workload) {
    println!("\nhit rate in bytes, {}", workload.name);
    for share in SHARES {
        let rate = |(name, tier): &mut (&str, Box<dyn Tier>)| {
            format!("{name} {:5.1} %", 100.0 * workload.hit_rate(&mut **tier))
        };
        let rates: Vec<String> = workload.tiers(share).iter_mut().map(rate).collect();
        println!("  capacity {:3.0} %: {}", 100.0 * share, rates.join("   "));
    }
}

fn cost(c: &mut Criterion, workload: &Workload) {
    let accesses: Vec<u32> = workload.tokens.iter().take(16).flatten().copied().collect();
    let mut group = c.benchmark_group(format!("access, {}", workload.name));
    group.throughput(Throughput::Elements(accesses.len() as u64)).sample_size(10);
    for (name, mut tier) in workload.tiers(TIMED) {
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| accesses.iter().filter(|block| tier.hit(black_box(**block))).count())
        });
    }
}

fn policies(c: &mut Criterion) {
    let skewed = Workload::sparse(0.2, 0.7, 1.0, 1);
    for workload in [Workload::dense(), skewed, Workload::sparse(0.2, 0.7, 0.0, 1)] {
        hit_rates(&workload);
        cost(c, &workload);
    }
}

criterion_group!(benches, policies);
criterion_main!(benches);
