//! Positional reads by a few threads: works everywhere.

#[cfg(test)]
use super::Source;
use super::backlog::Backlog;
use super::handle::Handle;
use super::window::{Portion, length, window};
use super::{Done, Late, Read, Reader};
use crate::error::{Error, Result};
use crate::mem::WriteLease;
use rustix::io::{Errno, preadv};
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Reads in flight at once, each in a thread that sleeps in the kernel: enough for reads of 256 KiB (benches/NOTES.md).
pub const THREADS: usize = 16;

/// The engine: reads go to the threads by a queue and come back by a channel.
#[derive(Debug)]
pub struct Psync {
    queue: Arc<Queue>,
    ended: Receiver<Done>,
    in_flight: usize,
    closing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Reads that wait for a thread.
#[derive(Debug)]
struct Queue {
    reads: Mutex<Backlog<Read>>,
    /// There are more, or the engine is being dropped.
    news: Condvar,
}

/// What a thread needs.
#[derive(Clone)]
struct Worker {
    handles: Arc<Vec<Handle>>,
    portion: Portion,
    queue: Arc<Queue>,
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
        let queue = Arc::new(Queue { reads: Mutex::new(Backlog::new()), news: Condvar::new() });
        let (sender, ended) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let worker = Worker { handles, portion, queue: queue.clone(), ended: sender, closing: closing.clone() };
        let mut psync = Psync { queue, ended, in_flight: 0, closing, threads: vec![] };
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

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Backlog<Read>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    fn work(&self) {
        while let Some(read) = self.next() {
            let token = read.token;
            // Nobody listens any more when the engine is being dropped.
            let _ = self.ended.send(Done { token, result: self.fill(read) });
        }
    }

    /// The next read; none once the engine is being dropped.
    fn next(&self) -> Option<Read> {
        let mut reads = self.queue.lock();
        while !self.closing.load(Ordering::Relaxed) {
            if let Some(read) = reads.pop() {
                return Some(read);
            }
            reads = self.queue.news.wait(reads).unwrap_or_else(PoisonError::into_inner);
        }
        None
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
        self.in_flight += batch.len();
        let mut reads = self.queue.lock();
        for read in batch {
            let urgent = read.urgent;
            reads.push(read, urgent);
            self.queue.news.notify_one();
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

    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late> {
        if self.in_flight == 0 {
            return Ok(None);
        }
        match self.ended.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => Err(Late),
            ended => {
                self.in_flight -= 1;
                Ok(ended.ok())
            }
        }
    }

    fn name(&self) -> &'static str {
        "psync"
    }
}

impl Drop for Psync {
    fn drop(&mut self) {
        let reads = self.queue.lock();
        self.closing.store(true, Ordering::Relaxed);
        self.queue.news.notify_all();
        drop(reads);
        // What a thread is reading just now ends first, and with it the use of its buffers.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
