//! A reader that misbehaves on purpose, for tests: reads end out of order, and chosen ones fail.

use super::{Done, Read, Reader};
use crate::error::Error;

/// Wraps an engine: results come in reverse order, and every read whose running number `fails` names ends with EIO.
pub struct Faulty<R> {
    inner: R,
    fails: Box<dyn FnMut(usize) -> bool + Send>,
    count: usize,
    done: Vec<Done>,
}

impl<R: Reader> Faulty<R> {
    /// A misbehaving `inner`.
    pub fn new(inner: R, fails: impl FnMut(usize) -> bool + Send + 'static) -> Faulty<R> {
        Faulty { inner, fails: Box::new(fails), count: 0, done: vec![] }
    }

    fn spoil(&mut self, done: Done) -> Done {
        self.count += 1;
        match (self.fails)(self.count - 1) {
            true => {
                Done { result: Err(Error::io("reading", "injected", std::io::Error::from_raw_os_error(5))), ..done }
            }
            false => done,
        }
    }
}

impl<R: Reader> Reader for Faulty<R> {
    fn submit(&mut self, batch: Vec<Read>) {
        self.inner.submit(batch);
    }

    fn poll(&mut self) -> Option<Done> {
        self.done.pop()
    }

    fn wait(&mut self) -> Option<Done> {
        while let Some(done) = self.inner.wait() {
            let done = self.spoil(done);
            self.done.push(done);
        }
        self.done.pop()
    }

    fn name(&self) -> &'static str {
        "faulty"
    }
}
