#![allow(clippy::unwrap_used)]

use super::faulty::Faulty;
use super::{Psync, Read, Reader, Source};
use crate::error::Error;
use crate::mem::{Arena, SlotId};
use std::io::Write;
use std::sync::Arc;

const SIZE: usize = 5000;
const LENGTHS: [usize; 4] = [1, 100, 4096, 700];

type Make = fn(Vec<Source>) -> Box<dyn Reader>;

/// Every engine, and the misbehaving one where it does not fail.
const ENGINES: [Make; 2] =
    [|sources| Box::new(Psync::new(sources)), |sources| Box::new(Faulty::new(Psync::new(sources), |_| false))];

fn byte(file: usize, at: usize) -> u8 {
    (at * 31 + at / 257 + file * 7) as u8
}

fn sources() -> (Vec<tempfile::NamedTempFile>, Vec<Source>) {
    let made = (0..2).map(|file| {
        let mut made = tempfile::NamedTempFile::new().unwrap();
        made.write_all(&(0..SIZE).map(|at| byte(file, at)).collect::<Vec<u8>>()).unwrap();
        let source = Source { path: made.path().into(), file: Arc::new(std::fs::File::open(made.path()).unwrap()) };
        (made, source)
    });
    made.unzip()
}

fn read(arena: &Arc<Arena>, slot: u32, file: usize, offset: u64) -> Read {
    let mut buffer = arena.write(SlotId(slot)).unwrap();
    buffer.truncate(LENGTHS[slot as usize]);
    Read { file, offset, buffers: vec![buffer], token: u64::from(slot) }
}

/// What every engine has to do, in whatever order.
fn body(make: Make) {
    let (_files, sources) = sources();
    let arena = Arena::new(&[&LENGTHS]).unwrap();
    let mut reader = make(sources);
    assert!(reader.wait().is_none(), "nothing was submitted");
    let places = [(0, 0u64), (1, 4900), (0, 904), (1, 4800)];
    reader.submit((0..4).map(|slot| read(&arena, slot, places[slot as usize].0, places[slot as usize].1)).collect());
    let mut tokens = Vec::new();
    while let Some(done) = reader.wait() {
        let (file, offset) = places[done.token as usize];
        match done.result {
            Ok(buffers) => assert!(buffers[0].iter().enumerate().all(|(i, b)| *b == byte(file, offset as usize + i))),
            Err(Error::Truncated { size, end, .. }) => assert_eq!((done.token, size, end), (3, SIZE as u64, 5500)),
            Err(e) => panic!("{e}"),
        }
        tokens.push(done.token);
    }
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2, 3]);
    assert!((0..4).all(|slot| arena.is_idle(SlotId(slot))), "every buffer came back");
    reader.submit(vec![read(&arena, 2, 0, 0)]);
    drop(reader);
    assert!(arena.is_idle(SlotId(2)), "a dropped engine lets go of its buffers");
}

#[test]
fn every_engine_does_the_same() {
    ENGINES.into_iter().for_each(body);
}
