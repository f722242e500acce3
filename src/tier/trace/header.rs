//! The first line: which blocks there are.

use crate::tier::Block;
use serde::{Deserialize, Serialize};
use std::result::Result;

const FORMAT: &str = "m2cache-trace";
const VERSION: u32 = 1;
/// With at most this many blocks of 32 bit sizes no sum of bytes overflows, and tables of them stay below 1 GiB.
const MOST_BLOCKS: usize = 1 << 24;

/// Equal blocks that follow each other in one section of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRun {
    /// Section name.
    pub section: String,
    /// Layer, none for the head.
    pub layer: Option<u32>,
    /// Bytes of each.
    pub bytes: u32,
    /// Blocks.
    pub count: u32,
}

/// The first line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: String,
    version: u32,
    /// Id of the store that was read, none where there was no store.
    pub store: Option<String>,
    /// Bits per part of the model, as the recorder wrote them.
    pub levels: serde_json::Value,
    /// How the accesses were made up, null where they were recorded.
    pub synthetic: serde_json::Value,
    /// All blocks, numbered from 0 in this order.
    pub blocks: Vec<BlockRun>,
}

impl Header {
    /// Of a line; the error is the broken rule.
    pub fn parse(line: &[u8]) -> Result<Header, String> {
        let header: Header = serde_json::from_slice(line).map_err(|e| format!("no header of a trace: {e}"))?;
        if header.format != FORMAT || header.version != VERSION {
            let found = crate::error::quoted(&header.format);
            return Err(format!("is {found} version {}; {FORMAT:?} version {VERSION} is read", header.version));
        }
        if header.blocks.iter().any(|run| run.count == 0 || run.bytes == 0) {
            return Err("declares a run of no blocks, or of blocks without bytes".into());
        }
        match header.block_count() {
            0 => Err("declares no blocks".into()),
            count if count > MOST_BLOCKS => Err(format!("declares {count} blocks; at most {MOST_BLOCKS} are read")),
            _ => Ok(header),
        }
    }

    /// Blocks of all runs.
    pub fn block_count(&self) -> usize {
        self.blocks.iter().map(|run| run.count as usize).sum()
    }

    /// Every block with its position in its section.
    pub fn blocks(&self) -> Vec<Block> {
        let same = |a: &BlockRun, b: &BlockRun| (&a.section, a.layer) == (&b.section, b.layer);
        self.blocks.chunk_by(same).flat_map(section).collect()
    }
}

fn section(runs: &[BlockRun]) -> Vec<Block> {
    let count: usize = runs.iter().map(|run| run.count as usize).sum();
    let sizes = runs.iter().flat_map(|run| (0..run.count).map(|_| run.bytes as usize));
    let position = |i: usize| (i as f32 + 0.5) / count as f32;
    sizes.enumerate().map(|(i, bytes)| Block { bytes, position: position(i) }).collect()
}
