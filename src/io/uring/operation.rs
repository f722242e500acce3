//! A read on its way: what is left of it as an entry of the kernel's queue.

use super::super::handle::Handle;
use super::super::window::{Portion, length, window};
use super::super::{Done, Read};
use super::RETRIES;
use crate::error::Error;
use crate::mem::WriteLease;
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::os::fd::AsRawFd;

/// Most pieces one vectored read takes (the kernel's UIO_MAXIOV).
const PIECES: usize = 1024;
/// Most bytes one call reads: entries count in 32 bits, and neighbouring slabs are joined like neighbouring slots.
const MOST: usize = 1 << 30;

/// A read, its buffers, and the description of them that the kernel reads.
pub struct Operation {
    read: Read,
    /// Bytes of the read, and how many have come.
    len: usize,
    done: usize,
    /// The file's index.
    file: usize,
    iovecs: Vec<libc::iovec>,
    tries: u32,
}

// SAFETY: the pointers in `iovecs` point into the buffers that `read` holds the leases of, and leases are `Send`.
unsafe impl Send for Operation {}

/// What becomes of an operation.
pub enum Outcome {
    /// To be given to the kernel (again).
    Again(Operation),
    /// Over.
    Ended(Done),
}

impl Operation {
    /// A read before its first call; over at once where there is nothing to call for.
    pub fn begin(read: Read, handles: &[Handle]) -> Outcome {
        let (len, file, token) = (length(&read), read.file, read.token);
        if file >= handles.len() {
            return Outcome::Ended(Done { token, result: Err(Error::Internal("a read of a file that is not open")) });
        }
        match len {
            0 => Outcome::Ended(Done { token, result: Ok(read.buffers) }),
            _ => Outcome::Again(Operation { read, len, done: 0, file, iovecs: vec![], tries: 0 }),
        }
    }

    /// Whether somebody waits for it already.
    pub fn is_urgent(&self) -> bool {
        self.read.urgent
    }

    /// The entry that reads what is left; `registered` is the slab that the ring knows. It points into the operation.
    pub fn entry(&mut self, handles: &[Handle], portion: Portion, registered: Option<usize>) -> squeue::Entry {
        let fd = types::Fixed(2 * self.file as u32 + u32::from(!handles[self.file].is_direct(&self.read, self.done)));
        let offset = self.read.offset + self.done as u64;
        self.describe(portion);
        let known = registered.is_some_and(|piece| self.read.buffers.iter().all(|b| b.piece() == piece));
        let entry = match self.iovecs[..] {
            [one] if known => {
                opcode::ReadFixed::new(fd, one.iov_base.cast(), one.iov_len as u32, 0).offset(offset).build()
            }
            [one] => opcode::Read::new(fd, one.iov_base.cast(), one.iov_len as u32).offset(offset).build(),
            _ => opcode::Readv::new(fd, self.iovecs.as_ptr(), self.iovecs.len() as u32).offset(offset).build(),
        };
        match !known && self.needs_pages() {
            true => entry.flags(squeue::Flags::ASYNC),
            false => entry,
        }
    }

    /// Whether pages for its buffers are yet to be made. The kernel's own thread shall do that: in the call it holds up
    /// whoever submits, by 4 ms for every 2 MiB where a virtual machine gets its memory only now (benches/NOTES.md). What
    /// comes back is asked for in the call, which also works where the kernel may start no thread.
    fn needs_pages(&self) -> bool {
        self.tries == 0 && self.read.buffers.iter().any(WriteLease::is_fresh)
    }

    /// The buffers of the next call, neighbours joined.
    fn describe(&mut self, portion: Portion) {
        self.iovecs.clear();
        for piece in window(&mut self.read, self.done, portion.of(self.len - self.done).min(MOST)) {
            let begin = piece.as_mut_ptr();
            match self.iovecs.last_mut() {
                Some(last) if last.iov_base.addr() + last.iov_len == begin.addr() => last.iov_len += piece.len(),
                _ => self.iovecs.push(libc::iovec { iov_base: begin.cast(), iov_len: piece.len() }),
            }
        }
        self.iovecs.truncate(PIECES);
    }

    /// What a completion says: the number of bytes that came, or -errno.
    pub fn completed(mut self, result: i32, handles: &[Handle]) -> Outcome {
        match result {
            // ECANCELED: the thread that submitted is gone, and the kernel took back what had not begun.
            _ if matches!(-result, libc::EINTR | libc::EAGAIN | libc::ECANCELED) && self.tries < RETRIES => {
                self.tries += 1;
                return Outcome::Again(self);
            }
            _ if result < 0 => return Outcome::Ended(self.failed(-result, handles)),
            0 => return Outcome::Ended(self.ended(handles)),
            count => (self.done, self.tries) = (self.done + count as usize, 0),
        }
        match self.done < self.len {
            true => Outcome::Again(self),
            false => Outcome::Ended(Done { token: self.read.token, result: Ok(self.read.buffers) }),
        }
    }

    fn ended(&self, handles: &[Handle]) -> Done {
        let result = Err(handles[self.file].ended(self.read.offset + self.len as u64));
        Done { token: self.read.token, result }
    }

    /// The result of an operation that the system refused.
    pub fn failed(&self, errno: i32, handles: &[Handle]) -> Done {
        Done { token: self.read.token, result: Err(handles[self.file].failed(errno)) }
    }
}

/// Registers both handles of every file; entry 2 i is the direct one of file i.
pub fn register_files(ring: &IoUring, handles: &[Handle]) -> io::Result<()> {
    let files: Vec<i32> = handles.iter().flat_map(|h| h.both().map(|f| f.as_raw_fd())).collect();
    match files.is_empty() {
        true => Ok(()),
        false => ring.submitter().register_files(&files),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::{ALIGN, Source};
    use super::*;
    use crate::mem::{Arena, Run, SlotId};
    use std::sync::Arc;

    /// A file of 8 pages and an operation that reads five of them, into two neighbours and one apart.
    fn operation() -> (tempfile::NamedTempFile, Arc<Arena>, Arc<Vec<Handle>>, Operation) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * ALIGN as u64).unwrap();
        let source = Source { path: file.path().into(), file: Arc::new(file.reopen().unwrap()) };
        let (handles, _) = Handle::open_all(vec![source]).unwrap();
        let arena = Arena::new(&[&[ALIGN; 8]]).unwrap();
        let lease = |first, count| arena.write(Run { first: SlotId(first), count }).unwrap();
        let read =
            Read { file: 0, offset: 0, buffers: vec![lease(0, 1), lease(1, 2), lease(5, 2)], token: 7, urgent: false };
        let Outcome::Again(operation) = Operation::begin(read, &handles) else { panic!("ended") };
        (file, arena, handles, operation)
    }

    fn lengths(operation: &Operation) -> Vec<usize> {
        operation.iovecs.iter().map(|v| v.iov_len / ALIGN).collect()
    }

    #[test]
    fn neighbours_are_one_piece_and_what_has_come_is_left_out() {
        let (_file, _arena, handles, mut operation) = operation();
        operation.entry(&handles, Portion::Whole, None);
        assert_eq!(lengths(&operation), [3, 2]);
        operation.entry(&handles, Portion::Half, None);
        assert_eq!(lengths(&operation), [3]);
        let Outcome::Again(mut operation) = operation.completed(2 * ALIGN as i32, &handles) else { panic!("ended") };
        operation.entry(&handles, Portion::Whole, Some(0));
        assert_eq!(lengths(&operation), [1, 2]);
    }

    #[test]
    fn only_the_first_call_into_memory_without_pages_is_left_to_the_kernels_thread() {
        let flags = squeue::Flags::ASYNC | squeue::Flags::FIXED_FILE;
        let left = format!("flags: {},", flags.bits());
        let is_left = |entry: squeue::Entry| format!("{entry:?}").contains(&left);
        let (_file, arena, handles, mut operation) = operation();
        assert!(is_left(operation.entry(&handles, Portion::Whole, None)));
        assert!(!is_left(operation.entry(&handles, Portion::Whole, Some(0))), "registered memory has its pages");
        let Outcome::Again(mut again) = operation.completed(-libc::ECANCELED, &handles) else { panic!("ended") };
        assert!(!is_left(again.entry(&handles, Portion::Whole, None)), "no thread took it");
        drop(again);
        let read = Read { file: 0, offset: 0, buffers: vec![arena.write(SlotId(1)).unwrap()], token: 7, urgent: false };
        let Outcome::Again(mut second) = Operation::begin(read, &handles) else { panic!("ended") };
        assert!(!is_left(second.entry(&handles, Portion::Whole, None)), "its pages are there");
    }

    #[test]
    fn an_operation_ends_with_its_last_byte() {
        let (_file, _arena, handles, operation) = operation();
        let Outcome::Again(operation) = operation.completed(5 * ALIGN as i32 - 1, &handles) else { panic!("ended") };
        let Outcome::Ended(done) = operation.completed(1, &handles) else { panic!("goes on") };
        assert_eq!((done.token, done.result.unwrap().len()), (7, 3));
    }

    #[test]
    fn the_kernel_is_asked_again_but_not_forever() {
        let (_file, arena, handles, mut operation) = operation();
        for _ in 0..RETRIES {
            let Outcome::Again(again) = operation.completed(-libc::EAGAIN, &handles) else { panic!("ended") };
            operation = again;
        }
        let Outcome::Ended(done) = operation.completed(-libc::EAGAIN, &handles) else { panic!("goes on") };
        assert!(done.result.unwrap_err().to_string().contains("os error 11"));
        assert!(arena.is_idle(SlotId(0)));
    }

    #[test]
    fn what_cannot_be_asked_again_is_an_error_that_names_the_file() {
        for result in [-libc::EIO, 0] {
            let (file, _arena, handles, operation) = operation();
            let Outcome::Ended(done) = operation.completed(result, &handles) else { panic!("goes on") };
            assert!(done.result.unwrap_err().to_string().contains(&file.path().display().to_string()));
        }
    }
}
