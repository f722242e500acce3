//! What computes: an instruction set, threads, and the arithmetic of coarse weights.

#![forbid(unsafe_code)]

use super::isa::Isa;
use crate::types::Level;
use rayon::ThreadPool;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// What records at levels 4 and 8 are multiplied in (docs/format.md, 6). Level 16 is in f32 throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Activations of 8 bits in dots, factors of 16 bits in sums, both scaled by group: sums over groups are exact.
    Integer,
    /// f32.
    Float,
}

/// The processor as kernels over stored records are given it; clones share the threads.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Instruction set: changes no bit.
    pub isa: Isa,
    /// Part of what is computed, unlike the rest.
    pub arithmetic: Arithmetic,
    pool: Arc<ThreadPool>,
    /// Threads that have nothing else to do than to share a call.
    sharing: usize,
}

impl Arithmetic {
    /// Whether records at a level are multiplied in integers.
    pub fn is_integer(self, level: Level) -> bool {
        self == Arithmetic::Integer && level != Level::L16
    }
}

impl Cpu {
    /// Of these threads.
    pub fn new(isa: Isa, arithmetic: Arithmetic, pool: Arc<ThreadPool>) -> Cpu {
        Cpu { isa, arithmetic, sharing: pool.current_num_threads(), pool }
    }

    /// The same for calls that one thread computes while the others have their own: cut into few tasks.
    pub fn alone(&self) -> Cpu {
        Cpu { sharing: 1, ..self.clone() }
    }

    /// The same with another arithmetic.
    pub fn with(&self, arithmetic: Arithmetic) -> Cpu {
        Cpu { arithmetic, ..self.clone() }
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Threads that share a call.
    pub fn sharing(&self) -> usize {
        self.sharing
    }

    /// Runs `part` on one of the threads, for the others to share: on this one, if it is theirs.
    pub fn run<T: Send>(&self, part: impl FnOnce() -> T + Send) -> T {
        self.pool.install(part)
    }

    /// The same, while this thread, which is none of them, does `meanwhile` every `tick` until it is over; none where it
    /// went wrong, which comes up behind it.
    pub fn run_beside<T: Send>(
        &self,
        tick: Duration,
        mut meanwhile: impl FnMut() + Send,
        part: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        self.pool.in_place_scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move |_| drop(sender.send(part())));
            loop {
                match receiver.recv_timeout(tick) {
                    Ok(found) => return Some(found),
                    Err(RecvTimeoutError::Timeout) => meanwhile(),
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        })
    }
}

/// For the tests of what takes one.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod testing {
    use super::*;
    use proptest::prelude::*;
    use rayon::ThreadPoolBuilder;
    use std::io::Write;
    use std::sync::LazyLock;

    static TWO: LazyLock<Arc<ThreadPool>> =
        LazyLock::new(|| Arc::new(ThreadPoolBuilder::new().num_threads(2).build().unwrap()));

    /// With two threads that all of them share.
    pub fn on_two(isa: Isa, arithmetic: Arithmetic) -> Cpu {
        Cpu::new(isa, arithmetic, TWO.clone())
    }

    /// With threads of its own.
    pub fn on(threads: usize, isa: Isa, arithmetic: Arithmetic) -> Cpu {
        Cpu::new(isa, arithmetic, Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap()))
    }

    /// Says what is not tested here, past the capture of test output.
    pub fn skipped(what: &str) {
        std::io::stderr().write_all(format!("SKIPPED {what}\n").as_bytes()).unwrap();
    }

    /// Both.
    pub fn arithmetics() -> impl Strategy<Value = Arithmetic> {
        prop::sample::select(vec![Arithmetic::Integer, Arithmetic::Float])
    }
}
