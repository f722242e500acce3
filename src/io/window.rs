//! The part of a read's buffers that one system call fills.

use super::{ALIGN, Read};

/// How much of what is left one call asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Portion {
    /// All of it.
    #[default]
    Whole,
    /// Half of it, in whole pages: every call then behaves like one that the kernel cut short.
    Half,
}

impl Portion {
    /// Bytes to ask for when `left` are left.
    pub fn of(self, left: usize) -> usize {
        match self {
            Portion::Whole => left,
            Portion::Half => (left / 2).next_multiple_of(ALIGN).min(left),
        }
    }
}

/// Bytes of a read.
pub fn length(read: &Read) -> usize {
    read.buffers.iter().map(|b| b.len()).sum()
}

/// The bytes `skip..skip + take` of a read's buffers, one piece a buffer.
pub fn window(read: &mut Read, mut skip: usize, mut take: usize) -> Vec<&mut [u8]> {
    let piece = |buffer| -> &mut [u8] {
        let buffer: &mut [u8] = buffer;
        let begin = skip.min(buffer.len());
        let end = (begin + take).min(buffer.len());
        (skip, take) = (skip - begin, take - (end - begin));
        &mut buffer[begin..end]
    };
    read.buffers.iter_mut().map(|b| &mut **b).map(piece).filter(|p| !p.is_empty()).collect()
}
