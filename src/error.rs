//! One error tree. A variant is named after the rule that was broken and carries what, where and the way out.

use std::path::{Path, PathBuf};

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("{action} {path}: {source}{remedy}", path = path.display(), remedy = remedy(source))]
    Io {
        /// What was being done, as a gerund: "reading".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of the store ends before the bytes its header promises.
    #[error("{path} ends at byte {size}, but {what} needs byte {end}: the file is truncated; convert the model again", path = path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What lies beyond the end.
        what: String,
        /// Where that ends.
        end: u64,
    },
    /// A directory that holds files of the store is not there, or is not what it should be.
    #[error("{store} keeps files in {root}, which cannot be used: {source}; is its disk mounted? (A root that was moved is found again behind a link at its old place.)", store = store.display(), root = root.display())]
    Root {
        /// The store.
        store: PathBuf,
        /// The directory.
        root: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// A rule of the safetensors container is broken.
    #[error("{path}: {rule}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The rule, with the data that breaks it.
        rule: String,
    },
    /// A rule of the store format is broken.
    #[error("{path}: {rule}", path = path.display())]
    Format {
        /// The file or directory.
        path: PathBuf,
        /// The rule, with the data that breaks it.
        rule: String,
    },
    /// The store needs something this version does not have.
    #[error("{path}: {what}", path = path.display())]
    Unsupported {
        /// The file or directory.
        path: PathBuf,
        /// What is not supported, and what is.
        what: String,
    },
    /// Bytes do not match their checksum.
    #[error("{path}: section {section}, record {first}{range}: checksum mismatch (stored {stored:016x}, computed {computed:016x}); the file is damaged, convert the model again", path = path.display(), range = if *count > 1 { format!(" to {}", first + count - 1) } else { String::new() })]
    Damage {
        /// The file.
        path: PathBuf,
        /// Section name.
        section: String,
        /// First record under the checksum.
        first: u64,
        /// Records under the checksum.
        count: u64,
        /// Checksum in the file.
        stored: u64,
        /// Checksum of the bytes.
        computed: u64,
    },
    /// Records could not be read.
    #[error("{source} (wanted were section {section}, record {first}{range})", range = if *count > 1 { format!(" to {}", first + count - 1) } else { String::new() })]
    Records {
        /// Section name.
        section: String,
        /// First record of the read.
        first: u64,
        /// Records of the read.
        count: u64,
        /// What went wrong with the file.
        source: Box<Error>,
    },
    /// A part of a file that has no records of its own does not match its digest.
    #[error("{path}: {what} does not match its digest; the file is damaged, convert the model again", path = path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The part: a vector, a table of checksums, the header, the whole.
        what: String,
    },
    /// A weight cannot be coded.
    #[error("tensor {tensor}, row {row}, group {group}: {why}")]
    Weight {
        /// Matrix name.
        tensor: String,
        /// Record.
        row: usize,
        /// Group inside the record.
        group: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The weight cache cannot hold one step of the model.
    #[error(
        "a weight cache of {given} bytes is too small for this model at this precision: the least that works is {least} bytes"
    )]
    CacheTooSmall {
        /// What was asked for.
        given: u64,
        /// The least that works.
        least: u64,
    },
    /// The KV cache is full.
    #[error("keys and values of position{} of sequence {sequence} do not fit: {}", span(*first, *last), full(*capacity))]
    KvFull {
        /// Sequence.
        sequence: u32,
        /// First position asked for.
        first: usize,
        /// Last position asked for.
        last: usize,
        /// Positions the cache was made for.
        capacity: Option<usize>,
    },
    /// Memory could not be had from the system.
    #[error("could not allocate {bytes} bytes for {what}: {source}")]
    Memory {
        /// Size.
        bytes: usize,
        /// What for.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A rule of the trace format is broken.
    #[error("{path}, line {line}: {rule}", path = path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The rule, with the data that breaks it.
        rule: String,
    },
    /// A caller's argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// The caller asked for an end while reads were waited for.
    #[error("the call was interrupted")]
    Interrupted,
    /// The engine broke one of its own rules; a bug worth reporting.
    #[error("internal rule broken: {0}; please report this")]
    Internal(&'static str),
}

/// The way out of what the system said, where that has one whatever the file; else nothing.
pub fn remedy(source: &std::io::Error) -> &'static str {
    match source.raw_os_error() {
        // A store takes two handles a file, one of them for O_DIRECT.
        Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n)",
        _ => "",
    }
}

fn span(first: usize, last: usize) -> String {
    if first == last { format!(" {first}") } else { format!("s {first} to {last}") }
}

fn full(capacity: Option<usize>) -> String {
    match capacity {
        Some(n) => {
            format!("room was set aside for {n} over all sequences (in blocks of 64); ask for more with --ctx (ctx=)")
        }
        None => "2^32 blocks of 64 positions are in use; free sequences".into(),
    }
}

impl Error {
    /// An I/O error while doing `action` to `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { action, path: path.as_ref().into(), source }
    }

    /// A broken rule of the format.
    pub fn format(path: impl AsRef<Path>, rule: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().into(), rule: rule.into() }
    }

    /// A wrong argument.
    pub fn usage(what: impl Into<String>) -> Error {
        Error::Usage(what.into())
    }
}

/// The longest piece of a hostile file that a message repeats, in characters.
const SHOWN: usize = 120;

/// A name out of a file as a message shows it: in quotes, control characters escaped, cut where it is long.
pub fn quoted(name: &str) -> String {
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// A message that repeats parts of a file: one line without control characters, of bounded length. Its end is kept,
/// since parsers write the place there.
pub fn one_line(message: &str) -> String {
    let clean = |text: &str| -> String {
        text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
    };
    let head = message.char_indices().nth(2 * SHOWN);
    let tail = message.char_indices().rev().nth(SHOWN);
    match (head, tail) {
        (Some((head, _)), Some((tail, _))) if head < tail => {
            format!("{}...{}", clean(&message[..head]), clean(&message[tail..]))
        }
        _ => clean(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_have_a_way_out() {
        let said = |errno| Error::io("opening", "x", std::io::Error::from_raw_os_error(errno)).to_string();
        assert!(said(libc::EMFILE).ends_with("(os error 24); raise the limit of open files (ulimit -n)"));
        assert!(said(libc::EACCES).ends_with("(os error 13)"));
    }

    #[test]
    fn what_a_file_says_stays_one_short_line() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(&"é".repeat(500)), format!("\"{}\"...", "é".repeat(SHOWN)));
        assert_eq!(one_line("a\nb\u{1b}[0m at line 3"), r"a\nb\u{1b}[0m at line 3");
        let cut = one_line(&format!("{} at line 3", "x\n".repeat(1 << 20)));
        assert!(cut.len() < 800 && cut.ends_with(" at line 3") && !cut.contains('\n'));
    }
}
