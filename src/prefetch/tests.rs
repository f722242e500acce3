#![allow(clippy::unwrap_used)]

use super::{Fetcher, Want};
use crate::error::{Error, Result};
use crate::io::faulty::Faulty;
use crate::io::{Faults, Psync, Reader, Source};
use crate::tier::{Block, BlockId, Dram, Place};
use proptest::prelude::*;
use std::io::Write;
use std::sync::Arc;

const SIZE: usize = 1000;
const BLOCKS: usize = 12;

/// A file of blocks whose bytes name their place, and the wants of whole blocks.
fn file() -> (tempfile::NamedTempFile, Source) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..SIZE * BLOCKS).map(|i| (i * 7 + i / 251) as u8).collect();
    file.write_all(&bytes).unwrap();
    let source = Source { path: file.path().into(), file: Arc::new(std::fs::File::open(file.path()).unwrap()) };
    (file, source)
}

fn expected(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn want(block: usize, at: usize, len: usize) -> Want {
    let home = Some((BlockId(block as u32), at, SIZE));
    Want { section: block % 3, file: 0, offset: (block * SIZE + at) as u64, len, block: home }
}

fn fetcher(reader: Box<dyn Reader>, fixed: usize) -> Fetcher {
    let blocks = [Block { bytes: SIZE, position: 0.5 }; BLOCKS];
    let dram = Dram::place(&blocks, &[SIZE, SIZE, SIZE], (3 + fixed as u64) * 4096).unwrap();
    Fetcher::new(dram, reader, 3).unwrap()
}

fn no_check(_: &Want, _: &[u8]) -> Result<()> {
    Ok(())
}

proptest! {
    #[test]
    fn every_step_gets_the_files_bytes(fixed in 0usize..=BLOCKS, reverse in any::<bool>(),
                                       steps in prop::collection::vec((0..BLOCKS - 2, 0usize..900, 1usize..100), 1..40)) {
        let (_file, source) = file();
        let faults = Faults { reverse, ..Faults::default() };
        let reader = Box::new(Faulty::new(Psync::over(vec![source]).unwrap(), faults, vec![]));
        let mut fetcher = fetcher(reader, fixed);
        for (block, at, len) in steps {
            let wants = [want(block, 0, SIZE), want(block + 1, at, len), want(block + 2, 0, SIZE)];
            let held = fetcher.fetch(&wants, &mut no_check).unwrap();
            for (want, held) in wants.iter().zip(&held) {
                prop_assert_eq!(&**held, expected(want.offset as usize, want.len));
            }
            drop(held);
            fetcher.dram().validate().unwrap();
        }
    }

    #[test]
    fn a_failed_read_is_an_error_and_leaves_no_trace(fixed in 0usize..=BLOCKS, bad in 1u64..12) {
        let (_file, source) = file();
        let faults = Faults { eio: Some((bad, bad)), ..Faults::default() };
        let mut fetcher = fetcher(Box::new(Faulty::new(Psync::over(vec![source]).unwrap(), faults, vec![])), fixed);
        let mut errors = 0;
        for round in 0..3 {
            for block in 0..BLOCKS - 1 {
                let wants = [want(block, 0, SIZE), want(block + 1, 0, SIZE)];
                match fetcher.fetch(&wants, &mut no_check) {
                    Ok(held) => prop_assert!(held.iter().zip(&wants).all(|(h, w)| **h == expected(w.offset as usize, w.len))),
                    Err(Error::Io { .. }) => errors += 1,
                    Err(e) => panic!("{e} in round {round}"),
                }
            }
        }
        prop_assert_eq!(errors, 1);
    }
}

#[test]
fn what_fails_its_check_is_read_again() {
    let (_file, source) = file();
    let mut fetcher = fetcher(Box::new(Psync::over(vec![source]).unwrap()), 1);
    let mut refuse = |_: &Want, _: &[u8]| Err(Error::Internal("refused"));
    assert!(fetcher.fetch(&[want(0, 0, SIZE)], &mut refuse).is_err());
    assert_eq!(fetcher.dram().find(BlockId(0)), Place::Reserved(3));
    drop(fetcher.fetch(&[want(0, 0, SIZE)], &mut no_check).unwrap());
    assert_eq!(fetcher.dram().find(BlockId(0)), Place::Loaded(3));
    drop(fetcher.fetch(&[want(0, 5, 10)], &mut no_check).unwrap());
    let counters = fetcher.stats().sections[0];
    assert_eq!((counters.reads, counters.read_bytes, counters.hit_bytes), (2, 2 * SIZE as u64, 10));
}

#[test]
fn a_file_that_ends_early_is_named() {
    let (file, source) = file();
    let mut fetcher = fetcher(Box::new(Psync::over(vec![source]).unwrap()), 0);
    file.as_file().set_len(1500).unwrap();
    let error = fetcher.fetch(&[want(1, 0, SIZE)], &mut no_check).unwrap_err();
    assert!(matches!(error, Error::Truncated { size: 1500, end: 2000, .. }), "{error}");
    drop(fetcher.fetch(&[want(0, 0, SIZE)], &mut no_check).unwrap());
}

#[test]
fn a_step_beyond_the_ring_is_refused() {
    let (_file, source) = file();
    let mut fetcher = fetcher(Box::new(Psync::over(vec![source]).unwrap()), 0);
    let wants: Vec<Want> = (0..4).map(|b| want(b, 0, SIZE)).collect();
    assert!(matches!(fetcher.fetch(&wants, &mut no_check), Err(Error::Internal(_))));
    assert!(fetcher.fetch(&wants[..3], &mut no_check).is_ok());
}
