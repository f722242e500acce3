//! A reader that misbehaves on purpose: around any engine, for tests here and for programs under test.

use super::faults::Faults;
use super::{Done, Late, Read, Reader};
use crate::error::Error;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Wraps an engine: what arrives may fail, come late or come last first. Short reads are the engine's own matter.
pub struct Faulty<R> {
    inner: R,
    faults: Faults,
    paths: Vec<PathBuf>,
    /// Reads so far; also the marks under which the engine knows them.
    count: u64,
    flying: HashMap<u64, Flight>,
    /// What has ended and is held back, oldest first.
    ended: Vec<(Instant, Done)>,
}

struct Flight {
    token: u64,
    file: usize,
    due: Instant,
}

impl<R: Reader> Faulty<R> {
    /// A misbehaving `inner` over files with these names.
    pub fn new(inner: R, faults: Faults, paths: Vec<PathBuf>) -> Faulty<R> {
        Faulty { inner, faults, paths, count: 0, flying: HashMap::new(), ended: vec![] }
    }

    fn take_off(&mut self, read: Read) -> Read {
        self.count += 1;
        let flight = Flight { token: read.token, file: read.file, due: Instant::now() + self.faults.slow };
        self.flying.insert(self.count, flight);
        Read { token: self.count, ..read }
    }

    /// Gives a result its own mark back, and spoils it if its turn has come.
    fn land(&mut self, done: Done) {
        let Some(flight) = self.flying.remove(&done.token) else { return };
        let spoiled = self.faults.eio.is_some_and(|(first, last)| (first..=last).contains(&done.token));
        let result = if spoiled { Err(self.error(flight.file)) } else { done.result };
        self.ended.push((flight.due, Done { token: flight.token, result }));
    }

    fn error(&self, file: usize) -> Error {
        let path = self.paths.get(file).cloned().unwrap_or_default();
        Error::io("reading", path, std::io::Error::from_raw_os_error(libc::EIO))
    }

    /// The result to hand out next, with the time until it may be.
    fn next(&self) -> Option<(usize, Duration)> {
        let now = Instant::now();
        let left = |(at, (due, _)): (usize, &(Instant, Done))| (at, due.saturating_duration_since(now));
        match self.faults.reverse {
            true if !self.flying.is_empty() => None,
            true => self.ended.iter().enumerate().next_back().map(left),
            false => self.ended.iter().enumerate().map(left).min_by_key(|(_, left)| *left),
        }
    }
}

impl<R: Reader> Reader for Faulty<R> {
    fn submit(&mut self, batch: Vec<Read>) {
        let batch = batch.into_iter().map(|read| self.take_off(read)).collect();
        self.inner.submit(batch);
    }

    fn poll(&mut self) -> Option<Done> {
        while let Some(done) = self.inner.poll() {
            self.land(done);
        }
        let (at, _) = self.next().filter(|(_, left)| left.is_zero())?;
        Some(self.ended.remove(at).1)
    }

    fn wait(&mut self) -> Option<Done> {
        loop {
            if let Some((at, left)) = self.next() {
                std::thread::sleep(left);
                return Some(self.ended.remove(at).1);
            }
            let done = self.inner.wait()?;
            self.land(done);
        }
    }

    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late> {
        let until = Instant::now() + limit;
        loop {
            let room = until.saturating_duration_since(Instant::now());
            if let Some((at, left)) = self.next() {
                std::thread::sleep(left.min(room));
                return if left <= room { Ok(Some(self.ended.remove(at).1)) } else { Err(Late) };
            }
            match self.inner.wait_for(room)? {
                Some(done) => self.land(done),
                None => return Ok(None),
            }
        }
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
