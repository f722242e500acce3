//! Every policy against a twin that keeps plain vectors and sorts them anew at each access.
#![allow(clippy::unwrap_used)]

use super::{Access, FifoWindow, Fixed, Kind, Lfu, Policy};
use crate::tier::{Block, BlockId, Dram, Place};
use proptest::prelude::*;

/// What a block's place in the order of eviction depends on: smaller leaves first, and `None` never does.
type Rank = Option<(u64, u64)>;

struct Twin {
    kind: Kind,
    sizes: Vec<u64>,
    capacity: u64,
    fixed: Vec<usize>,
    held: Vec<usize>,
    counts: Vec<u64>,
    /// When a block came to where it is.
    since: Vec<u64>,
    now: u64,
    period: u64,
}

impl Twin {
    fn new(kind: Kind, blocks: &[Block], capacity: u64, period: u64) -> Twin {
        let sizes: Vec<u64> = blocks.iter().map(|b| b.bytes as u64).collect();
        let fixed = match kind {
            Kind::Fixed => Twin::even(blocks, capacity),
            Kind::Fifo => (0..sizes.len()).take_while(|n| sizes[..=*n].iter().sum::<u64>() <= capacity / 2).collect(),
            Kind::Lru | Kind::Lfu => vec![],
        };
        let zeros = vec![0; sizes.len()];
        Twin { kind, sizes, capacity, fixed, held: vec![], counts: zeros.clone(), since: zeros, now: 0, period }
    }

    fn even(blocks: &[Block], capacity: u64) -> Vec<usize> {
        let mut left = capacity;
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by(|a, b| blocks[*a].position.total_cmp(&blocks[*b].position));
        order.retain(|n| {
            let fits = blocks[*n].bytes as u64 <= left;
            left -= if fits { blocks[*n].bytes as u64 } else { 0 };
            fits
        });
        order
    }

    fn rank(&self, block: usize) -> Rank {
        let frequency = if self.kind == Kind::Lfu { self.counts[block] } else { 0 };
        (!self.fixed.contains(&block)).then_some((frequency, self.since[block]))
    }

    fn in_order(&self) -> Vec<usize> {
        let mut held: Vec<usize> = self.held.iter().copied().filter(|b| self.rank(*b).is_some()).collect();
        held.sort_by_key(|b| self.rank(*b));
        held
    }

    fn halve(&mut self) {
        for (at, block) in self.in_order().into_iter().enumerate() {
            self.since[block] = at as u64;
        }
        self.counts.iter_mut().for_each(|c| *c /= 2);
    }

    fn bytes(&self, blocks: &[usize]) -> u64 {
        blocks.iter().map(|b| self.sizes[*b]).sum()
    }

    fn access(&mut self, block: usize, leased: &[bool]) -> (Access, Vec<usize>) {
        self.now += 1;
        if self.now.is_multiple_of(self.period) {
            self.halve();
        }
        self.counts[block] = (self.counts[block] + 1).min(255);
        // Restamping gives numbers below the number of blocks, so later stamps stay above them.
        let stamp = self.now + self.sizes.len() as u64;
        if self.held.contains(&block) {
            if matches!(self.kind, Kind::Lru | Kind::Lfu) {
                self.since[block] = stamp;
            }
            return (Access::Hit, vec![]);
        }
        let Some(victims) = self.victims(block, leased) else { return (Access::Bypassed, vec![]) };
        self.held.retain(|b| !victims.contains(b));
        self.held.push(block);
        self.since[block] = stamp;
        (Access::Admitted, victims)
    }

    fn victims(&self, block: usize, leased: &[bool]) -> Option<Vec<usize>> {
        if self.fixed.contains(&block) {
            return Some(vec![]);
        }
        let reserved = self.bytes(&self.fixed);
        let window: Vec<usize> = self.held.iter().copied().filter(|b| !self.fixed.contains(b)).collect();
        let mut over = (self.bytes(&window) + self.sizes[block] + reserved).saturating_sub(self.capacity);
        let mut victims = vec![];
        for candidate in self.in_order() {
            let colder = self.kind != Kind::Lfu || self.counts[candidate] < self.counts[block];
            if over > 0 && !leased[candidate] && colder {
                over = over.saturating_sub(self.sizes[candidate]);
                victims.push(candidate);
            }
        }
        (over == 0 && self.kind != Kind::Fixed).then_some(victims)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Access(usize),
    Forget(usize),
    Lease(usize),
    Release(usize),
}

fn steps(blocks: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..blocks).prop_map(Step::Access),
        // Few blocks make most of the accesses, so that counts and recency differ.
        12 => (0..blocks.min(4)).prop_map(Step::Access),
        1 => (0..blocks).prop_map(Step::Forget),
        2 => (0..blocks).prop_map(Step::Lease),
        2 => (0..blocks).prop_map(Step::Release),
    ];
    prop::collection::vec(step, 0..400)
}

fn model() -> impl Strategy<Value = Vec<Block>> {
    let block = (0usize..5000, 0f32..1.0).prop_map(|(bytes, position)| Block { bytes, position });
    prop::collection::vec(block, 1..24)
}

fn case() -> impl Strategy<Value = (Vec<Block>, Vec<Step>)> {
    model().prop_flat_map(|blocks| {
        let count = blocks.len();
        (Just(blocks), steps(count))
    })
}

fn build(kind: Kind, blocks: &[Block], capacity: u64, period: u64) -> Box<dyn Policy> {
    match kind {
        Kind::Lfu => Box::new(Lfu::with_period(blocks, capacity, period)),
        _ => kind.build(blocks, capacity),
    }
}

fn compare(kind: Kind, blocks: &[Block], share: f64, period: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let everything: u64 = blocks.iter().map(|b| b.bytes as u64).sum();
    let capacity = (share * everything as f64) as u64;
    let mut policy = build(kind, blocks, capacity, period);
    let mut twin = Twin::new(kind, blocks, capacity, period);
    let mut leased = vec![false; blocks.len()];
    let mut evicted = vec![BlockId(7)];
    for step in steps {
        match *step {
            Step::Access(n) => {
                let access = policy.access(BlockId(n as u32), &|b| !leased[b.0 as usize], &mut evicted);
                let gone = evicted.iter().map(|b| b.0 as usize).collect();
                prop_assert_eq!((access, gone), twin.access(n, &leased));
            }
            Step::Forget(n) => {
                policy.forget(BlockId(n as u32));
                twin.held.retain(|b| *b != n);
                leased[n] = false;
            }
            // Only what is in the tier has leases.
            Step::Lease(n) => leased[n] = policy.holds(BlockId(n as u32)),
            Step::Release(n) => leased[n] = false,
        }
        policy.validate().map_err(TestCaseError::fail)?;
        for n in 0..blocks.len() {
            prop_assert_eq!(policy.holds(BlockId(n as u32)), twin.held.contains(&n), "block {}", n);
        }
        prop_assert_eq!(policy.used(), twin.bytes(&twin.held));
        prop_assert!(policy.used() <= capacity);
    }
    Ok(())
}

proptest! {
    #[test]
    fn policies_do_what_their_twins_do(
        (blocks, steps) in case(), share in 0f64..1.2, period in 1u64..200, kind in prop::sample::select(Kind::ALL.to_vec())
    ) {
        compare(kind, &blocks, share, period, &steps)?;
    }

    #[test]
    fn the_fixed_set_is_what_the_dram_tier_places(pages in prop::collection::vec((1usize..9, 0f32..1.0), 1..40), share in 0f64..1.2) {
        let blocks: Vec<Block> = pages.iter().map(|(n, position)| Block { bytes: n * 4096, position: *position }).collect();
        let capacity = (share * blocks.iter().map(|b| b.bytes as f64).sum::<f64>()) as u64;
        let (dram, fixed) = (Dram::place(&blocks, capacity), Fixed::even(&blocks, capacity));
        for id in (0..blocks.len() as u32).map(BlockId) {
            prop_assert_eq!(fixed.keeps(id), dram.find(id) != Place::Ring);
        }
    }
}

/// Hits of `passes` sweeps over equal blocks, behind a first one that fills the tier.
fn sweeps(policy: &mut dyn Policy, blocks: u32, passes: usize) -> usize {
    let mut evicted = vec![];
    let mut sweep =
        || (0..blocks).filter(|b| policy.access(BlockId(*b), &|_| true, &mut evicted) == Access::Hit).count();
    sweep();
    (0..passes).map(|_| sweep()).sum()
}

fn equal(count: usize) -> Vec<Block> {
    (0..count).map(|n| Block { bytes: 10, position: n as f32 }).collect()
}

#[test]
fn cyclic_access_suits_a_fixed_set_and_defeats_recency() {
    let blocks = equal(100);
    let hits = |mut policy: Box<dyn Policy>| sweeps(&mut *policy, 100, 5);
    assert_eq!(hits(Kind::Fixed.build(&blocks, 600)), 5 * 60);
    assert_eq!(hits(Kind::Lru.build(&blocks, 600)), 0);
    assert_eq!(hits(Box::new(FifoWindow::new(&blocks, 600, 0))), 0);
    assert_eq!(hits(Kind::Fifo.build(&blocks, 600)), 5 * 30, "the fixed area");
    assert_eq!(hits(Kind::Lfu.build(&blocks, 600)), 5 * 60);
}

#[test]
fn what_was_hot_leaves_an_lfu_tier_by_decay() {
    let blocks = equal(4);
    let access = |lfu: &mut Lfu, block| lfu.access(BlockId(block), &|_| true, &mut vec![]);
    let mut lfu = Lfu::with_period(&blocks, 10, 8);
    (0..7).for_each(|_| _ = access(&mut lfu, 0));
    let waited = (0..).take_while(|_| access(&mut lfu, 1) != Access::Admitted).count();
    assert!((1..7).contains(&waited), "{waited}");
    assert!(!lfu.holds(BlockId(0)) && lfu.holds(BlockId(1)));
}

#[test]
fn what_is_leased_stays() {
    for kind in [Kind::Lru, Kind::Fifo, Kind::Lfu] {
        let blocks = equal(4);
        let mut policy = kind.build(&blocks, 20);
        let mut evicted = vec![];
        (2..4).for_each(|b| _ = policy.access(BlockId(b), &|_| true, &mut evicted));
        let held: Vec<u32> = (0..4).filter(|b| policy.holds(BlockId(*b))).collect();
        let other = (1..4).find(|b| !policy.holds(BlockId(*b))).unwrap();
        for _ in 0..9 {
            assert_eq!(policy.access(BlockId(other), &|_| false, &mut evicted), Access::Bypassed, "{kind:?}");
        }
        assert!(held.iter().all(|b| policy.holds(BlockId(*b))), "{kind:?}");
        assert_eq!(policy.access(BlockId(other), &|_| true, &mut evicted), Access::Admitted, "{kind:?}");
    }
}

#[test]
fn names_are_those_of_the_kinds() {
    assert!(Kind::ALL.iter().all(|kind| Kind::from_name(kind.name()) == Some(*kind)));
    assert_eq!(Kind::from_name("arc"), None);
}
