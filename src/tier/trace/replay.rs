//! A trace through a policy.

use super::lines::{Kind, Line, Trace};
use crate::error::Result;
use crate::tier::policy::{self, Access, Policy};
use crate::tier::{Block, BlockId};
use serde::Serialize;
use std::io::BufRead;

/// Slots are whole pages, as in the tier itself.
const PAGE: usize = 4096;

/// What became of the accesses of one kind of pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Passes.
    pub passes: u64,
    /// Rows of them.
    pub rows: u64,
    /// Blocks wanted.
    pub accesses: u64,
    /// Of those, in the tier.
    pub hits: u64,
    /// Bytes served from the tier.
    pub hit_bytes: u64,
    /// Bytes read from the store.
    pub read_bytes: u64,
    /// Blocks that left to make room.
    pub evictions: u64,
    /// Bytes that were read when the trace was recorded.
    pub recorded_read_bytes: u64,
}

/// A replay's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Bytes of slots that hold every block.
    pub all_bytes: u64,
    /// Of prompts.
    pub prompt: Tally,
    /// Of generated tokens.
    pub decode: Tally,
    /// Of drafts.
    pub draft: Tally,
}

impl Outcome {
    fn of(&mut self, kind: Kind) -> &mut Tally {
        match kind {
            Kind::Prompt => &mut self.prompt,
            Kind::Decode => &mut self.decode,
            Kind::Draft => &mut self.draft,
        }
    }
}

/// Feeds a trace to a policy with a capacity in bytes, from an empty tier. What passes by needs a ring beside it.
///
/// # Errors
/// Those of reading the trace.
pub fn replay(trace: &mut Trace<impl BufRead>, policy: policy::Kind, capacity: u64) -> Result<Outcome> {
    let slots = slots(&trace.header.blocks());
    let mut replay = Replay::new(trace.header.blocks(), policy.build(&slots, capacity));
    let mut kind = Kind::Prompt;
    let mut outcome = Outcome { all_bytes: slots.iter().map(|b| b.bytes as u64).sum(), ..Outcome::default() };
    while let Some(line) = trace.next_line()? {
        match line {
            Line::Pass { kind: next, rows } => {
                kind = next;
                outcome.of(kind).passes += 1;
                outcome.of(kind).rows += u64::from(rows);
            }
            Line::Step(blocks) => replay.step(&blocks, outcome.of(kind)),
        }
    }
    Ok(outcome)
}

struct Replay {
    sizes: Vec<u64>,
    policy: Box<dyn Policy>,
    /// The last step that wanted a block: those of the running step are leased.
    wanted: Vec<u64>,
    now: u64,
    evicted: Vec<BlockId>,
}

/// What the blocks take in a tier.
fn slots(blocks: &[Block]) -> Vec<Block> {
    blocks.iter().map(|b| Block { bytes: b.bytes.next_multiple_of(PAGE), ..*b }).collect()
}

impl Replay {
    fn new(blocks: Vec<Block>, policy: Box<dyn Policy>) -> Replay {
        let sizes: Vec<u64> = blocks.iter().map(|b| b.bytes as u64).collect();
        Replay { wanted: vec![0; sizes.len()], sizes, policy, now: 0, evicted: vec![] }
    }

    fn step(&mut self, blocks: &[(BlockId, bool)], tally: &mut Tally) {
        self.now += 1;
        for (block, _) in blocks {
            self.wanted[block.0 as usize] = self.now;
        }
        for (block, read) in blocks {
            self.access(*block, *read, tally);
        }
    }

    fn access(&mut self, block: BlockId, read: bool, tally: &mut Tally) {
        let Replay { sizes, policy, wanted, now, evicted } = self;
        let access = policy.access(block, &|b| wanted[b.0 as usize] != *now, evicted);
        let (bytes, hit) = (sizes[block.0 as usize], access == Access::Hit);
        tally.accesses += 1;
        tally.hits += u64::from(hit);
        tally.hit_bytes += if hit { bytes } else { 0 };
        tally.read_bytes += if hit { 0 } else { bytes };
        tally.evictions += evicted.len() as u64;
        tally.recorded_read_bytes += if read { bytes } else { 0 };
    }
}
