//! Positional reads by a few threads: works everywhere.

#[cfg(test)]
use super::Source;
use super::handle::Handle;
use super::window::{Portion, length, window};
use super::{Done, Read, Reader};
use crate::error::{Error, Result};
use crate::mem::WriteLease;
use rustix::io::{Errno, preadv};
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Reads in flight at once, each in a thread that sleeps in the kernel: enough for reads of 256 KiB (benches/NOTES.md).
pub const THREADS: usize = 16;

/// The engine: reads go to the threads by one channel and come back by another.
#[derive(Debug)]
pub struct Psync {
    /// None once the engine is being dropped.
    reads: Option<Sender<Read>>,
    ended: Receiver<Done>,
    in_flight: usize,
    closing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a thread needs.
#[derive(Clone)]
struct Worker {
    handles: Arc<Vec<Handle>>,
    portion: Portion,
    reads: Arc<Mutex<Receiver<Read>>>,
    ended: Sender<Done>,
    closing: Arc<AtomicBool>,
}

impl Psync {
    /// The engine over files, without a choice and without faults, for tests of other rooms.
    #[cfg(test)]
    pub fn over(sources: Vec<Source>) -> Result<Psync> {
        Psync::new(Handle::open_all(sources)?.0, Portion::Whole)
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// `Error::Usage` where the system allows no more threads.
    pub(super) fn new(handles: Arc<Vec<Handle>>, portion: Portion) -> Result<Psync> {
        let (reads, queue) = channel();
        let (sender, ended) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let worker =
            Worker { handles, portion, reads: Arc::new(Mutex::new(queue)), ended: sender, closing: closing.clone() };
        let mut psync = Psync { reads: Some(reads), ended, in_flight: 0, closing, threads: vec![] };
        for _ in 0..THREADS {
            psync.threads.push(start(worker.clone())?);
        }
        Ok(psync)
    }
}

fn start(worker: Worker) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("m2cache-read".into());
    thread.spawn(move || worker.work()).map_err(|e| {
        Error::usage(format!(
            "could not start {THREADS} reader threads ({e}): raise the limit of processes (ulimit -u)"
        ))
    })
}

impl Worker {
    fn work(&self) {
        while let Some(read) = self.next() {
            let token = read.token;
            if !self.closing.load(Ordering::Relaxed) {
                // Nobody listens any more when the engine is being dropped.
                let _ = self.ended.send(Done { token, result: self.fill(read) });
            }
        }
    }

    /// The next read; none once the engine is gone and the channel empty.
    fn next(&self) -> Option<Read> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    fn fill(&self, mut read: Read) -> Result<Vec<WriteLease>> {
        let handle = self.handles.get(read.file).ok_or(Error::Internal("a read of a file that is not open"))?;
        let (len, mut done) = (length(&read), 0);
        while done < len {
            done += match self.call(handle, &mut read, done, len - done) {
                Ok(0) => return Err(handle.ended(read.offset + len as u64)),
                Ok(count) => count,
                Err(Errno::INTR) => 0,
                Err(e) => return Err(handle.failed(e.raw_os_error())),
            };
        }
        Ok(read.buffers)
    }

    fn call(&self, handle: &Handle, read: &mut Read, done: usize, left: usize) -> rustix::io::Result<usize> {
        let (file, offset) = (handle.of(read, done), read.offset + done as u64);
        let mut pieces: Vec<IoSliceMut<'_>> =
            window(read, done, self.portion.of(left)).into_iter().map(IoSliceMut::new).collect();
        preadv(file, &mut pieces, offset)
    }
}

impl Reader for Psync {
    fn submit(&mut self, batch: Vec<Read>) {
        for read in batch {
            // The channel stays open while `self` holds its threads.
            self.in_flight += usize::from(self.reads.as_ref().is_some_and(|to| to.send(read).is_ok()));
        }
    }

    fn poll(&mut self) -> Option<Done> {
        let done = self.ended.try_recv().ok()?;
        self.in_flight -= 1;
        Some(done)
    }

    fn wait(&mut self) -> Option<Done> {
        if self.in_flight == 0 {
            return None;
        }
        self.in_flight -= 1;
        self.ended.recv().ok()
    }

    fn name(&self) -> &'static str {
        "psync"
    }
}

impl Drop for Psync {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.reads = None;
        // What a thread is reading just now ends first, and with it the use of its buffers.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
