#![allow(clippy::unwrap_used)]
//! One test body for all engines, each with and without faults.

use super::open::Settings;
use super::{ALIGN, Choice, DEPTH, Done, Faults, Opened, Read, Reader, Source};
use crate::error::Error;
use crate::mem::{Arena, SlotId};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;

/// A file in pages; the last one ends inside a page.
const PAGES: [usize; 3] = [64, 7, 300];
const TAIL: usize = 904;

/// What a reader may do to us without changing a byte.
const HARMLESS: [&str; 5] = ["", "short", "reverse", "slow=1ms", "short,reverse,slow=200us"];

/// Writes a test for every engine; where the kernel denies io_uring, its legs say so past the capture of test output.
macro_rules! engines {
    ($($name:ident),* $(,)?) => {
        mod psync { $(#[test] fn $name() { super::$name(super::Choice::Psync) })* }
        mod uring { $(#[test] fn $name() { if super::available(stringify!($name)) { super::$name(super::Choice::Uring) } })* }
    };
}

engines!(
    every_byte_arrives,
    whatever_the_caller_asks_for_arrives,
    who_waits_for_a_moment_gets_all_in_time,
    long_vectors_arrive,
    an_early_end_is_an_error_that_names_the_file,
    a_failure_is_the_reads_own,
    failing_forever_ends_every_read,
    a_dropped_engine_lets_go_of_its_buffers,
    the_thread_that_submitted_may_end,
    idle_engines_do_not_block,
    a_file_replaced_on_disk_is_not_picked_up,
    a_file_without_direct_io_is_read_with_a_note,
);

fn available(test: &str) -> bool {
    let arena = Arena::new(&[&[1]]).unwrap();
    let opened = Settings::default().open(Choice::Uring, vec![], &arena);
    let denied = opened.as_ref().err().map(|why| format!("SKIPPED io::tests::uring::{test}: {why}\n"));
    std::io::stderr().write_all(denied.as_deref().unwrap_or_default().as_bytes()).unwrap();
    opened.is_ok()
}

fn byte(file: usize, at: usize) -> u8 {
    (at * 31 + at / 257 + file * 7) as u8
}

fn size(file: usize) -> usize {
    PAGES[file] * ALIGN + if file == 2 { TAIL } else { 0 }
}

fn source(path: &Path) -> Source {
    Source { path: path.into(), file: Arc::new(File::open(path).unwrap()) }
}

fn sources() -> (Vec<NamedTempFile>, Vec<Source>) {
    let made = (0..3).map(|file| {
        let mut made = NamedTempFile::new().unwrap();
        made.write_all(&(0..size(file)).map(|at| byte(file, at)).collect::<Vec<u8>>()).unwrap();
        let source = source(made.path());
        (made, source)
    });
    made.unzip()
}

fn open(choice: Choice, faults: &str, sources: Vec<Source>, arena: &Arc<Arena>) -> Box<dyn Reader> {
    opened(choice, faults, sources, arena).reader
}

fn opened(choice: Choice, faults: &str, sources: Vec<Source>, arena: &Arc<Arena>) -> Opened {
    let settings = Settings { faults: Faults::parse(faults).unwrap(), denied: false };
    settings.open(choice, sources, arena).unwrap()
}

/// The reads of a test, to compare results with.
#[derive(Default)]
struct Asked(BTreeMap<u64, (usize, u64)>);

impl Asked {
    fn read(&mut self, arena: &Arc<Arena>, file: usize, offset: u64, buffers: &[(u32, usize)]) -> Read {
        let token = self.0.len() as u64 * 1000;
        self.0.insert(token, (file, offset));
        let lease = |(slot, len): &(u32, usize)| {
            let mut lease = arena.write(SlotId(*slot)).unwrap();
            lease.fill(0xee);
            lease.truncate(*len);
            lease
        };
        Read { file, offset, buffers: buffers.iter().map(lease).collect(), token, urgent: token.is_multiple_of(3) }
    }

    /// Checks a read that must have succeeded.
    fn check(&mut self, done: Done) {
        let (file, offset) = self.0.remove(&done.token).unwrap();
        let buffers = done.result.unwrap();
        let bytes = buffers.iter().flat_map(|b| b.iter());
        assert!(bytes.enumerate().all(|(i, b)| *b == byte(file, offset as usize + i)), "file {file} at {offset}");
    }
}

/// A small generator: tests must not differ from run to run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Whole pages of whole files into one or several slots of two slabs, far more reads than any engine has places.
fn every_byte_arrives(choice: Choice) {
    let slots = [vec![3 * ALIGN; 400], vec![2 * ALIGN; 400]];
    for (seed, faults) in HARMLESS.iter().enumerate() {
        let (_files, sources) = sources();
        let arena = Arena::new(&[&slots[0], &slots[1]]).unwrap();
        let mut reader = open(choice, faults, sources, &arena);
        let (mut random, mut asked) = (Random(seed as u64), Asked::default());
        let mut free: Vec<u32> = (0..800).collect();
        let mut batch = Vec::new();
        while free.len() > 4 {
            let file = random.below(3);
            let buffers: Vec<(u32, usize)> = (0..1 + random.below(3))
                .map(|_| (free.swap_remove(random.below(free.len())), (1 + random.below(2)) * ALIGN))
                .collect();
            let pages = buffers.iter().map(|b| b.1 / ALIGN).sum::<usize>();
            let offset = random.below(PAGES[file] + 1 - pages) * ALIGN;
            batch.push(asked.read(&arena, file, offset as u64, &buffers));
        }
        assert!(batch.len() > 2 * DEPTH);
        let rest = batch.split_off(batch.len() / 2);
        reader.submit(batch);
        for _ in 0..20 {
            reader.poll().into_iter().for_each(|done| asked.check(done));
        }
        reader.submit(rest);
        while let Some(done) = reader.wait() {
            asked.check(done);
        }
        assert!(asked.0.is_empty() && (0..800).all(|slot| arena.is_idle(SlotId(slot))));
    }
}

/// Neighbouring and scattered buffers, odd lengths and offsets, the odd end of a file, nothing at all.
fn whatever_the_caller_asks_for_arrives(choice: Choice) {
    for faults in HARMLESS {
        let (_files, sources) = sources();
        let arena = Arena::new(&[&[2 * ALIGN; 12]]).unwrap();
        let mut reader = open(choice, faults, sources, &arena);
        let mut asked = Asked::default();
        let last = (300 * ALIGN) as u64;
        reader.submit(vec![
            asked.read(&arena, 0, 0, &[(0, 2 * ALIGN), (1, 2 * ALIGN), (2, ALIGN)]),
            asked.read(&arena, 2, 5 * ALIGN as u64, &[(5, ALIGN), (4, ALIGN), (3, 2 * ALIGN)]),
            asked.read(&arena, 1, 4095, &[(6, 1), (7, 5000)]),
            asked.read(&arena, 2, last, &[(8, TAIL)]),
            asked.read(&arena, 2, last - 10, &[(9, 20), (10, 0)]),
            asked.read(&arena, 1, 0, &[]),
        ]);
        while let Some(done) = reader.wait() {
            asked.check(done);
        }
        assert!(asked.0.is_empty());
    }
}

/// A moment is too short for some faults: the engine says so, and gives what comes to who asks again.
fn who_waits_for_a_moment_gets_all_in_time(choice: Choice) {
    let moment = Duration::from_micros(50);
    for faults in HARMLESS {
        let (_files, sources) = sources();
        let arena = Arena::new(&[&[ALIGN; 100]]).unwrap();
        let (mut reader, mut asked) = (open(choice, faults, sources, &arena), Asked::default());
        assert!(reader.wait_for(moment).unwrap().is_none(), "nothing is in flight");
        let batch = (0..100).map(|slot| asked.read(&arena, 2, u64::from(slot) * 8192, &[(slot, ALIGN)]));
        reader.submit(batch.collect());
        while !asked.0.is_empty() {
            // Else late.
            if let Ok(done) = reader.wait_for(moment) {
                asked.check(done.unwrap());
            }
        }
        assert!(reader.wait_for(moment).unwrap().is_none() && reader.wait().is_none());
    }
    let (_files, sources) = sources();
    let arena = Arena::new(&[&[ALIGN]]).unwrap();
    let (mut reader, mut asked) = (open(choice, "slow=600s", sources, &arena), Asked::default());
    reader.submit(vec![asked.read(&arena, 0, 0, &[(0, ALIGN)])]);
    assert!((0..3).all(|_| reader.wait_for(moment).is_err()), "nobody waits ten minutes for it");
}

/// More pieces than the kernel takes in one call.
fn long_vectors_arrive(choice: Choice) {
    let arena = Arena::new(&[&[ALIGN; 2600]]).unwrap();
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all(&(0..1300 * ALIGN).map(|at| byte(0, at)).collect::<Vec<u8>>()).unwrap();
    let mut reader = open(choice, "", vec![source(file.path())], &arena);
    let mut asked = Asked::default();
    let scattered: Vec<(u32, usize)> = (0..1300).map(|i| (2 * i, ALIGN)).collect();
    reader.submit(vec![asked.read(&arena, 0, 0, &scattered)]);
    asked.check(reader.wait().unwrap());
}

fn an_early_end_is_an_error_that_names_the_file(choice: Choice) {
    for faults in HARMLESS {
        let (files, sources) = sources();
        let arena = Arena::new(&[&[8 * ALIGN; 8]]).unwrap();
        let mut reader = open(choice, faults, sources, &arena);
        for len in [20 * ALIGN, 16 * ALIGN + 100, 0] {
            files[0].as_file().set_len(len as u64).unwrap();
            let mut asked = Asked::default();
            let beyond = asked.read(&arena, 0, 16 * ALIGN as u64, &[(0, 8 * ALIGN)]);
            reader.submit(vec![beyond, asked.read(&arena, 1, 0, &[(1, ALIGN)])]);
            let mut results = [reader.wait().unwrap(), reader.wait().unwrap()];
            results.sort_by_key(|done| done.token);
            let [broken, whole] = results;
            match broken.result.unwrap_err() {
                Error::Truncated { path, size, end, .. } => {
                    assert_eq!((path.as_path(), size, end), (files[0].path(), len as u64, 24 * ALIGN as u64));
                }
                e => panic!("{e}"),
            }
            asked.check(whole);
            assert!(arena.is_idle(SlotId(0)), "a failed read gives its buffers back");
        }
    }
}

fn a_failure_is_the_reads_own(choice: Choice) {
    for faults in ["eio=3", "eio=3,short,reverse,slow=200us"] {
        let (files, sources) = sources();
        let arena = Arena::new(&[&[ALIGN; 8]]).unwrap();
        let mut reader = open(choice, faults, sources, &arena);
        for round in 0..3 {
            let mut asked = Asked::default();
            reader.submit(
                (0..8).map(|i| asked.read(&arena, 2, u64::from(i) * 9 * ALIGN as u64, &[(i, ALIGN)])).collect(),
            );
            while let Some(done) = reader.wait() {
                match (done.token, round) {
                    (2000, 0) => {
                        let message = done.result.unwrap_err().to_string();
                        let path = files[2].path().display().to_string();
                        assert!(message.contains(&path) && message.contains("os error 5"), "{message}");
                        asked.0.remove(&2000);
                    }
                    _ => asked.check(done),
                }
            }
            assert!(asked.0.is_empty());
        }
    }
}

fn failing_forever_ends_every_read(choice: Choice) {
    let (_files, sources) = sources();
    let arena = Arena::new(&[&[ALIGN; 200]]).unwrap();
    let mut reader = open(choice, "eio=50..", sources, &arena);
    let mut asked = Asked::default();
    reader.submit((0..200).map(|i| asked.read(&arena, 0, 0, &[(i, ALIGN)])).collect());
    let results: Vec<Done> = std::iter::from_fn(|| reader.wait()).collect();
    assert_eq!(results.iter().filter(|done| done.result.is_ok()).count(), 49);
    assert_eq!(results.len(), 200);
}

fn a_dropped_engine_lets_go_of_its_buffers(choice: Choice) {
    for faults in HARMLESS {
        let (_files, sources) = sources();
        let arena = Arena::new(&[&[4 * ALIGN; 300]]).unwrap();
        let mut reader = open(choice, faults, sources, &arena);
        let mut asked = Asked::default();
        reader.submit((0..300).map(|i| asked.read(&arena, 2, 0, &[(i, 4 * ALIGN)])).collect());
        let kept = reader.wait();
        drop(reader);
        drop(kept);
        assert!((0..300).all(|slot| arena.is_idle(SlotId(slot))));
    }
}

/// The kernel takes back what a thread had in its hands when it ended.
fn the_thread_that_submitted_may_end(choice: Choice) {
    for faults in HARMLESS {
        let (_files, sources) = sources();
        let arena = Arena::new(&[&[4 * ALIGN; 200]]).unwrap();
        let mut reader = open(choice, faults, sources, &arena);
        let mut asked = Asked::default();
        let batch = (0..200).map(|i| asked.read(&arena, 2, u64::from(i) * ALIGN as u64, &[(i, 4 * ALIGN)])).collect();
        let submit = move || {
            reader.submit(batch);
            reader
        };
        let mut reader = std::thread::spawn(submit).join().unwrap();
        while let Some(done) = reader.wait() {
            asked.check(done);
        }
        assert!(asked.0.is_empty());
    }
}

fn idle_engines_do_not_block(choice: Choice) {
    let (_files, sources) = sources();
    let arena = Arena::new(&[&[ALIGN]]).unwrap();
    let mut reader = open(choice, "", sources, &arena);
    assert!(reader.wait().is_none() && reader.poll().is_none());
    reader.submit(vec![]);
    assert!(reader.wait().is_none());
    let mut asked = Asked::default();
    reader.submit(vec![asked.read(&arena, 9, 0, &[(0, ALIGN)])]);
    assert!(reader.wait().unwrap().result.is_err(), "there is no file 9");
    assert!(reader.wait().is_none());
    assert_eq!(reader.name(), if choice == Choice::Uring { "uring" } else { "psync" });
}

fn a_file_replaced_on_disk_is_not_picked_up(choice: Choice) {
    let (files, sources) = sources();
    let mut other = NamedTempFile::new_in(files[0].path().parent().unwrap()).unwrap();
    other.write_all(&[0xaa; 64 * ALIGN]).unwrap();
    std::fs::rename(other.path(), files[0].path()).unwrap();
    let arena = Arena::new(&[&[ALIGN]]).unwrap();
    let mut reader = open(choice, "", sources, &arena);
    let mut asked = Asked::default();
    reader.submit(vec![asked.read(&arena, 0, ALIGN as u64, &[(0, ALIGN)])]);
    asked.check(reader.wait().unwrap());
}

/// The kernel's own files have no direct I/O.
fn a_file_without_direct_io_is_read_with_a_note(choice: Choice) {
    let arena = Arena::new(&[&[ALIGN, ALIGN]]).unwrap();
    let sources = vec![source(Path::new("/proc/version")), source(Path::new("/proc/cmdline"))];
    let Opened { mut reader, notes } = opened(choice, "", sources, &arena);
    let about: Vec<&String> = notes.iter().filter(|note| note.contains("page cache")).collect();
    assert!(about.len() == 1 && about[0].starts_with("/proc/version and 1 more: "), "{notes:?}");
    let mut buffer = arena.write(SlotId(0)).unwrap();
    buffer.truncate(5);
    reader.submit(vec![Read { file: 0, offset: 0, buffers: vec![buffer], token: 1, urgent: false }]);
    assert_eq!(&*reader.wait().unwrap().result.unwrap()[0], b"Linux");
}

#[test]
fn what_is_denied_is_said_once_and_by_name_an_error() {
    let arena = Arena::new(&[&[ALIGN]]).unwrap();
    let (_files, sources) = sources();
    let settings = Settings { denied: true, ..Settings::default() };
    let opened = settings.open(Choice::Auto, sources.clone(), &arena).unwrap();
    assert_eq!(opened.reader.name(), "psync");
    assert!(opened.notes.len() == 1 && opened.notes[0].contains("M2CACHE_IO_URING=off"), "{:?}", opened.notes);
    let error = settings.open(Choice::Uring, sources.clone(), &arena).err().unwrap().to_string();
    assert!(error.contains("M2CACHE_IO_URING=off") && error.contains("io psync"), "{error}");
    let faulty = Settings { faults: Faults::parse("short").unwrap(), denied: false };
    let notes = faulty.open(Choice::Psync, sources, &arena).unwrap().notes;
    assert_eq!(notes, ["faults are injected into reads: short"]);
}
