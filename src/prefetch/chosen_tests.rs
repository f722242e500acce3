//! Chosen steps between scheduled ones: every byte that was picked, whatever else is under way.
#![allow(clippy::unwrap_used)]

use super::runs::spans;
use super::{Fetcher, Held, Home, Layout, Pick, Steps, Want};
use crate::error::{Error, Result};
use crate::io::faulty::Faulty;
use crate::io::{ALIGN, Faults, Psync, Source};
use crate::tier::{Block, BlockId, Counters, Dram, Place, frames};
use proptest::prelude::*;
use std::io::Write;
use std::sync::Arc;

const STRIDE: usize = 640;
const RECORDS: usize = 64;
const SIZE: usize = STRIDE * RECORDS;
const BLOCKS: usize = 16;
/// The first are scheduled, one a step; the others are chosen.
const SCHEDULED: usize = 6;

fn byte(at: usize) -> u8 {
    (at * 7 + at / 251) as u8
}

fn source() -> Source {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&(0..SIZE * BLOCKS).map(byte).collect::<Vec<u8>>()).unwrap();
    Source { path: "blocks".into(), file: Arc::new(file.reopen().unwrap()) }
}

fn block(block: usize) -> Want {
    let home = Some(Home { id: BlockId(block as u32), at: 0, size: SIZE });
    Want { section: usize::from(block >= SCHEDULED), file: 0, offset: (block * SIZE) as u64, len: SIZE, home }
}

struct Scheduled;

impl Steps for Scheduled {
    fn count(&self) -> usize {
        SCHEDULED
    }
    fn picks(&self, step: usize) -> Arc<[Pick]> {
        Arc::new([Pick::all(block(step))])
    }
    fn failed(&self, want: &Want, error: Error) -> Error {
        let (first, count) = (want.offset / STRIDE as u64, (want.len / STRIDE) as u64);
        Error::Records { section: "blocks".into(), first, count, source: Box::new(error) }
    }
}

/// `pages` for chosen steps: two whole blocks at least.
fn fetcher(faults: Faults, fixed: usize, ring: u32, pages: u32) -> Fetcher {
    let position = |i: usize| ((i * 11) % BLOCKS) as f32;
    let blocks: Vec<Block> = (0..BLOCKS).map(|i| Block { bytes: SIZE, position: position(i) }).collect();
    let dram = Dram::place(&blocks, (fixed * SIZE) as u64);
    let least = (2 * SIZE / ALIGN) as u32;
    let layout = Layout { ring: ring.max(frames(SIZE)), chosen: least + pages, singles: vec![2 * ALIGN] };
    let arena = layout.arena(&dram).unwrap();
    let reader = Box::new(Faulty::new(Psync::over(vec![source()]).unwrap(), faults, vec![]));
    Fetcher::new(dram, layout, arena, reader, Box::new(Scheduled), 2, 4 * SIZE)
}

/// Up to two blocks a step, each with its records.
type Choice = Vec<Vec<(usize, Vec<u32>)>>;

fn choices() -> impl Strategy<Value = Choice> {
    let records = prop::collection::btree_set(0..RECORDS as u32, 1..RECORDS).prop_map(|set| set.into_iter().collect());
    let blocks = prop::collection::vec(records, BLOCKS - SCHEDULED);
    (blocks, prop::collection::vec(0usize..3, 1..10)).prop_map(|(records, sizes)| {
        let mut blocks = (SCHEDULED..BLOCKS).zip(records);
        sizes.into_iter().map(|size| blocks.by_ref().take(size).collect()).collect()
    })
}

fn picks(choice: &Choice, request: usize) -> Vec<Vec<Pick>> {
    let pick = |(at, records): &(usize, Vec<u32>)| Pick { block: block(*at), spans: spans(records, STRIDE, request) };
    choice.iter().map(|step| step.iter().map(pick).collect()).collect()
}

fn has_records(held: &Held, at: usize, records: &[u32]) -> bool {
    let is_there = |record: &u32| {
        let begin = *record as usize * STRIDE;
        (begin..begin + STRIDE).all(|place| held[place] == byte(at * SIZE + place))
    };
    held.len() == SIZE && records.iter().all(is_there)
}

fn no_check(_: &Want, _: &[u8]) -> Result<()> {
    Ok(())
}

fn scheduled(fetcher: &mut Fetcher, step: usize) {
    let held = fetcher.fetch(step, &mut no_check).unwrap();
    assert!(has_records(&held[0], step, &(0..RECORDS as u32).collect::<Vec<_>>()), "step {step}");
}

fn sum(fetcher: &Fetcher, of: fn(&Counters) -> u64) -> usize {
    fetcher.stats().sections.iter().map(of).sum::<u64>() as usize
}

proptest! {
    #[test]
    fn what_was_picked_is_there(fixed in 0usize..=BLOCKS, ring in 0u32..12, pages in 0u32..60, reverse in any::<bool>(),
                                request in 0usize..40_000, between in 0usize..3, layers in prop::collection::vec((choices(), 0usize..11), 1..6)) {
        let mut fetcher = fetcher(Faults { reverse, ..Faults::default() }, fixed, ring, pages);
        let mut next = 0;
        for (choice, taken) in layers {
            fetcher.choose(picks(&choice, request), &mut no_check).unwrap();
            // Not all that was chosen is taken, as where a call fails.
            for (step, blocks) in choice.iter().enumerate().take(taken) {
                let held = fetcher.fetch_chosen(step, &mut no_check).unwrap();
                prop_assert_eq!(held.len(), blocks.len());
                for (held, (at, records)) in held.iter().zip(blocks) {
                    prop_assert!(has_records(held, *at, records), "block {}", at);
                }
                if step < between {
                    scheduled(&mut fetcher, next % SCHEDULED);
                    next += 1;
                }
            }
            for _ in 0..SCHEDULED {
                scheduled(&mut fetcher, next % SCHEDULED);
                next += 1;
            }
            fetcher.dram().validate().unwrap();
        }
    }

    #[test]
    fn a_failed_read_fails_its_step_and_nothing_else(fixed in 0usize..=BLOCKS, bad in 1u64..60, pages in 0u32..60, choice in choices()) {
        let mut fetcher = fetcher(Faults { eio: Some((bad, bad)), reverse: true, ..Faults::default() }, fixed, 12, pages);
        let mut errors = 0;
        for round in 0..3 {
            fetcher.choose(picks(&choice, 0), &mut no_check).unwrap();
            for (step, blocks) in choice.iter().enumerate() {
                match fetcher.fetch_chosen(step, &mut no_check) {
                    Ok(held) => {
                        prop_assert!(held.iter().zip(blocks).all(|(held, (at, records))| has_records(held, *at, records)))
                    }
                    Err(Error::Records { .. }) => errors += 1,
                    Err(e) => panic!("{e}"),
                }
                errors += usize::from(fetcher.fetch(step % SCHEDULED, &mut no_check).is_err());
            }
            prop_assert!(round < 2 || errors <= 1);
        }
    }
}

fn every(blocks: std::ops::Range<usize>, records: &[u32]) -> Choice {
    blocks.map(|at| vec![(at, records.to_vec())]).collect()
}

#[test]
fn what_is_read_is_counted_apart() {
    let mut fetcher = fetcher(Faults::default(), 0, 12, 0);
    // Records 0 and 2 lie on one page, 40 ten pages behind: two reads, of which 2 records and a gap of one are the first.
    fetcher.choose(picks(&every(SCHEDULED..SCHEDULED + 1, &[0, 2, 40]), 0), &mut no_check).unwrap();
    drop(fetcher.fetch_chosen(0, &mut no_check).unwrap());
    let counters = fetcher.stats().sections[1];
    assert_eq!((counters.reads, counters.read_bytes), (2, 3 * STRIDE as u64));
    assert_eq!(counters.gap_bytes, STRIDE as u64);
    assert_eq!(counters.aligned_bytes, (2 * ALIGN - 4 * STRIDE) as u64);
}

#[test]
fn scheduled_steps_that_were_read_ahead_stay() {
    let mut fetcher = fetcher(Faults::default(), 0, 40, 0);
    scheduled(&mut fetcher, 0);
    let before = sum(&fetcher, |c| c.reads);
    for at in [SCHEDULED, SCHEDULED + 2, BLOCKS - 2] {
        fetcher.choose(picks(&every(at..at + 2, &[1, 63]), 0), &mut no_check).unwrap();
        (0..2).for_each(|step| drop(fetcher.fetch_chosen(step, &mut no_check).unwrap()));
    }
    (1..SCHEDULED).for_each(|step| scheduled(&mut fetcher, step));
    assert!(before <= SCHEDULED);
    let (used, unused) = (sum(&fetcher, |c| c.read_bytes), sum(&fetcher, |c| c.unused_bytes));
    assert_eq!(used, SCHEDULED * SIZE + 12 * STRIDE);
    assert!(unused <= 4 * SIZE, "what lies ahead of the next round: {unused}");
}

#[test]
fn a_failed_choice_leaves_what_was_read_ahead() {
    let mut fetcher = fetcher(Faults::default(), 0, 40, 0);
    scheduled(&mut fetcher, 0);
    let mut refuse = |want: &Want, _: &[u8]| if want.section == 1 { Err(Error::Internal("refused")) } else { Ok(()) };
    fetcher.choose(picks(&every(SCHEDULED..BLOCKS, &[5]), 0), &mut refuse).unwrap();
    assert!(fetcher.fetch_chosen(0, &mut refuse).is_err());
    (1..SCHEDULED).for_each(|step| scheduled(&mut fetcher, step));
    assert_eq!(fetcher.stats().sections[0].read_bytes as usize, SCHEDULED * SIZE, "each once");
    let held = fetcher.fetch_chosen(3, &mut no_check).unwrap();
    assert!(has_records(&held[0], SCHEDULED + 3, &[5]), "begun anew from there");
}

#[test]
fn a_block_with_a_slot_is_read_whole_and_stays() {
    let mut fetcher = fetcher(Faults::default(), BLOCKS, 12, 0);
    let choice = every(SCHEDULED..BLOCKS, &[7]);
    fetcher.choose(picks(&choice, 0), &mut no_check).unwrap();
    (0..choice.len()).for_each(|step| drop(fetcher.fetch_chosen(step, &mut no_check).unwrap()));
    assert!(matches!(fetcher.dram().find(BlockId(SCHEDULED as u32)), Place::Loaded(_)) && fetcher.is_ready(0));
    fetcher.choose(picks(&choice, 0), &mut no_check).unwrap();
    drop(fetcher.fetch_chosen(0, &mut no_check).unwrap());
    let counters = fetcher.stats().sections[1];
    assert_eq!((counters.hit_bytes as usize, counters.read_bytes as usize), (STRIDE, choice.len() * SIZE));
}

#[test]
fn what_was_not_chosen_is_refused() {
    let mut fetcher = fetcher(Faults::default(), 0, 0, 0);
    assert!(matches!(fetcher.fetch_chosen(0, &mut no_check), Err(Error::Internal(_))));
    let part = Pick::all(Want { len: STRIDE, ..block(7) });
    assert!(matches!(fetcher.choose(vec![vec![part]], &mut no_check), Err(Error::Internal(_))));
    let held = fetcher.fetch(0, &mut no_check).unwrap();
    assert!(matches!(fetcher.fetch(1, &mut no_check), Err(Error::Internal(_))), "the ring is leased");
    drop(held);
    scheduled(&mut fetcher, 1);
}
