//! Whether a call that waits for reads is to end before they are there.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often whoever waits is to ask: as fast as people feel at once, and some hundred times what asking takes.
pub const TICK: Duration = Duration::from_millis(20);

/// What is asked.
pub struct Stop {
    ask: Box<dyn Fn() -> bool + Send + Sync>,
    asked: AtomicBool,
}

impl Stop {
    /// An `ask` that says whether the call is to end; from any thread. Once it has said so it need not again.
    pub fn new(ask: impl Fn() -> bool + Send + Sync + 'static) -> Stop {
        Stop { ask: Box::new(ask), asked: AtomicBool::new(false) }
    }

    /// Calls go on to their end.
    pub fn never() -> Stop {
        Stop::new(|| false)
    }

    /// Asks anew.
    pub fn is_wanted(&self) -> bool {
        if (self.ask)() {
            self.asked.store(true, Ordering::Relaxed);
        }
        self.asked.load(Ordering::Relaxed)
    }

    /// The call has ended: the next one goes on until that is to end.
    pub fn is_done(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("asked", &self.asked).finish_non_exhaustive()
    }
}
