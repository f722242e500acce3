//! What a model needs under a recipe.

use super::room::{RING_BYTES, Room};
use super::touched::Touched;
use crate::config::{Architecture, Encoding, Recipe};
use crate::error::Result;
use crate::store::Catalog;
use crate::types::Matrix;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a model needs under a recipe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// Bytes of cache that hold every weight.
    pub all: u64,
    /// The least cache that works: one step.
    pub least: u64,
    /// What the ring takes of a cache that does not hold all, where it has room for it.
    pub ring: u64,
    /// Blocks that are cached.
    pub blocks: usize,
    /// Their bytes by part, with what pads their records: what a sweep reads.
    pub stored: BTreeMap<&'static str, u64>,
    /// Bytes that one decoded token touches, the most that a sparse FFN's cuts let it.
    pub token_bytes: u64,
    /// `token_bytes` by part.
    pub parts: BTreeMap<&'static str, u64>,
}

impl Needs {
    /// Of a model that need not be stored anywhere, opened so that it `serves` other recipes, too: a token is of the first.
    ///
    /// # Errors
    /// As [`super::schedule::Schedule::new`]; `Error::Usage` for a recipe that is none for the model.
    pub fn of(arch: &Architecture, encoding: &Encoding, recipe: &Recipe, serves: &[Recipe]) -> Result<Needs> {
        let recipes = || std::iter::once(recipe).chain(serves);
        recipes().try_for_each(|recipe| recipe.validate(arch))?;
        let catalog = Catalog::new(arch, encoding);
        let room = Room::new(arch, &catalog, recipes())?;
        let parts = Touched::new(arch, &encoding.coding).most(arch, recipe);
        Ok(Needs {
            all: room.all(),
            least: room.least(),
            ring: (RING_BYTES as u64).max(room.least()),
            blocks: room.blocks.len(),
            stored: stored(&room, &catalog),
            token_bytes: parts.values().sum(),
            parts,
        })
    }
}

fn stored(room: &Room, catalog: &Catalog) -> BTreeMap<&'static str, u64> {
    let mut stored = BTreeMap::from(["attn", "ffn", "head"].map(|part| (part, 0)));
    for (block, owner) in room.blocks.iter().zip(room.block_sections()) {
        *stored.entry(part(catalog.section(*owner).parts[0].0)).or_default() += block.bytes as u64;
    }
    stored
}

/// The part that blocks of a matrix are of; those of the embedding are a tied head's.
fn part(matrix: Matrix) -> &'static str {
    match matrix {
        Matrix::Q | Matrix::K | Matrix::V | Matrix::O => "attn",
        Matrix::Gate | Matrix::Up | Matrix::Down => "ffn",
        Matrix::Head | Matrix::Embed => "head",
    }
}
