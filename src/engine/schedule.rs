//! The order in which a recipe asks for a model's records, and what that takes: from layout arithmetic alone.

use super::parts::{self, Reach};
use super::walk::{Part, Walk, WalkId};
use super::widest::Widest;
use crate::config::{Architecture, Recipe};
use crate::error::{Error, Result};
use crate::store::Catalog;
use crate::types::{Kind, Level, Matrix};
use std::ops::Range;
use std::sync::Arc;

/// Steps of a pass and the sections they read. A step is one lease of the engine: a chunk of a walk, in all its sections.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What is walked through in every layer.
    parts: Vec<Part>,
    /// How prompt and decode tokens come to the records of each of these.
    reach: Vec<[Reach; 2]>,
    /// Those of each layer, in the order of its parts; then the head's.
    walks: Vec<Arc<Walk>>,
    /// The embedding, whose records are read one by one: it has no steps.
    pub embedding: Arc<Walk>,
    /// What its largest steps take.
    pub widest: Widest,
}

impl Schedule {
    /// Of a model under a recipe.
    ///
    /// # Errors
    /// `Error::Usage` when a level's plane is not stored.
    pub fn new(arch: &Architecture, catalog: &Catalog, recipe: &Recipe) -> Result<Schedule> {
        let embedding = Walk::new(catalog, None, &[(Matrix::Embed, recipe.embed)])?;
        let widest = Widest::of_rows(catalog, &embedding);
        let (parts, reach, walks) = (vec![], vec![], vec![]);
        let mut schedule = Schedule { parts, reach, walks, embedding: Arc::new(embedding), widest };
        for layer in 0..arch.layers {
            let (parts, reads): (Vec<_>, Vec<_>) = parts::of_layer(arch, recipe, layer).into_iter().unzip();
            let of = |part: &Part| [Kind::Prompt, Kind::Decode].map(|kind| parts::reach(arch, recipe, kind, *part));
            schedule.reach = parts.iter().map(of).collect();
            schedule.parts = parts;
            for (at, matrices) in reads.into_iter().enumerate() {
                let [_, decode] = schedule.reach[at];
                schedule.add(catalog, Walk::new(catalog, Some(layer), &matrices)?, decode);
            }
        }
        let head = Walk::new(catalog, None, &[(arch.head_matrix(), recipe.head)])?;
        schedule.add(catalog, head, Reach::Swept);
        Ok(schedule)
    }

    fn add(&mut self, catalog: &Catalog, mut walk: Walk, decode: Reach) {
        walk.first = self.steps();
        self.widest = self.widest.max(Widest::of_walk(catalog, &walk, decode == Reach::Chosen));
        self.walks.push(Arc::new(walk));
    }

    /// All walks, in the order of their steps.
    pub fn walks(&self) -> &[Arc<Walk>] {
        &self.walks
    }

    /// The same, each with how rarely it is read: by every decoded token, by those that choose it, by prompts alone.
    pub fn ranked(&self) -> impl Iterator<Item = (&Walk, u8)> {
        let decode =
            |at: usize| if at + 1 == self.walks.len() { Reach::Swept } else { self.reach[at % self.reach.len()][1] };
        let rank = |reach: Reach| match reach {
            Reach::Swept => 0,
            Reach::Chosen => 1,
            Reach::Unused => 2,
        };
        self.walks.iter().enumerate().map(move |(at, walk)| (&**walk, rank(decode(at))))
    }

    /// The parts of a layer to whose records tokens of a kind come in that way.
    pub fn reached(&self, kind: Kind, way: Reach) -> Vec<Part> {
        let of = self.parts.iter().zip(&self.reach);
        of.filter(|(_, reach)| reach[kind as usize] == way).map(|(part, _)| *part).collect()
    }

    /// A walk.
    ///
    /// # Errors
    /// `Error::Internal` for a layer or a part that there is not.
    pub fn walk(&self, id: WalkId) -> Result<&Arc<Walk>> {
        let found = match id {
            WalkId::Head => self.walks.last(),
            WalkId::Layer(layer, _) if layer >= self.layers() => None,
            WalkId::Layer(layer, part) => {
                let at = self.parts.iter().position(|have| *have == part);
                at.and_then(|at| self.walks.get(layer * self.parts.len() + at))
            }
        };
        found.ok_or(Error::Internal("a walk that the model does not have"))
    }

    /// The walk of a layer that has some of its matrices at a level, or above: that of the fewest sections.
    pub fn reads(&self, layer: usize, matrices: &[Matrix], level: Level) -> Option<WalkId> {
        let has =
            |walk: &Walk| matrices.iter().all(|of| walk.planes(*of).is_ok_and(|at| at.len() >= level.plane_count()));
        let walks = self.parts.iter().filter_map(|part| Some((*part, self.walk(WalkId::Layer(layer, *part)).ok()?)));
        let least = walks.filter(|(_, walk)| has(walk)).min_by_key(|(_, walk)| walk.sections.len());
        least.map(|(part, _)| WalkId::Layer(layer, part))
    }

    fn layers(&self) -> usize {
        (self.walks.len() - 1) / self.parts.len().max(1)
    }

    /// Steps of a pass.
    pub fn steps(&self) -> usize {
        self.walks.last().map_or(0, |walk| walk.steps().end)
    }

    /// Steps of a range of layers that every token of a kind takes, walk by walk: what can be read ahead of it.
    ///
    /// # Errors
    /// As [`Schedule::walk`].
    pub fn swept(&self, layers: Range<usize>, kind: Kind) -> Result<Vec<Range<usize>>> {
        let parts = &self.reached(kind, Reach::Swept);
        let walks = layers.flat_map(|layer| parts.iter().map(move |part| WalkId::Layer(layer, *part)));
        walks.map(|walk| Ok(self.walk(walk)?.steps())).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;
    use crate::config::{Coding, Cut, Encoding, Ffn, Form, Selector, Sparse, TopHeads};
    use crate::engine::Needs;
    use crate::store::{SectionId, SectionLayout};
    use crate::types::{LEVELS, Plane};
    use proptest::prelude::*;
    use serde_json::json;

    pub fn architecture(layers: usize, hidden: usize, ffn: usize, vocab: usize, tied: bool) -> Architecture {
        serde_json::from_value(json!({
            "family": "llama", "layers": layers, "hidden": hidden, "ffn": ffn, "heads": 4, "kv_heads": 2, "head_dim": 64,
            "vocab": vocab, "context": 64, "norm_eps": 1e-5, "activation": "silu", "gated": true, "tied": tied,
            "biases": [], "attention_scale": 0.125, "rope_layout": "half", "rope": {"type": "default", "theta": 1e4}
        }))
        .unwrap()
    }

    pub fn encoding() -> Encoding {
        let of = |matrices: &[Matrix], plane| matrices.iter().map(|m| (*m, plane)).collect::<Vec<_>>();
        let all = [Matrix::Gate, Matrix::Up, Matrix::Down];
        let split = Plane::ALL.map(|plane| [of(&all[..2], plane), of(&all[2..], plane)]);
        let coding = Coding { form: Form::Affine, group: 64, cells: [1, 1, 1] };
        Encoding { coding, planes: 3, ffn_sections: split.concat() }
    }

    /// All matrices of a plane together.
    pub fn bundled() -> Encoding {
        let of = |plane| [Matrix::Gate, Matrix::Up, Matrix::Down].map(|m| (m, plane)).to_vec();
        Encoding { ffn_sections: Plane::ALL.map(of).to_vec(), ..encoding() }
    }

    pub fn dense(bits: u32) -> Recipe {
        let level = Level::from_bits(bits).unwrap();
        Recipe { attn: level, head: level, embed: level, prompt: level, ffn: Ffn::Dense(level), query_heads: None }
    }

    /// Recipes whose layers differ in what they read.
    pub fn recipes() -> impl Strategy<Value = Recipe> {
        let level = || prop::sample::select(LEVELS.to_vec());
        let cut = prop::sample::select(vec![[9, 0, 0], [0, 9, 0], [0, 0, 9], [1, 2, 3], [1, 0, 2]]).prop_map(Cut::Top);
        let selector = prop::sample::select(vec![
            Selector::Plane,
            Selector::Lowrank,
            Selector::Oracle,
            Selector::Cascade(vec![20]),
        ]);
        let sparse = (selector, prop::collection::vec(cut, 1))
            .prop_map(|(selector, cuts)| Ffn::Sparse(Sparse { selector, cuts }));
        let certified = prop::sample::select(vec![Level::L8, Level::L16]).prop_map(Ffn::Certified);
        let ffn = prop_oneof![level().prop_map(Ffn::Dense), certified, sparse];
        let heads = prop::option::of(Just(TopHeads { top: vec![1] }));
        (level(), level(), ffn, heads).prop_map(|(attn, prompt, ffn, heads)| Recipe {
            attn,
            head: attn,
            embed: prompt,
            prompt,
            ffn,
            query_heads: heads,
        })
    }

    proptest! {
        #[test]
        fn steps_rise_in_the_order_in_which_a_token_takes_them(layers in 1usize..4, ffn in 20usize..600, recipe in recipes()) {
            let (arch, encoding) = (architecture(layers, 64, ffn, 300, false), encoding());
            let schedule = Schedule::new(&arch, &Catalog::new(&arch, &encoding), &recipe).unwrap();
            for kind in [Kind::Prompt, Kind::Decode] {
                let taken = schedule.reached(kind, Reach::Swept);
                let whole = if kind == Kind::Decode && recipe.query_heads.is_some() { 2 } else { 4 };
                prop_assert_eq!(taken.iter().filter(|part| matches!(part, Part::Attention(_))).count(), whole);
                let steps: Vec<usize> = schedule.swept(0..layers, kind).unwrap().into_iter().flatten().collect();
                prop_assert!(steps.is_sorted_by(|a, b| a < b));
                prop_assert!(steps.last() < Some(&schedule.walk(WalkId::Head).unwrap().steps().start));
                prop_assert!(!taken.contains(&Part::Rest), "which chunks it goes to is not known before");
            }
            let rest = schedule.walk(WalkId::Layer(0, Part::Rest));
            prop_assert_eq!(rest.is_err(), matches!(recipe.ffn, Ffn::Dense(_)));
            prop_assert!(schedule.walk(WalkId::Layer(layers, Part::Ffn(recipe.prompt))).is_err(), "no such layer");
        }

        #[test]
        fn a_sweep_reads_sections_and_a_dense_token_touches_what_means_something_of_them(
            layers in 1usize..4, hidden in 1usize..300, ffn in 1usize..900, bits in prop::sample::select(vec![4, 8, 16]),
            prompt in prop::sample::select(vec![4, 8, 16]), bundled in any::<bool>(), tied in any::<bool>(),
        ) {
            let encoding = if bundled { self::bundled() } else { encoding() };
            let (arch, uniform) = (architecture(layers, hidden, ffn, 300, tied), dense(bits));
            let (catalog, planes) = (Catalog::new(&arch, &encoding), uniform.attn.planes());
            let sections = (0..catalog.len() as u32).map(|id| catalog.section(SectionId(id)));
            let of = |matrices: &[Matrix], bytes: fn(&SectionLayout) -> u64| -> u64 {
                let has = |section: &&SectionLayout| matrices.contains(&section.parts[0].0) && planes.contains(&section.parts[0].1);
                sections.clone().filter(has).map(bytes).sum()
            };
            let (head, neurons) = (arch.head_matrix(), [Matrix::Gate, Matrix::Up, Matrix::Down]);
            let parts = [("attn", &[Matrix::Q, Matrix::K, Matrix::V, Matrix::O][..]), ("ffn", &neurons), ("head", &[head])];
            let needs = Needs::of(&arch, &encoding, &uniform, &[]).unwrap();
            for (part, matrices) in parts {
                prop_assert_eq!(needs.stored[part], of(matrices, SectionLayout::bytes));
                prop_assert_eq!(needs.parts[part], of(matrices, |section| (section.records * section.payload) as u64));
            }
            prop_assert_eq!(needs.parts["embed"], of(&[Matrix::Embed], |section| section.payload as u64));
            prop_assert_eq!(needs.token_bytes, needs.parts.values().sum::<u64>());
            let other = Needs::of(&arch, &encoding, &Recipe { prompt: dense(prompt).prompt, ..uniform }, &[]).unwrap();
            prop_assert_eq!(other.parts, needs.parts, "a decoded token's, whatever prompts are computed at");
        }
    }
}
