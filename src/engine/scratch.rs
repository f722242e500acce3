//! What the threads of an engine take at most beside weights, keys, values and the rows of a call: each size is stated
//! where the memory is kept.

use super::threads;
use crate::config::{Architecture, Recipe};
use crate::error::Result;
use crate::kernels::attention::{self, Heads};
use crate::kernels::groups::GroupDots;
use crate::kernels::{Arithmetic, Extent, Isa, kept};
use crate::select::HeadScores;
use crate::types::{BLOCK, Level};

/// Stack of a thread and what its arena holds between calls, where nothing is stated: 0.7 MiB measured where each of 32
/// threads has an arena (benches/NOTES.md), less where they share.
const THREAD: usize = 768 << 10;

/// What is run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What is computed, by one recipe or another.
    pub recipes: Vec<Recipe>,
    /// What levels 4 and 8 are computed in.
    pub arithmetic: Arithmetic,
    /// Rows of a call at most.
    pub rows: usize,
    /// Rows of logits of a call at most.
    pub logit_rows: usize,
    /// Positions of a sequence at most.
    pub positions: usize,
    /// Threads that compute.
    pub threads: usize,
}

impl Run {
    /// Bytes that the threads take at most, on the instruction set that an engine would choose here.
    ///
    /// # Errors
    /// `Error::Usage` for no threads or too many, for an instruction set this machine does not have, and for a recipe that
    /// is none for the model.
    pub fn scratch(&self, arch: &Architecture) -> Result<usize> {
        self.recipes.iter().try_for_each(|recipe| recipe.validate(arch))?;
        threads::check(self.threads)?;
        let heads = Heads {
            kv_heads: arch.kv_heads,
            group: arch.heads / arch.kv_heads,
            head_dim: arch.head_dim,
            scale: arch.attention_scale,
        };
        let attention = attention::kept(&heads, self.rows, self.positions, self.threads);
        Ok(self.threads * (THREAD + kept(Isa::chosen()?, self.extent(arch))) + attention + self.kept_dots(arch))
    }

    /// What a scan keeps of a layer's neurons for those that are computed at 8 bits: 3.2 MB at 7B.
    fn kept_dots(&self, arch: &Architecture) -> usize {
        let keeps = |recipe: &Recipe| (0..arch.layers).any(|layer| recipe.keeps_dots(layer));
        let kept = self.arithmetic == Arithmetic::Integer && self.recipes.iter().any(keeps);
        usize::from(kept) * arch.ffn * arch.ahead_matrices().len() * GroupDots::bytes(arch.hidden)
    }

    /// What products meet: the most columns in each arithmetic.
    fn extent(&self, arch: &Architecture) -> Extent {
        let met: Vec<_> = self.recipes.iter().flat_map(|recipe| self.met(recipe)).collect();
        let most = |integer: bool| {
            let of_it = met.iter().filter(|(level, _)| self.arithmetic.is_integer(*level) == integer);
            of_it.map(|(_, columns)| *columns).max().unwrap_or(0)
        };
        Extent { blocks: arch.hidden.div_ceil(BLOCK), integer: most(true), float: most(false) }
    }

    /// Levels, each with the columns that are met at it.
    fn met(&self, recipe: &Recipe) -> Vec<(Level, usize)> {
        let choosing = recipe.query_heads.as_ref().map(|_| HeadScores::LEVEL);
        let of_rows = recipe.ffn_levels().into_iter().chain([recipe.attn, recipe.prompt]).chain(choosing);
        of_rows.map(|level| (level, self.rows)).chain([(recipe.head, self.logit_rows)]).collect()
    }
}
