//! Why io_uring cannot be used here, in words that say what to do about it.

use std::io;

/// The step at which the system refused.
#[derive(Debug)]
pub enum Denied {
    /// A call that failed, and what it said.
    Call(&'static str, io::Error),
    /// The kernel's io_uring lacks the reads.
    Operations,
    /// The user said so.
    Asked,
}

impl Denied {
    /// A call that failed.
    pub fn at(call: &'static str, error: io::Error) -> Denied {
        Denied::Call(call, error)
    }
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Denied::Call(call, e) => write!(f, "{call}: {e}{}", hint(e)),
            Denied::Operations => write!(f, "this kernel's io_uring has no reads of this kind (Linux 5.6 has)"),
            Denied::Asked => write!(f, "M2CACHE_IO_URING=off"),
        }
    }
}

fn hint(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            ", denied by the sysctl kernel.io_uring_disabled or by a container's seccomp profile"
        }
        Some(libc::ENOSYS) => ", so the kernel has no io_uring or a seccomp profile hides it",
        Some(libc::ENOMEM) => ", above the limit of locked memory (ulimit -l)",
        Some(libc::EMFILE | libc::ENFILE) => ", above the limit of open files (ulimit -n)",
        _ => "",
    }
}

/// The note for a ring without registered memory.
pub fn unregistered(e: &io::Error) -> String {
    format!("io_uring reads into memory that is not registered, a little more work a read: {e}{}", hint(e))
}
