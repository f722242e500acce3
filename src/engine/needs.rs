//! What a model needs under a recipe.

use super::room::{RING_BYTES, Room};
use super::schedule::Schedule;
use super::touched::Touched;
use super::walk::{Part, WalkId};
use crate::config::{Architecture, Encoding, Ffn, Recipe};
use crate::error::Result;
use crate::store::{Catalog, SectionId};
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
    /// Bytes of weights that one decoded token touches; in a sparse FFN the most that its cuts let it touch.
    pub token_bytes: u64,
    /// Blocks that are cached.
    pub blocks: usize,
    /// `token_bytes` by part.
    pub parts: BTreeMap<&'static str, u64>,
}

impl Needs {
    /// Of a model that need not be stored anywhere, opened so that it `serves` other recipes, too: a token is of the first.
    ///
    /// # Errors
    /// As [`Schedule::new`]; `Error::Usage` for a recipe that is none for the model.
    pub fn of(arch: &Architecture, encoding: &Encoding, recipe: &Recipe, serves: &[Recipe]) -> Result<Needs> {
        let recipes = || std::iter::once(recipe).chain(serves);
        recipes().try_for_each(|recipe| recipe.validate(arch))?;
        let catalog = Catalog::new(arch, encoding);
        let room = Room::new(arch, &catalog, recipes())?;
        let schedule = Schedule::new(arch, &catalog, recipe)?;
        let bytes = |ids: &[SectionId]| ids.iter().map(|id| catalog.section(*id).bytes()).sum::<u64>();
        let walks = |part: Part| -> Result<u64> {
            let walk = |layer| Ok(bytes(&schedule.walk(WalkId::Layer(layer, part))?.sections));
            (0..arch.layers).map(walk).sum()
        };
        let [q, k, v, o] = [Matrix::Q, Matrix::K, Matrix::V, Matrix::O].map(Part::Attention);
        // All records of q and o are of one size, and as many for every head.
        let of_heads = |layer| -> Result<u64> {
            let walk = |part| Ok(bytes(&schedule.walk(WalkId::Layer(layer, part))?.sections));
            let all = walk(q)? + walk(o)?;
            Ok(recipe.query_heads(layer).map_or(all, |top| all / arch.heads as u64 * top as u64))
        };
        let chosen = (0..arch.layers).map(of_heads).sum::<Result<u64>>()?;
        let ffn = match &recipe.ffn {
            Ffn::Dense(level) => walks(Part::Ffn(*level))?,
            Ffn::Certified(_) | Ffn::Sparse(_) => Touched::new(arch, &encoding.coding).most(arch, recipe),
        };
        let parts = BTreeMap::from([
            ("attn", walks(k)? + walks(v)? + chosen),
            ("embed", schedule.embedding.sections.iter().map(|id| catalog.section(*id).stride as u64).sum()),
            ("ffn", ffn),
            ("head", bytes(&schedule.walk(WalkId::Head)?.sections)),
        ]);
        Ok(Needs {
            all: room.all(),
            least: room.least(),
            ring: (RING_BYTES as u64).max(room.least()),
            token_bytes: parts.values().sum(),
            blocks: room.blocks.len(),
            parts,
        })
    }
}
