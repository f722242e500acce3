//! Signals while the core waits for reads: their handlers run meanwhile, and what one raises ends the call.

use crate::engine::Stop;
use crate::error::{Error, Result};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What handlers raised, and whether one runs just now.
#[derive(Default)]
pub struct Signals {
    raised: Mutex<Option<PyErr>>,
    handling: AtomicBool,
}

impl Signals {
    /// What the core asks: whether a handler of what has come by now raises.
    pub fn stop(self: &Arc<Self>) -> Stop {
        let signals = self.clone();
        Stop::new(move || is_main_thread() && signals.handle())
    }

    fn handle(&self) -> bool {
        self.handling.store(true, Ordering::Relaxed);
        let raised = Python::attach(|py| py.check_signals().err());
        self.handling.store(false, Ordering::Relaxed);
        let is_raised = raised.is_some();
        if is_raised {
            *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = raised;
        }
        is_raised
    }

    /// What was raised during a call, once.
    pub fn take(&self) -> Option<PyErr> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Refuses a call from a handler, which would wait for the one that it interrupts.
    ///
    /// # Errors
    /// `Error::Usage`.
    pub fn check(&self) -> Result<()> {
        match self.handling.load(Ordering::Relaxed) && is_main_thread() {
            false => Ok(()),
            true => Err(Error::usage(
                "a signal handler called the model while it computes: let it only note the signal, or raise",
            )),
        }
    }
}

/// Python runs handlers in its main thread alone, which is the process's but where a program embeds it elsewhere: there
/// they run behind the call.
fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}
