//! The face the rest uses: open a store at a precision under a weight budget, run its parts, report.
//!
//! An engine call takes whole arrays `[N, hidden]` and returns the branch's output, to be added to the residual stream;
//! with a range of an FFN's chunks, or of KV-head groups, it returns their partial sums instead, to be added in order on
//! top of the bias.

mod attention;
mod certified;
mod chosen;
#[cfg(test)]
mod chosen_tests;
mod counted;
mod ends;
mod ffn;
mod forecast;
mod heads;
#[cfg(test)]
mod lease_tests;
mod needs;
mod neurons;
mod parts;
mod report;
mod room;
mod schedule;
mod score;
mod scratch;
#[cfg(test)]
mod serve_tests;
mod sparse;
mod sum;
mod threads;
mod touched;
mod vectors;
mod verified;
mod walk;
mod weights;
mod widest;

pub use crate::io::Choice;
pub use crate::kernels::Arithmetic;
pub use crate::prefetch::Stop;
pub use crate::select::Factors;
pub use forecast::Forecast;
pub use needs::Needs;
pub use report::{BlockReport, LayerReport, Moved, Report, SectionReport};
pub use room::{RING_BYTES, usual_ring};
pub use scratch::Run;
pub use verified::Verify;

use crate::config::{Architecture, Recipe, Selector};
use crate::error::{Error, Result};
use crate::kernels::neurons::KeptDots;
use crate::kernels::norm::rms_norm;
use crate::kernels::project::Inputs;
use crate::kernels::{Cpu, Isa};
use crate::kv::KvCache;
use crate::select::{ActiveSet, Generator, Lowrank};
use crate::store::Store;
use crate::types::{Kind, Level, Tokens};
use counted::{Attended, Counted};
use heads::Attending;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use threads::pooled;
use touched::Touched;
use vectors::Vectors;
use weights::Weights;

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is computed.
    pub recipe: Recipe,
    /// What [`Engine::serve`] may be asked for, beside: blocks and rings have room for all of them.
    pub serves: Vec<Recipe>,
    /// What levels 4 and 8 are computed in.
    pub arithmetic: Arithmetic,
    /// Weight cache in bytes; none holds every weight the recipes read.
    pub cache: Option<u64>,
    /// When records are checked against their checksums.
    pub verify: Verify,
    /// Threads; none takes one per core.
    pub threads: Option<usize>,
    /// I/O engine.
    pub io: Choice,
    /// Bytes to read ahead, which is also the size of the ring; none takes the usual, 0 reads on demand.
    pub lookahead: Option<u64>,
    /// What a read costs beside its bytes, in bytes that come in that time: so large gaps between wanted records are read
    /// too. None takes the usual.
    pub request: Option<u64>,
}

/// A branch's output: folded, or the partial sums of the asked chunks or KV-head groups.
#[derive(Clone, Debug, PartialEq)]
pub enum Branch {
    /// `[N, hidden]`.
    Whole(Vec<f32>),
    /// `[chunks or groups, N, hidden]`, without bias.
    Partials(Vec<f32>),
}

/// An open model.
pub struct Engine {
    arch: Architecture,
    recipe: Arc<Recipe>,
    cpu: Cpu,
    weights: Weights,
    vectors: Vectors,
    /// The active set of the call, in memory that is used again.
    active: ActiveSet,
    /// Where the next scan keeps what 8 bits begin with, of every chunk: the memory of the last.
    room: Vec<KeptDots>,
    /// By layer, where the recipe needs them.
    predictors: Vec<Option<Lowrank>>,
    /// Of a trace.
    generator: Option<Generator>,
    touched: Touched,
    counted: Counted,
    attending: Attending,
    /// What was counted when the pass began that the last [`Engine::follow`] announced.
    before: (Counted, Attended),
    /// Time spent in each layer's parts, and (last) in embedding and head.
    spent: Vec<Duration>,
    stop: Arc<Stop>,
}

impl Engine {
    /// Opens a store under the recipe of `options`.
    ///
    /// # Errors
    /// `Error::CacheTooSmall` naming the least cache; `Error::Usage` for a recipe that is none for the model, planes that
    /// are not stored or zero threads; the store's own.
    pub fn new(store: Arc<Store>, options: Options) -> Result<Engine> {
        let arch = store.manifest.architecture.clone();
        std::iter::once(&options.recipe).chain(&options.serves).try_for_each(|recipe| recipe.validate(&arch))?;
        let pool = Arc::new(threads::pool(options.threads)?);
        let vectors = Vectors::load(&store)?;
        let weights = Weights::new(store, &options)?;
        let spent = vec![Duration::ZERO; arch.layers + 1];
        let cpu = Cpu::new(Isa::chosen()?, options.arithmetic, pool);
        let touched = Touched::new(&arch, &weights.store().manifest.encoding.coding);
        let (active, counted) = (ActiveSet::empty(0, 0), Counted::default());
        let (recipe, predictors) = (Arc::new(options.recipe), (0..arch.layers).map(|_| None).collect());
        let (generator, attending) = (generator(&recipe, &arch), Attending::new(&arch));
        Ok(Engine {
            arch,
            recipe,
            cpu,
            weights,
            vectors,
            active,
            room: vec![],
            predictors,
            generator,
            touched,
            counted,
            attending,
            before: Default::default(),
            spent,
            stop: Arc::new(Stop::never()),
        })
    }

    /// Computes by another recipe from here on: the bits of an engine that was opened for it. The cache keeps what it holds,
    /// counters go on, and so may sequences: their keys and values are what they were computed as.
    ///
    /// # Errors
    /// `Error::Usage` for a recipe that is none for the model, and for one that needs more than those it was opened for;
    /// nothing has changed then.
    pub fn serve(&mut self, recipe: Recipe) -> Result<()> {
        recipe.validate(&self.arch)?;
        self.weights.serve(&recipe)?;
        self.generator = generator(&recipe, &self.arch);
        self.recipe = Arc::new(recipe);
        Ok(())
    }

    /// Says what the next calls are: layers in order with tokens of a kind, then the head or not, and the same again.
    /// Reading ahead follows it; results do not depend on it.
    ///
    /// # Errors
    /// `Error::Usage` for layers the model does not have.
    pub fn follow(&mut self, layers: Range<usize>, head: bool, kind: Kind) -> Result<()> {
        self.check_layers(&layers)?;
        self.before = (self.counted.clone(), self.attending.counted().clone());
        self.weights.follow(layers, head, kind)
    }

    /// Says that the pass which `follow` announced ended half-way: what its tokens touched is not counted.
    pub fn abandon(&mut self) {
        (self.counted, *self.attending.counted_mut()) = self.before.clone();
    }

    fn check_layers(&self, &Range { start, end }: &Range<usize>) -> Result<()> {
        match start <= end && end <= self.arch.layers {
            true => Ok(()),
            false => Err(Error::usage(format!("layers {start}..{end} of a model with {}", self.arch.layers))),
        }
    }

    /// Takes rows `x [N, hidden]` through some layers; appends their K and V to `kv`. The same bits as adding the branches
    /// one by one: what threads wait for between calls is saved.
    ///
    /// # Errors
    /// As [`Engine::attention`] and [`Engine::ffn`]; `Error::Usage` for layers the model does not have. Behind an error
    /// `x` may be of any layer.
    pub fn layers(&mut self, layers: Range<usize>, x: &mut [f32], kv: &Mutex<KvCache>, tokens: Tokens) -> Result<()> {
        self.check_layers(&layers)?;
        let (count, cpu, stop) = (self.check_rows(x)?, self.cpu.clone(), self.stop.clone());
        pooled(&cpu, &stop, count, || {
            for layer in layers {
                self.timed(layer, |engine| {
                    let branch = engine.attention_branch(layer, x, kv, tokens, None)?;
                    add(x, &branch)?;
                    let branch = engine.ffn_branch(layer, x, None, tokens.kind, tokens.positions)?;
                    add(x, &branch)
                })?;
            }
            Ok(())
        })
    }

    /// Ends a call with `Error::Interrupted` where it would wait for reads and that is wanted. The cache keeps what it has,
    /// and what is under way goes on; keys and values may be half-written, so truncate their sequences.
    pub fn heed(&mut self, stop: Arc<Stop>) {
        self.weights.fetcher_mut().heed(stop.clone());
        self.stop = stop;
    }

    /// Runs a part of `layer` where parts of so many rows run.
    fn part<T: Send>(
        &mut self,
        layer: usize,
        rows: usize,
        part: impl FnOnce(&mut Engine) -> Result<T> + Send,
    ) -> Result<T> {
        let (cpu, stop) = (self.cpu.clone(), self.stop.clone());
        self.timed(layer, |engine| pooled(&cpu, &stop, rows, || part(engine)))
    }

    /// Runs a part of `layer` and adds its time to the layer's.
    fn timed<T>(&mut self, layer: usize, part: impl FnOnce(&mut Engine) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let result = part(self);
        if let Some(spent) = self.spent.get_mut(layer) {
            *spent += begin.elapsed();
        }
        result
    }

    /// The model.
    pub fn architecture(&self) -> &Architecture {
        &self.arch
    }

    /// A norm's gain: `attn` or `ffn` of a layer, `final` (any layer).
    pub fn norm(&self, layer: usize, which: &str) -> Result<&[f32]> {
        self.vectors.norm(layer, which)
    }

    /// Rows of activations: at least one, whole.
    fn check_rows(&self, x: &[f32]) -> Result<usize> {
        match !x.is_empty() && x.len().is_multiple_of(self.arch.hidden) {
            true => Ok(x.len() / self.arch.hidden),
            false => {
                Err(Error::usage(format!("activations of {} values are no rows of {}", x.len(), self.arch.hidden)))
            }
        }
    }

    /// Rows behind a norm, for dots at some levels.
    fn normed(&self, x: &[f32], gain: &[f32], levels: &[Level]) -> Inputs {
        Inputs::new(&self.cpu, &self.normed_rows(x, gain), self.arch.hidden, levels)
    }

    /// Rows behind a norm.
    fn normed_rows(&self, x: &[f32], gain: &[f32]) -> Vec<f32> {
        let mut rows = vec![0.0; x.len()];
        for (out, row) in rows.chunks_exact_mut(self.arch.hidden).zip(x.chunks_exact(self.arch.hidden)) {
            rms_norm(row, gain, self.arch.norm_eps, out);
        }
        rows
    }
}

/// Adds a whole branch to the residual stream.
fn add(x: &mut [f32], branch: &Branch) -> Result<()> {
    let Branch::Whole(branch) = branch else {
        return Err(Error::Internal("a branch in parts where all was asked for"));
    };
    x.iter_mut().zip(branch).for_each(|(x, branch)| *x += branch);
    Ok(())
}

/// What makes the ranking of a trace.
fn generator(recipe: &Recipe, arch: &Architecture) -> Option<Generator> {
    match &recipe.sparse()?.selector {
        Selector::Trace(trace) => Some(Generator::new(trace.clone(), arch.layers, arch.ffn)),
        _ => None,
    }
}

/// The chunks of a range that have active neurons.
fn busy(active: &ActiveSet, range: Range<usize>) -> Vec<usize> {
    range.filter(|chunk| !active.is_idle(*chunk)).collect()
}

/// A range of chunks that lies within `count` and is not empty.
fn check_chunks(chunks: Option<Range<usize>>, count: usize, what: &str) -> Result<Range<usize>> {
    let range = chunks.unwrap_or(0..count);
    match range.start < range.end && range.end <= count {
        true => Ok(range),
        false => Err(Error::usage(format!("{what} {}..{} of {count}", range.start, range.end))),
    }
}
