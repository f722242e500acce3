//! Calls that end while their reads are under way, and those behind them.
#![allow(clippy::unwrap_used)]

use super::tests::{BLOCKS, ROWS, SIZE, expected, fetcher, file, no_check, step, want};
use super::{Fetcher, Pick, Stop, Want};
use crate::error::Error;
use crate::io::{Done, Late, Psync, Read, Reader, Source};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Of a reader from which nothing comes while it is shut.
#[derive(Clone, Default)]
struct Gate {
    shut: Arc<AtomicBool>,
    submitted: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

struct Gated(Psync, Gate);

impl Gated {
    fn is_shut(&self) -> bool {
        self.1.shut.load(Ordering::Relaxed)
    }

    fn count(&self, done: Option<Done>) -> Option<Done> {
        self.1.ended.fetch_add(usize::from(done.is_some()), Ordering::Relaxed);
        done
    }
}

impl Reader for Gated {
    fn submit(&mut self, batch: Vec<Read>) {
        self.1.submitted.fetch_add(batch.len(), Ordering::Relaxed);
        self.0.submit(batch);
    }
    fn poll(&mut self) -> Option<Done> {
        let done = if self.is_shut() { None } else { self.0.poll() };
        self.count(done)
    }
    fn wait(&mut self) -> Option<Done> {
        assert!(!self.is_shut(), "an interrupted call waits for no read");
        let done = self.0.wait();
        self.count(done)
    }
    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late> {
        if self.is_shut() {
            std::thread::sleep(limit);
            return Err(Late);
        }
        let done = self.0.wait_for(limit)?;
        Ok(self.count(done))
    }
    fn name(&self) -> &'static str {
        self.0.name()
    }
}

/// A fetcher that is asked to stop while its gate is shut.
fn gated(source: Source, fixed: usize, ring: u32, lookahead: usize) -> (Fetcher, Gate, Arc<Stop>) {
    let gate = Gate::default();
    let reader = Box::new(Gated(Psync::over(vec![source]).unwrap(), gate.clone()));
    let mut fetcher = fetcher(reader, fixed, ring, lookahead);
    let shut = gate.shut.clone();
    let stop = Arc::new(Stop::new(move || shut.load(Ordering::Relaxed)));
    fetcher.heed(stop.clone());
    (fetcher, gate, stop)
}

#[derive(Clone, Debug)]
enum Call {
    Step(usize),
    Rows(Vec<(usize, usize)>),
    Chosen(Vec<usize>),
}

fn calls() -> impl Strategy<Value = Vec<(bool, Call)>> {
    let block = || 0..BLOCKS;
    let call = prop_oneof![
        3 => (0..BLOCKS / 2).prop_map(Call::Step),
        1 => prop::collection::vec((block(), 0usize..SIZE - 9), 1..=ROWS).prop_map(Call::Rows),
        1 => prop::collection::vec(block(), 1..4).prop_map(Call::Chosen),
    ];
    prop::collection::vec((prop::bool::weighted(0.3), call), 1..25)
}

fn run(fetcher: &mut Fetcher, call: &Call) -> Result<(), Error> {
    let check = &mut no_check;
    let (held, wants): (Vec<_>, Vec<Want>) = match call {
        Call::Step(at) => (fetcher.fetch(*at, check)?, [2 * at, 2 * at + 1].map(|block| want(block, 0, SIZE)).into()),
        Call::Rows(rows) => {
            let wants: Vec<Want> = rows.iter().map(|(block, at)| want(*block, *at, 9)).collect();
            (fetcher.fetch_singles(&wants, check)?, wants)
        }
        Call::Chosen(blocks) => {
            let wants: Vec<Want> = blocks.iter().map(|block| want(*block, 0, SIZE)).collect();
            fetcher.choose(wants.iter().map(|want| vec![Pick::all(*want)]).collect(), check)?;
            let fetched = (0..wants.len()).map(|at| {
                let held = fetcher.fetch_chosen(at, check)?;
                assert_eq!(*held[0], expected(&wants[at]));
                Ok(())
            });
            fetched.collect::<Result<Vec<()>, Error>>()?;
            (vec![], vec![])
        }
    };
    assert!(held.iter().zip(&wants).all(|(held, want)| **held == expected(want)), "{call:?}");
    drop(held);
    fetcher.dram().validate().unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_comes_behind_an_interrupted_call_gets_its_bytes(
        fixed in 0usize..=BLOCKS, ring in 0u32..12, lookahead in 0usize..12 * SIZE, calls in calls(),
    ) {
        let (_file, source) = file();
        let (mut fetcher, gate, stop) = gated(source, fixed, ring, lookahead);
        for (shut, call) in calls {
            gate.shut.store(shut, Ordering::Relaxed);
            match run(&mut fetcher, &call) {
                Ok(()) => {}
                Err(Error::Interrupted) => prop_assert!(shut),
                Err(e) => panic!("{call:?}: {e}"),
            }
            stop.is_done();
        }
        gate.shut.store(false, Ordering::Relaxed);
        (0..BLOCKS).for_each(|at| step(&mut fetcher, at % (BLOCKS / 2)));
    }
}

#[test]
fn an_interrupted_step_is_found_by_who_asks_again() {
    let (_file, source) = file();
    let (mut fetcher, gate, stop) = gated(source, 0, 24, 6 * SIZE);
    gate.shut.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(fetcher.fetch(0, &mut no_check), Err(Error::Interrupted)));
    }
    let submitted = gate.submitted.load(Ordering::Relaxed);
    assert_eq!((submitted, gate.ended.load(Ordering::Relaxed)), (2 + 6, 0), "the step and what lies ahead, once");
    gate.shut.store(false, Ordering::Relaxed);
    stop.is_done();
    (0..BLOCKS / 2).for_each(|at| step(&mut fetcher, at));
    let read: u64 = fetcher.stats().sections.iter().map(|section| section.read_bytes).sum();
    assert_eq!(read, (BLOCKS * SIZE) as u64, "nothing twice");
}
