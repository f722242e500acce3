//! `Engine`.

use super::array::{In1, In2, InOut2, Out};
use super::cache::KvCache;
use super::errors::{json, lock};
use super::parse;
use super::signals::Signals;
use super::store::Store;
use crate::config::Recipe;
use crate::engine::{self, Branch, Choice, Factors, Options, Stop};
use crate::error::Result;
use crate::types::{Kind, Tokens};
use pyo3::prelude::*;
use std::sync::{Arc, Mutex};

/// An open model: its parts take and return whole arrays of N rows. One call at a time; the GIL is released. What a signal
/// handler raises (KeyboardInterrupt) ends a call that waits for reads: keys and values may be half-written then.
#[pyclass(frozen, module = "m2cache_rs._core")]
pub struct Engine {
    core: Mutex<engine::Engine>,
    stop: Arc<Stop>,
    signals: Arc<Signals>,
}

impl Engine {
    /// One call of the core.
    fn call<T: Send>(&self, py: Python<'_>, call: impl FnOnce(&mut engine::Engine) -> Result<T> + Send) -> PyResult<T> {
        self.signals.check()?;
        let found = py.detach(|| {
            let found = call(&mut lock(&self.core));
            self.stop.is_done();
            found
        });
        match self.signals.take() {
            Some(raised) => Err(raised),
            None => Ok(found?),
        }
    }
}

#[pymethods]
impl Engine {
    /// recipe is what is computed, as JSON: {"attn", "head", "embed": bits, "prompt": bits of the FFN of prompt tokens, "ffn": that of decode tokens,
    /// {"dense": bits} or another (src/config/recipe.rs)}; act is what 4 and 8 bits are computed in: auto (integers) or f32; cache is bytes of weights
    /// kept in memory, None for all; verify is first, always or never; io is auto, uring or psync; lookahead is bytes read
    /// ahead and the size of the ring, request what a read costs beside its bytes, in bytes (gaps up to that between wanted
    /// records are read too), None for the usual. cache, verify, threads, io, lookahead and request never change a result.
    ///
    /// serves are other recipes that `serve` may be asked for: the cache has room for what all of them read.
    ///
    /// Raises BudgetError naming the least cache, UsageError for a recipe that is none for the model and for planes that are not stored.
    #[new]
    #[pyo3(signature = (store, recipe, act="auto", cache=None, verify="first", threads=None, io="auto", lookahead=None, request=None, serves=vec![]))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        store: &Store,
        recipe: &str,
        act: &str,
        cache: Option<u64>,
        verify: &str,
        threads: Option<usize>,
        io: &str,
        lookahead: Option<u64>,
        request: Option<u64>,
        serves: Vec<String>,
    ) -> PyResult<Engine> {
        let options = Options {
            recipe: Recipe::parse(recipe)?,
            serves: parse::recipes(&serves)?,
            arithmetic: parse::act(act)?,
            cache,
            verify: parse::verify(verify)?,
            threads,
            io: Choice::parse(io)?,
            lookahead,
            request,
        };
        let store = store.0.clone();
        let mut core = py.detach(|| engine::Engine::new(store, options))?;
        let signals = Arc::new(Signals::default());
        let stop = Arc::new(signals.stop());
        core.heed(stop.clone());
        Ok(Engine { core: Mutex::new(core), stop, signals })
    }

    /// Computes by another recipe (JSON as above) from here on: the bits of an engine that was opened for it. The cache
    /// keeps what it holds, counters go on, and so may sequences, whose keys and values are what they were computed as.
    ///
    /// Raises UsageError for a recipe that is none for the model, and for one that needs what no recipe needed that it was
    /// opened for; nothing has changed then.
    fn serve(&self, py: Python<'_>, recipe: &str) -> PyResult<()> {
        let recipe = Recipe::parse(recipe)?;
        self.call(py, |engine| engine.serve(recipe))
    }

    /// Says what the next calls are: the layers (a, b) in order with prompt or decode tokens, then the head or not, and the
    /// same again. Reading ahead follows it; results do not depend on it.
    #[pyo3(signature = (layers, head=true, prompt=false))]
    fn follow(&self, py: Python<'_>, layers: (usize, usize), head: bool, prompt: bool) -> PyResult<()> {
        self.call(py, |engine| engine.follow(layers.0..layers.1, head, kind(prompt)))
    }

    /// Says that the pass which follow announced ended half-way: what its tokens touched is not counted.
    fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, |engine| {
            engine.abandon();
            Ok(())
        })
    }

    /// Embedding rows, float32 [N, hidden], of tokens, uint32 [N].
    fn embed<'py>(&self, py: Python<'py>, tokens: In1<'py, u32>) -> PyResult<Out<'py, f32>> {
        let tokens = tokens.slice()?;
        let (rows, hidden) = self.call(py, |engine| Ok((engine.embed(tokens)?, engine.architecture().hidden)))?;
        Out::new(py, rows, &[tokens.len(), hidden])
    }

    /// Attention of x, float32 [N, hidden] before the norm, to be added to x; appends K and V. sequences and positions are
    /// uint32 [N]; all tokens are a prompt's, or none. With groups=(a, b): partial sums of those KV-head groups,
    /// [b - a, N, hidden], without bias.
    #[pyo3(signature = (layer, x, kv, sequences, positions, groups=None, prompt=false))]
    #[allow(clippy::too_many_arguments)]
    fn attention<'py>(
        &self,
        py: Python<'py>,
        layer: usize,
        x: In2<'py, f32>,
        kv: &KvCache,
        sequences: In1<'py, u32>,
        positions: In1<'py, u32>,
        groups: Option<(usize, usize)>,
        prompt: bool,
    ) -> PyResult<Out<'py, f32>> {
        let rows = x.slice()?;
        let tokens = Tokens { sequences: sequences.slice()?, positions: positions.slice()?, kind: kind(prompt) };
        let branch = self.call(py, |engine| engine.attention(layer, rows, &kv.0, tokens, groups.map(|(a, b)| a..b)))?;
        shaped(py, branch, x.shape())
    }

    /// What every query head gives for x, float32 [N, hidden] before the norm: float32 [N, heads * head_dim], what o is
    /// multiplied with; appends K and V. sequences and positions are uint32 [N].
    fn mixed<'py>(
        &self,
        py: Python<'py>,
        layer: usize,
        x: In2<'py, f32>,
        kv: &KvCache,
        sequences: In1<'py, u32>,
        positions: In1<'py, u32>,
    ) -> PyResult<Out<'py, f32>> {
        let rows = x.slice()?;
        let tokens = Tokens { sequences: sequences.slice()?, positions: positions.slice()?, kind: Kind::Decode };
        let values = self.call(py, |engine| engine.mixed(layer, rows, &kv.0, tokens))?;
        let width = values.len() / x.shape()[0];
        Out::new(py, values, &[x.shape()[0], width])
    }

    /// Sets what chooses a layer's query heads where the recipe leaves some out: a head's score is weights . x + bias of
    /// the normed row x; float32, weights [heads, hidden] (coded at 8 bits), bias [heads].
    ///
    /// Raises UsageError for shapes that do not fit and numbers that are not finite.
    fn set_head_predictor<'py>(
        &self,
        py: Python<'py>,
        layer: usize,
        weights: In2<'py, f32>,
        bias: In1<'py, f32>,
    ) -> PyResult<()> {
        let (weights, bias) = (weights.slice()?, bias.slice()?);
        self.call(py, |engine| engine.set_head_predictor(layer, weights, bias))
    }

    /// Takes x, float32 [N, hidden], through layers (a, b), in place; appends K and V. sequences and positions are uint32
    /// [N]; all tokens are a prompt's, or none. The bits of attention and ffn added layer by layer. Behind an error
    /// x may be of any layer.
    #[pyo3(signature = (layers, x, kv, sequences, positions, prompt=false))]
    #[allow(clippy::too_many_arguments)]
    fn layers<'py>(
        &self,
        py: Python<'py>,
        layers: (usize, usize),
        mut x: InOut2<'py, f32>,
        kv: &KvCache,
        sequences: In1<'py, u32>,
        positions: In1<'py, u32>,
        prompt: bool,
    ) -> PyResult<()> {
        let rows = x.slice()?;
        let tokens = Tokens { sequences: sequences.slice()?, positions: positions.slice()?, kind: kind(prompt) };
        self.call(py, |engine| engine.layers(layers.0..layers.1, rows, &kv.0, tokens))
    }

    /// FFN of x, float32 [N, hidden] before the norm, of prompt or decode tokens, to be added to x. With chunks=(a, b):
    /// partial sums of those runs of 256 neurons, [b - a, N, hidden], without bias.
    #[pyo3(signature = (layer, x, chunks=None, prompt=false))]
    fn ffn<'py>(
        &self,
        py: Python<'py>,
        layer: usize,
        x: In2<'py, f32>,
        chunks: Option<(usize, usize)>,
        prompt: bool,
    ) -> PyResult<Out<'py, f32>> {
        let rows = x.slice()?;
        let branch = self.call(py, |engine| engine.ffn(layer, rows, chunks.map(|(a, b)| a..b), kind(prompt)))?;
        shaped(py, branch, x.shape())
    }

    /// What every neuron of a layer gives for x, float32 [N, hidden] before the norm: float32 [N, ffn], what down is
    /// multiplied with, at 4, 8 or 16 bits.
    ///
    /// Raises UsageError for bits above those that the FFN is open at.
    fn neurons<'py>(&self, py: Python<'py>, layer: usize, x: In2<'py, f32>, bits: u32) -> PyResult<Out<'py, f32>> {
        let (rows, level) = (x.slice()?, parse::level(bits)?);
        let values = self.call(py, |engine| engine.neurons(layer, rows, level))?;
        let neurons = values.len() / x.shape()[0];
        Out::new(py, values, &[x.shape()[0], neurons])
    }

    /// Sets the low-rank factors that rank a layer's neurons, float32: down [r, hidden], up [ffn, r], bias and weight
    /// [ffn]; coded at 4 or 8 bits. A score is |activation(up . (down . x) + bias)| * weight of the normed row x. With up
    /// [2 ffn, r], rows for the gate and then for up, it is |activation(gate + bias) * up| * weight.
    ///
    /// Raises UsageError for shapes that do not fit and numbers that are not finite.
    #[allow(clippy::too_many_arguments)]
    fn set_predictor<'py>(
        &self,
        py: Python<'py>,
        layer: usize,
        down: In2<'py, f32>,
        up: In2<'py, f32>,
        bias: In1<'py, f32>,
        weight: In1<'py, f32>,
        bits: u32,
    ) -> PyResult<()> {
        let factors = Factors { down: down.slice()?, up: up.slice()?, bias: bias.slice()?, weight: weight.slice()? };
        let level = parse::level(bits)?;
        self.call(py, |engine| engine.set_predictor(layer, &factors, level))
    }

    /// Scores of every neuron of a layer by the recipe's selector for x, float32 [N, hidden] before the norm: float32
    /// [N, ffn], larger is more important.
    ///
    /// Raises UsageError for a recipe without selector.
    fn scores<'py>(&self, py: Python<'py>, layer: usize, x: In2<'py, f32>) -> PyResult<Out<'py, f32>> {
        let rows = x.slice()?;
        let scores = self.call(py, |engine| engine.scores(layer, rows))?;
        let neurons = scores.len() / x.shape()[0];
        Out::new(py, scores, &[x.shape()[0], neurons])
    }

    /// Logits, float32 [N, vocab], of x, float32 [N, hidden] before the final norm.
    fn head<'py>(&self, py: Python<'py>, x: In2<'py, f32>) -> PyResult<Out<'py, f32>> {
        let rows = x.slice()?;
        let logits = self.call(py, |engine| engine.head(rows))?;
        let vocab = logits.len() / x.shape()[0];
        Out::new(py, logits, &[x.shape()[0], vocab])
    }

    /// A norm's gain, float32 [hidden]: attn or ffn of a layer, or final.
    fn norm<'py>(&self, py: Python<'py>, layer: usize, which: &str) -> PyResult<Out<'py, f32>> {
        let gain = self.call(py, |engine| Ok(engine.norm(layer, which)?.to_vec()))?;
        let len = gain.len();
        Out::new(py, gain, &[len])
    }

    /// What the tiers did so far, as JSON: {"io", "notes", "isa", "threads", "fixed_bytes", "ring_bytes",
    /// "compute_seconds", "ffn": {"tokens" (decoded), "touched_bytes" (of FFN records, as if each token were alone, padding
    /// left out), "neurons": [at 16, at 8, at 4 bits], "selector_bytes" (of the touched), "trace_seconds"
    /// (spent generating the rankings of a trace)}, "attention": {"tokens", "touched_bytes", "selector_bytes" (the same of
    /// q, k, v and o), "heads" (query heads that the tokens had)}, MOVED, "sections": [{"section", "stored_bytes", MOVED}],
    /// "layers": [{"layer" (null: embedding and head), "compute_seconds", MOVED}]} with MOVED = "hit_bytes", "read_bytes" (used),
    /// "aligned_bytes" (read beside them), "gap_bytes" (between them), "unused_bytes" (read ahead in vain, or not asked for
    /// yet), "reads", "stalls", "wait_seconds".
    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.call(py, |engine| Ok(engine.report()))?)
    }

    /// Begins or ends to note every access to a block.
    fn record(&self, py: Python<'_>, on: bool) -> PyResult<()> {
        self.call(py, |engine| {
            engine.trace(on);
            Ok(())
        })
    }

    /// The accesses noted since the last call, uint32 [n, 2]: the block, and 1 where it was in the cache plus 2 where it
    /// is the first of the blocks that were leased together.
    fn take_trace<'py>(&self, py: Python<'py>) -> PyResult<Out<'py, u32>> {
        let accesses = self.call(py, |engine| Ok(engine.take_trace()))?;
        let flat: Vec<u32> =
            accesses.iter().flat_map(|a| [a.block.0, u32::from(a.hit) + 2 * u32::from(a.first)]).collect();
        Out::new(py, flat, &[accesses.len(), 2])
    }

    /// What the blocks are, as JSON: [{"layer" (null: head), "section", "bytes", "fixed"}] by number; fixed ones have a
    /// slot of their own in the cache.
    fn blocks(&self, py: Python<'_>) -> PyResult<String> {
        json(&self.call(py, |engine| Ok(engine.blocks()))?)
    }
}

fn shaped<'py>(py: Python<'py>, branch: Branch, shape: &[usize]) -> PyResult<Out<'py, f32>> {
    match branch {
        Branch::Whole(rows) => Out::new(py, rows, shape),
        Branch::Partials(rows) => {
            let chunks = rows.len() / (shape[0] * shape[1]);
            Out::new(py, rows, &[chunks, shape[0], shape[1]])
        }
    }
}

fn kind(prompt: bool) -> Kind {
    if prompt { Kind::Prompt } else { Kind::Decode }
}
