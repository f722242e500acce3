//! io_uring: a batch of reads is one system call, and who waits sleeps in the kernel.

mod denied;
mod operation;

use super::backlog::Backlog;
use super::handle::Handle;
use super::window::Portion;
use super::{Done, Late, Read, Reader};
use crate::mem::Arena;
pub use denied::Denied;
use io_uring::{IoUring, Probe, opcode, types};
use operation::{Operation, Outcome};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Reads in flight at once: random reads of 64 KiB gain up to here, larger ones need fewer (benches/NOTES.md).
pub const DEPTH: usize = 64;
/// How often a call that the system asks to repeat is repeated, a millisecond apart.
const RETRIES: u32 = 1000;

/// The engine.
///
/// The kernel writes into buffers of `operations` until their completions have been seen. So an operation leaves the
/// table only when it has completed, and dropping the engine waits for all of them, closes the ring, then frees.
pub struct Uring {
    ring: IoUring,
    handles: Arc<Vec<Handle>>,
    portion: Portion,
    /// The slab whose memory is registered.
    registered: Option<Registered>,
    /// What the kernel works on, by the mark of its completion.
    operations: Vec<Option<Operation>>,
    free: Vec<u32>,
    /// What waits for a place in the table.
    backlog: Backlog<Operation>,
    ended: VecDeque<Done>,
    /// Why the ring takes no more calls.
    broken: Option<i32>,
}

/// A slab that the kernel has pinned; the arena keeps it mapped for as long.
struct Registered {
    piece: usize,
    _arena: Arc<Arena>,
}

impl Uring {
    /// Opens a ring with every file registered, and with the arena's first slab where that is allowed: else the note
    /// says why not.
    pub fn new(
        handles: Arc<Vec<Handle>>,
        portion: Portion,
        arena: &Arc<Arena>,
    ) -> Result<(Uring, Option<String>), Denied> {
        let ring = build().map_err(|e| Denied::at("io_uring_setup", e))?;
        check_operations(&ring)?;
        operation::register_files(&ring, &handles).map_err(|e| Denied::at("registering the files", e))?;
        ring.submit().map_err(|e| Denied::at("io_uring_enter", e))?;
        let (registered, note) = match register(&ring, arena) {
            Ok(registered) => (registered, None),
            Err(e) => (None, Some(denied::unregistered(&e))),
        };
        let operations = (0..DEPTH).map(|_| None).collect();
        let free = (0..DEPTH as u32).rev().collect();
        let (backlog, ended) = (Backlog::new(), VecDeque::new());
        Ok((Uring { ring, handles, portion, registered, operations, free, backlog, ended, broken: None }, note))
    }

    fn in_flight(&self) -> usize {
        DEPTH - self.free.len()
    }

    fn is_busy(&self) -> bool {
        self.in_flight() + self.backlog.len() > 0
    }

    /// Gives the kernel's queue what waits, as far as the table has places.
    fn start(&mut self) {
        while let Some(index) = self.free.pop() {
            let Some(operation) = self.backlog.pop() else { return self.free.push(index) };
            let operation = self.operations[index as usize].insert(operation);
            let piece = self.registered.as_ref().map(|r| r.piece);
            let entry = operation.entry(&self.handles, self.portion, piece).user_data(u64::from(index));
            // SAFETY: the entry points at the operation's iovecs and through them at its leased buffers. Both lie on the
            // heap and stay as they are until the completion takes the operation out of the table.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            debug_assert!(pushed.is_ok(), "the queue is as long as the table");
        }
    }

    /// Hands the queue to the kernel, waits for `want` completions and collects all there are.
    fn enter(&mut self, want: usize) {
        let mut tries = 0;
        while let Err(e) = self.ring.submit_and_wait(want) {
            match e.raw_os_error() {
                Some(libc::EINTR) => {}
                // Memory for requests is short, or completions have to be taken out first.
                Some(libc::EAGAIN | libc::EBUSY) if tries < RETRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                errno => return self.give_up(errno.unwrap_or(libc::EIO)),
            }
            if self.collect() > 0 {
                break;
            }
        }
        self.collect();
    }

    /// Hands the queue to the kernel and collects what there is, after a wait of up to `limit` for the first.
    fn enter_for(&mut self, limit: Duration) {
        if !self.ring.params().is_feature_ext_arg() {
            // Before Linux 5.11 a wait has no end: a nap at a time.
            std::thread::sleep(limit.min(Duration::from_millis(1)));
            return self.enter(0);
        }
        let limit = types::Timespec::from(limit);
        match self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                self.give_up(e.raw_os_error().unwrap_or(libc::EIO));
            }
            _ => _ = self.collect(),
        }
    }

    /// Takes completions out of the kernel's queue; returns how many.
    fn collect(&mut self) -> usize {
        let completions: Vec<(u64, i32)> = self.ring.completion().map(|c| (c.user_data(), c.result())).collect();
        for (index, result) in &completions {
            if let Some(operation) = self.operations.get_mut(*index as usize).and_then(Option::take) {
                self.free.push(*index as u32);
                self.completed(operation, *result);
            }
        }
        completions.len()
    }

    fn completed(&mut self, operation: Operation, result: i32) {
        match operation.completed(result, &self.handles) {
            Outcome::Again(operation) => self.backlog.push_first(operation),
            Outcome::Ended(done) => self.ended.push_back(done),
        }
    }

    /// The ring is of no use any more. What the kernel may still write to is never freed.
    fn give_up(&mut self, errno: i32) {
        self.broken = Some(errno);
        let held = self.operations.iter_mut().filter_map(Option::take).map(|operation| {
            let failed = operation.failed(errno, &self.handles);
            std::mem::forget(operation);
            failed
        });
        self.ended.extend(held);
        self.free = (0..DEPTH as u32).rev().collect();
        self.refuse(errno);
    }

    fn refuse(&mut self, errno: i32) {
        self.ended.extend(self.backlog.drain().map(|operation| operation.failed(errno, &self.handles)));
    }

    /// Starts what waits; the kernel hears of it without being waited for.
    fn advance(&mut self) {
        match self.broken {
            Some(errno) => self.refuse(errno),
            None => {
                self.start();
                if !self.ring.submission().is_empty() || self.ring.submission().taskrun() {
                    self.enter(0);
                }
            }
        }
    }
}

impl Reader for Uring {
    fn submit(&mut self, batch: Vec<Read>) {
        for read in batch {
            match Operation::begin(read, &self.handles) {
                Outcome::Again(operation) => {
                    let urgent = operation.is_urgent();
                    self.backlog.push(operation, urgent);
                }
                Outcome::Ended(done) => self.ended.push_back(done),
            }
        }
        self.advance();
    }

    fn poll(&mut self) -> Option<Done> {
        self.collect();
        self.advance();
        self.ended.pop_front()
    }

    fn wait(&mut self) -> Option<Done> {
        self.collect();
        while self.ended.is_empty() && self.is_busy() {
            self.start();
            self.enter(1);
        }
        self.advance();
        self.ended.pop_front()
    }

    fn wait_for(&mut self, limit: Duration) -> Result<Option<Done>, Late> {
        self.collect();
        if self.ended.is_empty() && self.is_busy() {
            self.start();
            self.enter_for(limit);
        }
        self.advance();
        match self.ended.pop_front() {
            None if self.is_busy() => Err(Late),
            ended => Ok(ended),
        }
    }

    fn name(&self) -> &'static str {
        "uring"
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.backlog.drain().for_each(drop);
        while self.in_flight() > 0 {
            self.enter(1);
            // What would have to be continued is not wanted any more.
            self.backlog.drain().for_each(drop);
        }
    }
}

/// A ring whose memory no child process shares. Completions are worked off when somebody enters the kernel (Linux
/// 5.19): without that they interrupt the computation.
fn build() -> io::Result<IoUring> {
    let cooperative = IoUring::builder().dontfork().setup_coop_taskrun().setup_taskrun_flag().build(DEPTH as u32);
    match cooperative {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().dontfork().build(DEPTH as u32),
        result => result,
    }
}

fn check_operations(ring: &IoUring) -> Result<(), Denied> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|e| Denied::at("io_uring_register", e))?;
    let needed = [opcode::Read::CODE, opcode::Readv::CODE, opcode::ReadFixed::CODE];
    match needed.iter().all(|code| probe.is_supported(*code)) {
        true => Ok(()),
        false => Err(Denied::Operations),
    }
}

fn register(ring: &IoUring, arena: &Arc<Arena>) -> io::Result<Option<Registered>> {
    let Some((base, len)) = arena.pieces().first().copied() else { return Ok(None) };
    let memory = [libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len }];
    // SAFETY: the slab stays mapped while `Registered` holds its arena, which is until the ring is closed; its bytes are
    // written only by operations, each of which holds a lease.
    unsafe { ring.submitter().register_buffers(&memory) }?;
    Ok(Some(Registered { piece: 0, _arena: arena.clone() }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ALIGN, Source};
    use super::*;
    use crate::mem::SlotId;
    use std::io::Write;

    /// What no test can make a kernel do: the ring itself fails while it holds reads.
    #[test]
    fn a_broken_ring_ends_every_read_and_keeps_what_the_kernel_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let source = Source { path: file.path().into(), file: Arc::new(file.reopen().unwrap()) };
        let (handles, _) = Handle::open_all(vec![source]).unwrap();
        let arena = Arena::new(&[&[ALIGN; 200]]).unwrap();
        let (mut uring, _) = match Uring::new(handles, Portion::Whole, &arena) {
            Ok(opened) => opened,
            Err(why) => return std::io::stderr().write_all(format!("SKIPPED io::uring: {why}\n").as_bytes()).unwrap(),
        };
        let read = |slot| {
            let buffers = vec![arena.write(SlotId(slot)).unwrap()];
            Read { file: 0, offset: 0, buffers, token: slot.into(), urgent: slot == 149 }
        };
        for slot in 0..150 {
            let Outcome::Again(operation) = Operation::begin(read(slot), &uring.handles) else { panic!("ended") };
            let urgent = operation.is_urgent();
            uring.backlog.push(operation, urgent);
        }
        uring.start();
        assert_eq!((uring.in_flight(), uring.backlog.len()), (DEPTH, 150 - DEPTH));
        assert!(
            uring.operations.iter().flatten().any(Operation::is_urgent),
            "the last, before those that came earlier"
        );
        uring.give_up(libc::EBADF);
        uring.submit((150..200).map(read).collect());
        let ended: Vec<Done> = std::iter::from_fn(|| uring.wait()).collect();
        assert!(ended.len() == 200 && ended.iter().all(|done| done.result.is_err()));
        assert_eq!((0..200).filter(|slot| !arena.is_idle(SlotId(*slot))).count(), DEPTH);
    }
}
