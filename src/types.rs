//! The words of the project as types: planes, levels, matrices, parts (docs/design.md, section 2).

use crate::error::{Error, Result};
use half::f16;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// One slice of a 16-bit code: `base` holds bits 15..12, `mid` 11..8, `low` 7..0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// Bits 15..12 and the scales: enough for 4 bits.
    Base,
    /// Bits 11..8: with `base`, 8 bits.
    Mid,
    /// Bits 7..0: with the others, 16 bits.
    Low,
}

impl Plane {
    /// All planes, coarsest first.
    pub const ALL: [Plane; 3] = [Plane::Base, Plane::Mid, Plane::Low];

    /// Bytes that 64 weights take in this plane, without scales.
    pub const fn block_bytes(self) -> usize {
        match self {
            Plane::Base | Plane::Mid => 32,
            Plane::Low => 64,
        }
    }

    /// Lower-case name, as headers spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Plane::Base => "base",
            Plane::Mid => "mid",
            Plane::Low => "low",
        }
    }
}

/// How many bits of every code are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum Level {
    /// `base` alone.
    L4,
    /// `base` and `mid`.
    L8,
    /// All planes.
    L16,
}

impl TryFrom<u32> for Level {
    type Error = String;
    fn try_from(bits: u32) -> Result<Level, String> {
        Level::from_bits(bits).ok_or_else(|| format!("a level of {bits} bits; 4, 8 and 16 are known"))
    }
}

impl From<Level> for u32 {
    fn from(level: Level) -> u32 {
        level.bits()
    }
}

impl Level {
    /// Bits of a code at this level.
    pub const fn bits(self) -> u32 {
        match self {
            Level::L4 => 4,
            Level::L8 => 8,
            Level::L16 => 16,
        }
    }

    /// The level with that many bits, if there is one.
    pub const fn from_bits(bits: u32) -> Option<Level> {
        match bits {
            4 => Some(Level::L4),
            8 => Some(Level::L8),
            16 => Some(Level::L16),
            _ => None,
        }
    }

    /// The planes this level reads, coarsest first.
    pub fn planes(self) -> &'static [Plane] {
        &Plane::ALL[..self.plane_count()]
    }

    /// The level that reads so many planes, if there is one.
    pub const fn of_planes(count: usize) -> Option<Level> {
        match count {
            1 => Some(Level::L4),
            2 => Some(Level::L8),
            3 => Some(Level::L16),
            _ => None,
        }
    }

    /// How many planes this level reads.
    pub const fn plane_count(self) -> usize {
        match self {
            Level::L4 => 1,
            Level::L8 => 2,
            Level::L16 => 3,
        }
    }
}

/// Levels in the order of bands: that in which portions of a chunk are summed (docs/format.md, 6).
pub const LEVELS: [Level; 3] = [Level::L16, Level::L8, Level::L4];

/// A weight matrix of the model. Every record of it runs along the model dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matrix {
    /// Query projection; a record is an output row.
    Q,
    /// Key projection; a record is an output row.
    K,
    /// Value projection; a record is an output row.
    V,
    /// Attention output projection; a record is an input channel.
    O,
    /// FFN gate; a record is a neuron's row.
    Gate,
    /// FFN up; a record is a neuron's row.
    Up,
    /// FFN down; a record is a neuron's column.
    Down,
    /// Token embedding; a record is a token's row.
    Embed,
    /// Output head, when it is not tied to the embedding; a record is a token's row.
    Head,
}

impl Matrix {
    /// All matrices.
    pub const ALL: [Matrix; 9] = [
        Matrix::Q,
        Matrix::K,
        Matrix::V,
        Matrix::O,
        Matrix::Gate,
        Matrix::Up,
        Matrix::Down,
        Matrix::Embed,
        Matrix::Head,
    ];

    /// The matrix of that name.
    ///
    /// # Errors
    /// `Error::Usage` where there is none.
    pub fn from_name(name: &str) -> Result<Matrix> {
        let known = Matrix::ALL.into_iter().find(|matrix| matrix.name() == name);
        known.ok_or_else(|| Error::usage(format!("there is no matrix {name:?}")))
    }

    /// Lower-case name, as headers spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Matrix::Q => "q",
            Matrix::K => "k",
            Matrix::V => "v",
            Matrix::O => "o",
            Matrix::Gate => "gate",
            Matrix::Up => "up",
            Matrix::Down => "down",
            Matrix::Embed => "embed",
            Matrix::Head => "head",
        }
    }
}

/// What a token is: it decides by which half of a recipe its FFN is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the text that is given: dense at the recipe's prompt level.
    Prompt,
    /// One that follows: by the recipe's FFN.
    Decode,
}

/// The tokens of a call: what they are, and where they stand.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Sequence of every token.
    pub sequences: &'a [u32],
    /// Position of every token in its sequence. (An engine takes a sequence's tokens in order, continuing what its cache
    /// holds.)
    pub positions: &'a [u32],
    /// What all of them are.
    pub kind: Kind,
}

/// A decoder layer, counted from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u32);

/// Rows of keys or of values as they are kept, by rising position: `[rows, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KvRows<'a> {
    /// Half precision.
    F16(&'a [f16]),
    /// Single precision.
    F32(&'a [f32]),
}

impl<'a> KvRows<'a> {
    /// Elements.
    pub fn elements(self) -> usize {
        match self {
            KvRows::F16(all) => all.len(),
            KvRows::F32(all) => all.len(),
        }
    }

    /// The first `count` elements.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, count: usize) -> KvRows<'a> {
        match self {
            KvRows::F16(all) => KvRows::F16(&all[..count]),
            KvRows::F32(all) => KvRows::F32(&all[..count]),
        }
    }

    /// Some of the elements.
    ///
    /// # Panics
    /// If they are not there.
    pub fn slice(self, elements: Range<usize>) -> KvRows<'a> {
        match self {
            KvRows::F16(all) => KvRows::F16(&all[elements]),
            KvRows::F32(all) => KvRows::F32(&all[elements]),
        }
    }
}

/// Neurons (or tokens, or channels) of a layer are cut into chunks of this many records: the unit of sums
/// (docs/design.md, 6), of completion for I/O, of mapping.
pub const CHUNK: usize = 256;

/// Decode tokens of a call at most, where a recipe is sparse: a neuron's users are the bits of a `u32`. Dense calls of so
/// few rows are computed as a decode's are, too: on a thread of the pool, several chunks together. Python's config has the
/// same number, to cut batches by.
pub const DECODE_BATCH: usize = 32;

/// Weights that share a byte layout: one 512-bit register, one AMX tile row.
pub const BLOCK: usize = 64;
