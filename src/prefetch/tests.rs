#![allow(clippy::unwrap_used)]

use super::{Fetcher, Home, Layout, Pick, Steps, Want};
use crate::error::{Error, Result};
use crate::io::faulty::Faulty;
use crate::io::{ALIGN, Done, Faults, Late, Psync, Read, Reader, Source};
use crate::tier::{Block, BlockId, Dram, Place, frames};
use proptest::prelude::*;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub const SIZE: usize = ALIGN;
pub const BLOCKS: usize = 24;
const SECTIONS: usize = 3;
pub const ROWS: usize = 4;

fn byte(at: usize) -> u8 {
    (at * 7 + at / 251) as u8
}

/// A file of blocks whose bytes name their place.
pub fn file() -> (tempfile::NamedTempFile, Source) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&(0..SIZE * BLOCKS).map(byte).collect::<Vec<u8>>()).unwrap();
    let source = Source { path: file.path().into(), file: Arc::new(std::fs::File::open(file.path()).unwrap()) };
    (file, source)
}

pub fn expected(want: &Want) -> Vec<u8> {
    (want.offset as usize..want.offset as usize + want.len).map(byte).collect()
}

pub fn want(block: usize, at: usize, len: usize) -> Want {
    let home = Some(Home { id: BlockId(block as u32), at, size: SIZE });
    Want { section: block % SECTIONS, file: 0, offset: (block * SIZE + at) as u64, len, home }
}

/// Two blocks a step.
struct Pairs;

impl Steps for Pairs {
    fn count(&self) -> usize {
        BLOCKS / 2
    }
    fn picks(&self, step: usize) -> Arc<[Pick]> {
        Arc::new([2 * step, 2 * step + 1].map(|block| Pick::all(want(block, 0, SIZE))))
    }
}

pub fn fetcher(reader: Box<dyn Reader>, fixed: usize, ring: u32, lookahead: usize) -> Fetcher {
    let position = |i: usize| ((i * 11) % BLOCKS) as f32;
    let blocks: Vec<Block> = (0..BLOCKS).map(|i| Block { bytes: SIZE, position: position(i) }).collect();
    let dram = Dram::place(&blocks, (fixed * SIZE) as u64);
    let layout =
        Layout { ring: ring.max(2 * frames(SIZE)), chosen: (2 * SIZE / ALIGN) as u32, singles: vec![2 * ALIGN; ROWS] };
    let arena = layout.arena(&dram).unwrap();
    Fetcher::new(dram, layout, arena, reader, Box::new(Pairs), SECTIONS, lookahead)
}

fn psync(source: Source, reverse: bool) -> Box<dyn Reader> {
    faulty(source, Faults { reverse, ..Faults::default() })
}

fn faulty(source: Source, faults: Faults) -> Box<dyn Reader> {
    Box::new(Faulty::new(Psync::over(vec![source]).unwrap(), faults, vec![]))
}

/// A reader whose reads are counted as they are handed to it.
struct Counted {
    inner: Psync,
    reads: Arc<AtomicUsize>,
}

impl Reader for Counted {
    fn submit(&mut self, batch: Vec<Read>) {
        self.reads.fetch_add(batch.len(), Ordering::Relaxed);
        self.inner.submit(batch);
    }
    fn poll(&mut self) -> Option<Done> {
        self.inner.poll()
    }
    fn wait(&mut self) -> Option<Done> {
        self.inner.wait()
    }
    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late> {
        self.inner.wait_for(limit)
    }
    fn name(&self) -> &'static str {
        self.inner.name()
    }
}

fn counted(source: Source) -> (Box<dyn Reader>, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    (Box::new(Counted { inner: Psync::over(vec![source]).unwrap(), reads: reads.clone() }), reads)
}

pub fn no_check(_: &Want, _: &[u8]) -> Result<()> {
    Ok(())
}

#[derive(Clone, Debug)]
enum Call {
    /// The next steps in order.
    Walk(usize),
    /// A jump.
    Step(usize),
    Rows(Vec<(usize, usize, usize)>),
    Follow(usize, usize),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let row = (0..BLOCKS, 0usize..SIZE - 100, 1usize..100);
    let call = prop_oneof![
        4 => (1usize..20).prop_map(Call::Walk),
        1 => (0..BLOCKS / 2).prop_map(Call::Step),
        2 => prop::collection::vec(row, 1..=ROWS).prop_map(Call::Rows),
        1 => (0..BLOCKS / 2, 0..BLOCKS / 2).prop_map(|(a, b)| Call::Follow(a.min(b), a.max(b))),
    ];
    prop::collection::vec(call, 1..30)
}

pub fn step(fetcher: &mut Fetcher, step: usize) {
    let held = fetcher.fetch(step, &mut no_check).unwrap();
    for (pick, held) in Pairs.picks(step).iter().zip(&held) {
        assert_eq!(**held, expected(&pick.block), "step {step}");
    }
    drop(held);
    fetcher.dram().validate().unwrap();
}

proptest! {
    #[test]
    fn every_step_gets_the_files_bytes(fixed in 0usize..=BLOCKS, ring in 0u32..12, lookahead in 0usize..12 * SIZE,
                                       reverse in any::<bool>(), calls in calls()) {
        let (_file, source) = file();
        let mut fetcher = fetcher(psync(source, reverse), fixed, ring, lookahead);
        let (mut next, mut asked) = (0, 0);
        for call in calls {
            match call {
                Call::Walk(count) => for _ in 0..count {
                    step(&mut fetcher, next % (BLOCKS / 2));
                    (next, asked) = (next + 1, asked + 2 * SIZE);
                },
                Call::Step(at) => {
                    step(&mut fetcher, at);
                    (next, asked) = (at + 1, asked + 2 * SIZE);
                }
                Call::Rows(rows) => {
                    let wants: Vec<Want> = rows.into_iter().map(|(block, at, len)| want(block, at, len)).collect();
                    let held = fetcher.fetch_singles(&wants, &mut no_check).unwrap();
                    prop_assert!(held.iter().zip(&wants).all(|(held, want)| **held == expected(want)), "in order");
                    asked += wants.iter().map(|want| want.len).sum::<usize>();
                }
                Call::Follow(a, b) => fetcher.follow([a..b, b..BLOCKS / 2]),
            }
        }
        let sum = |of: fn(&crate::tier::Counters) -> u64| fetcher.stats().sections.iter().map(of).sum::<u64>() as usize;
        let used = sum(|c| c.hit_bytes) + sum(|c| c.read_bytes);
        prop_assert!(used >= asked);
        prop_assert!(fixed > 0 || used == asked, "only what got a slot of its own is read before it is asked for");
    }

    #[test]
    fn a_failed_read_is_an_error_of_its_step_and_leaves_no_trace(fixed in 0usize..=BLOCKS, bad in 1u64..BLOCKS as u64,
                                                                 lookahead in 0usize..12 * SIZE) {
        let (_file, source) = file();
        let faults = Faults { eio: Some((bad, bad)), reverse: true, ..Faults::default() };
        let mut fetcher = fetcher(faulty(source, faults), fixed, 12, lookahead);
        let mut errors = 0;
        for at in (0..3).flat_map(|_| 0..BLOCKS / 2) {
            match fetcher.fetch(at, &mut no_check) {
                Ok(held) => prop_assert!(held.iter().zip(Pairs.picks(at).iter()).all(|(h, p)| **h == expected(&p.block))),
                Err(Error::Io { .. }) => errors += 1,
                Err(e) => panic!("{e}"),
            }
        }
        prop_assert_eq!(errors, 1);
    }
}

/// One block a step: some of those that there are.
struct Every(usize);

impl Steps for Every {
    fn count(&self) -> usize {
        BLOCKS.div_ceil(self.0)
    }
    fn picks(&self, step: usize) -> Arc<[Pick]> {
        Arc::new([Pick::all(want(step * self.0, 0, SIZE))])
    }
}

/// Hands over steps with all that they pick.
fn serve(fetcher: &mut Fetcher, steps: impl Steps + 'static) {
    let blocks = |step| steps.picks(step).iter().filter_map(|pick| pick.block.whole()).collect::<Vec<_>>();
    let blocks: Vec<BlockId> = (0..steps.count()).flat_map(blocks).collect();
    fetcher.serve(Box::new(steps), &blocks, &mut no_check);
}

fn take(fetcher: &mut Fetcher, steps: &Every, step: usize) {
    let held = fetcher.fetch(step, &mut no_check).unwrap();
    assert_eq!(*held[0], expected(&want(step * steps.0, 0, SIZE)), "step {step} of every {}", steps.0);
}

proptest! {
    #[test]
    fn other_steps_over_the_same_blocks_get_theirs(fixed in 0usize..=BLOCKS, ring in 0u32..12, lookahead in 0usize..12 * SIZE,
                                                   reverse in any::<bool>(), orders in prop::collection::vec((1usize..6, 0usize..40), 1..8)) {
        let (_file, source) = file();
        let mut fetcher = fetcher(psync(source, reverse), fixed, ring, lookahead);
        let (mut asked, mut next) = (0, 0);
        for (by, count) in orders {
            step(&mut fetcher, next);
            serve(&mut fetcher, Every(by));
            (0..count).for_each(|i| take(&mut fetcher, &Every(by), i % Every(by).count()));
            fetcher.dram().validate().unwrap();
            serve(&mut fetcher, Pairs);
            (next, asked) = ((next + count) % (BLOCKS / 2), asked + (count + 2) * SIZE);
        }
        let sum = |of: fn(&crate::tier::Counters) -> u64| fetcher.stats().sections.iter().map(of).sum::<u64>() as usize;
        let used = sum(|c| c.hit_bytes) + sum(|c| c.read_bytes);
        prop_assert!(used >= asked && (fixed > 0 || used == asked), "{} of {}", used, asked);
    }
}

#[test]
fn what_other_steps_need_is_not_waited_for() {
    let (_file, source) = file();
    let mut fetcher = fetcher(psync(source, false), BLOCKS, 0, 0);
    serve(&mut fetcher, Every(4));
    assert!(!fetcher.dram().is_complete());
    (0..Every(4).count()).for_each(|at| take(&mut fetcher, &Every(4), at));
    assert!(fetcher.dram().is_complete(), "all that these steps need");
    serve(&mut fetcher, Pairs);
    assert!(!fetcher.dram().is_complete() && !fetcher.holds(0));
    serve(&mut fetcher, Every(4));
    assert!(fetcher.dram().is_complete() && fetcher.holds(0), "what was loaded stays");
}

#[test]
fn in_order_nothing_is_read_twice_and_nothing_in_vain() {
    let (_file, source) = file();
    let mut fetcher = fetcher(psync(source, true), BLOCKS / 2, 12, 8 * SIZE);
    (0..3 * BLOCKS / 2).for_each(|i| step(&mut fetcher, i % (BLOCKS / 2)));
    let sum = |of: fn(&crate::tier::Counters) -> u64| fetcher.stats().sections.iter().map(of).sum::<u64>() as usize;
    // The fixed half is read once and hit twice; the rest is read in each of three rounds.
    assert_eq!(sum(|c| c.hit_bytes), BLOCKS / 2 * SIZE * 2);
    assert_eq!(sum(|c| c.read_bytes), BLOCKS * 2 * SIZE);
    assert!(sum(|c| c.unused_bytes) <= 8 * SIZE, "what lies ahead");
    assert_eq!(sum(|c| c.aligned_bytes), 0);
}

#[test]
fn what_was_read_ahead_in_vain_is_counted() {
    let (_file, source) = file();
    let mut fetcher = fetcher(psync(source, true), 0, 12, 8 * SIZE);
    step(&mut fetcher, 0);
    step(&mut fetcher, 10);
    let unused: u64 = fetcher.stats().sections.iter().map(|c| c.unused_bytes).sum();
    assert!((8..=16).contains(&(unused / SIZE as u64)), "behind the first step, and what lies ahead: {unused}");
    let read: u64 = fetcher.stats().sections.iter().map(|c| c.read_bytes).sum();
    assert_eq!(read, 4 * SIZE as u64, "two steps");
}

#[test]
fn steps_that_are_left_out_are_not_read_ahead() {
    let (_file, source) = file();
    let mut fetcher = fetcher(psync(source, true), 0, 24, 64 * SIZE);
    fetcher.follow([0..3, 0..0]);
    (0..9).for_each(|i| step(&mut fetcher, i % 3));
    let unused: u64 = fetcher.stats().sections.iter().map(|c| c.unused_bytes).sum();
    assert!(unused <= 6 * SIZE as u64, "no more than lies ahead: {unused}");
}

#[test]
fn a_round_is_read_ahead_and_no_step_twice() {
    let (_file, source) = file();
    let (reader, reads) = counted(source);
    let mut fetcher = fetcher(reader, 0, 200, 200 * SIZE);
    step(&mut fetcher, 0);
    assert_eq!(reads.load(Ordering::Relaxed), 2 + BLOCKS, "the step, and all until it comes again");
    step(&mut fetcher, 1);
    assert_eq!(reads.load(Ordering::Relaxed), 4 + BLOCKS);
}

#[test]
fn jumps_do_not_end_reading_ahead() {
    let (_file, source) = file();
    let (reader, reads) = counted(source);
    let mut fetcher = fetcher(reader, 0, 12, 8 * SIZE);
    for i in 0..3 * BLOCKS {
        let before = reads.load(Ordering::Relaxed);
        step(&mut fetcher, [0, 7][i % 2]);
        assert_eq!(reads.load(Ordering::Relaxed) - before, 2 + 8, "jump {i}: the step, and what may lie ahead");
    }
}

#[test]
fn what_was_read_ahead_is_no_hit_where_all_came_meanwhile() {
    let (_file, source) = file();
    let mut fetcher = fetcher(psync(source, false), BLOCKS, 0, 2 * BLOCKS * SIZE);
    for i in 0..BLOCKS / 2 {
        step(&mut fetcher, i);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let sum = |of: fn(&crate::tier::Counters) -> u64| fetcher.stats().sections.iter().map(of).sum::<u64>() as usize;
    assert_eq!((sum(|c| c.hit_bytes), sum(|c| c.read_bytes), sum(|c| c.unused_bytes)), (0, BLOCKS * SIZE, 0));
}

#[test]
fn what_fails_its_check_is_read_again() {
    let (_file, source) = file();
    let mut fetcher = fetcher(psync(source, false), BLOCKS, 0, 0);
    let mut refuse = |_: &Want, _: &[u8]| Err(Error::Internal("refused"));
    assert!(fetcher.fetch(0, &mut refuse).is_err());
    assert!(matches!(fetcher.dram().find(BlockId(0)), Place::Reserved(_)));
    step(&mut fetcher, 0);
    assert!(matches!(fetcher.dram().find(BlockId(0)), Place::Loaded(_)));
    drop(fetcher.fetch_singles(&[want(0, 5, 10)], &mut no_check).unwrap());
    let counters = fetcher.stats().sections[0];
    assert_eq!((counters.reads, counters.read_bytes, counters.hit_bytes), (2, 2 * SIZE as u64, 10));
}

#[test]
fn a_file_that_ends_early_is_named() {
    let (file, source) = file();
    let mut fetcher = fetcher(psync(source, false), 0, 0, 0);
    file.as_file().set_len(SIZE as u64 + 500).unwrap();
    let error = fetcher.fetch(0, &mut no_check).unwrap_err();
    assert!(matches!(error, Error::Truncated { size: 4596, end: 8192, .. }), "{error}");
    drop(fetcher.fetch_singles(&[want(0, 0, 100)], &mut no_check).unwrap());
}

#[test]
fn a_step_that_finds_the_ring_leased_is_refused() {
    let (_file, source) = file();
    let mut fetcher = fetcher(psync(source, false), 0, 0, 0);
    let held = fetcher.fetch(0, &mut no_check).unwrap();
    assert!(matches!(fetcher.fetch(1, &mut no_check), Err(Error::Internal(_))));
    drop(held);
    step(&mut fetcher, 1);
}

#[test]
fn rows_are_asked_for_before_any_is_waited_for() {
    let (_file, source) = file();
    let slow = Faults { slow: Duration::from_millis(200), ..Faults::default() };
    let mut fetcher = fetcher(faulty(source, slow), 0, 0, 0);
    let wants: Vec<Want> = (0..ROWS).map(|block| want(block, 7, 50)).collect();
    let held = fetcher.fetch_singles(&wants, &mut no_check).unwrap();
    assert!(held.iter().zip(&wants).all(|(held, want)| **held == expected(want)));
    drop(held);
    let stalls: u64 = fetcher.stats().sections.iter().map(|c| c.stalls).sum();
    assert_eq!(stalls, 1, "while the first was waited for, the others came");
    let more: Vec<Want> = (0..=ROWS).map(|block| want(block, 0, 1)).collect();
    assert!(matches!(fetcher.fetch_singles(&more, &mut no_check), Err(Error::Internal(_))));
}
