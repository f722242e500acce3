//! The face the rest uses: open a store at a precision under a weight budget, run its parts, report.
//!
//! An engine call takes whole arrays `[N, hidden]` and returns the branch's output, to be added to the residual stream;
//! with a range of chunks it returns their partial sums instead, to be added in chunk order on top of the bias.

mod attention;
mod ends;
mod ffn;
mod report;
mod schedule;
mod sum;
mod weights;

pub use crate::io::Choice;
pub use attention::Tokens;
pub use report::{BlockReport, LayerReport, Moved, Report, SectionReport};
pub use schedule::{Needs, RING_BYTES, usual_ring};
pub use weights::Verify;

use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::kernels::Isa;
use crate::kernels::norm::rms_norm;
use crate::kernels::project::Inputs;
use crate::kv::KvCache;
use crate::store::Store;
use crate::types::{Level, Levels};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weights::Weights;

/// Rows of a call that are computed on a thread of the pool: those of a verification.
const POOLED_ROWS: usize = 32;

/// How long a thread waits awake for more of a part: many times what lies between two shares of resident weights, less
/// than most reads take.
const PATIENCE: Duration = Duration::from_micros(200);

/// More threads than any machine has cores: a mistake.
const MAX_THREADS: usize = 1024;

/// Activations of the dots at levels 4 and 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// int8 per group of 64; f32 at level 16.
    Int8,
    /// f32 at every level.
    F32,
}

/// What an engine is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Dense recipe.
    pub levels: Levels,
    /// Activations at levels 4 and 8.
    pub act: Act,
    /// Weight cache in bytes; none holds every weight the levels read.
    pub cache: Option<u64>,
    /// When records are checked against their checksums.
    pub verify: Verify,
    /// Threads; none takes one per core.
    pub threads: Option<usize>,
    /// I/O engine.
    pub io: Choice,
    /// Bytes to read ahead, which is also the size of the ring; none takes the usual, 0 reads on demand.
    pub lookahead: Option<u64>,
}

/// A branch's output: folded, or the partial sums of the asked chunks.
#[derive(Clone, Debug, PartialEq)]
pub enum Branch {
    /// `[N, hidden]`.
    Whole(Vec<f32>),
    /// `[chunks, N, hidden]`, without bias.
    Partials(Vec<f32>),
}

/// Small vectors of a layer.
#[derive(Debug)]
struct LayerVectors {
    norm_attn: Vec<f32>,
    norm_ffn: Vec<f32>,
    bias: Vec<Option<Vec<f32>>>,
}

/// An open model.
pub struct Engine {
    arch: Architecture,
    options: Options,
    isa: Isa,
    pool: Arc<ThreadPool>,
    weights: Weights,
    layers: Vec<LayerVectors>,
    norm_final: Vec<f32>,
    /// Time spent in each layer's parts, and (last) in embedding and head.
    spent: Vec<Duration>,
}

impl Engine {
    /// Opens a store at the levels of `options`.
    ///
    /// # Errors
    /// `Error::CacheTooSmall` naming the least cache; `Error::Usage` for planes that are not stored or zero threads; the
    /// store's own.
    pub fn new(store: Arc<Store>, options: Options) -> Result<Engine> {
        let arch = store.manifest.architecture.clone();
        let pool = Arc::new(pool(options.threads)?);
        let layers = (0..arch.layers).map(|layer| LayerVectors::load(&store, layer)).collect::<Result<_>>()?;
        let norm_final = store.vector(None, "norm.final")?;
        let weights = Weights::new(store, &options)?;
        let spent = vec![Duration::ZERO; arch.layers + 1];
        Ok(Engine { arch, options, isa: Isa::chosen()?, pool, weights, layers, norm_final, spent })
    }

    /// Says what the next calls are: layers in order, then the head or not, and the same again. Reading ahead follows it;
    /// results do not depend on it.
    ///
    /// # Errors
    /// `Error::Usage` for layers the model does not have.
    pub fn follow(&mut self, layers: Range<usize>, head: bool) -> Result<()> {
        self.check_layers(&layers)?;
        self.weights.follow(layers, head);
        Ok(())
    }

    fn check_layers(&self, &Range { start, end }: &Range<usize>) -> Result<()> {
        match start <= end && end <= self.arch.layers {
            true => Ok(()),
            false => Err(Error::usage(format!("layers {start}..{end} of a model with {}", self.arch.layers))),
        }
    }

    /// Rows `x [N, hidden]` behind some layers; appends their K and V to `kv`. The same bits as adding the branches one by
    /// one: what threads wait for between calls is saved.
    ///
    /// # Errors
    /// As [`Engine::attention`] and [`Engine::ffn`]; `Error::Usage` for layers the model does not have.
    pub fn layers(&mut self, layers: Range<usize>, x: &[f32], kv: &Mutex<KvCache>, tokens: Tokens) -> Result<Vec<f32>> {
        self.check_layers(&layers)?;
        self.check_rows(x)?;
        self.pooled(x.len(), |engine| {
            let mut x = x.to_vec();
            for layer in layers {
                engine.timed(layer, |engine| {
                    let branch = engine.attention_branch(layer, &x, kv, tokens, None)?;
                    add(&mut x, &branch)?;
                    let branch = engine.ffn_branch(layer, &x, None)?;
                    add(&mut x, &branch)
                })?;
            }
            Ok(x)
        })
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

    /// Runs a part for rows of `values` elements in all. Few rows run on a thread of the pool: entering the pool
    /// costs some 20 us, which they pay once a part instead of once or thrice a chunk (3.5 times the time of a
    /// 256-wide model's arithmetic). More stay on the caller's thread: their buffers would come from, and stay
    /// in, the allocator's arenas of whichever threads run them.
    fn pooled<T: Send>(&mut self, values: usize, part: impl FnOnce(&mut Engine) -> T + Send) -> T {
        if values > POOLED_ROWS * self.arch.hidden {
            return part(self);
        }
        let pool = self.pool.clone();
        pool.install(|| awake(|| part(self)))
    }

    /// The model.
    pub fn architecture(&self) -> &Architecture {
        &self.arch
    }

    /// A norm's gain: `attn` or `ffn` of a layer, `final` (any layer).
    pub fn norm(&self, layer: usize, which: &str) -> Result<&[f32]> {
        match which {
            "attn" => Ok(&self.layer(layer)?.norm_attn),
            "ffn" => Ok(&self.layer(layer)?.norm_ffn),
            "final" => Ok(&self.norm_final),
            _ => Err(Error::usage(format!("there is no norm {which:?}; attn, ffn and final are known"))),
        }
    }

    fn layer(&self, layer: usize) -> Result<&LayerVectors> {
        self.layers
            .get(layer)
            .ok_or_else(|| Error::usage(format!("layer {layer} of a model with {}", self.arch.layers)))
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

    fn normed(&self, x: &[f32], gain: &[f32], level: Level) -> Inputs {
        let mut rows = vec![0.0; x.len()];
        for (out, row) in rows.chunks_exact_mut(self.arch.hidden).zip(x.chunks_exact(self.arch.hidden)) {
            rms_norm(row, gain, self.arch.norm_eps, out);
        }
        let (isa, int8) = (self.isa, self.options.act == Act::Int8 && level != Level::L16);
        let width = self.arch.hidden;
        self.pool.install(|| Inputs::new(isa, &rows, width, int8))
    }
}

impl LayerVectors {
    fn load(store: &Store, layer: usize) -> Result<LayerVectors> {
        let arch = &store.manifest.architecture;
        let mut bias = vec![None; 9];
        for matrix in &arch.biases {
            bias[*matrix as usize] = Some(store.vector(Some(layer), &format!("bias.{}", matrix.name()))?);
        }
        Ok(LayerVectors {
            norm_attn: store.vector(Some(layer), "norm.attn")?,
            norm_ffn: store.vector(Some(layer), "norm.ffn")?,
            bias,
        })
    }

    fn bias(&self, matrix: crate::types::Matrix) -> Option<&[f32]> {
        self.bias[matrix as usize].as_deref()
    }
}

fn pool(threads: Option<usize>) -> Result<ThreadPool> {
    let threads = match threads {
        Some(n) if !(1..=MAX_THREADS).contains(&n) => {
            return Err(Error::usage(format!("threads is {n}; it must lie in 1..={MAX_THREADS}")));
        }
        Some(n) => n,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let built = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("m2cache-{i}")).build();
    built.map_err(|e| Error::usage(format!("could not start {threads} threads: {e}")))
}

/// Runs `part` on this thread of a pool while the others wait for their share of it awake: one that sleeps is there
/// 30 us after it is called, and a layer calls some ten times. They sleep once nothing came for a while (reads are
/// waited for), then till the part ends, and when it does.
fn awake<T: Send>(part: impl FnOnce() -> T + Send) -> T {
    let (me, over) = (rayon::current_thread_index(), AtomicBool::new(false));
    rayon::scope(|scope| {
        scope.spawn_broadcast(|_, context| {
            if Some(context.index()) != me {
                wait_awake(&over);
            }
        });
        let _over = Over(&over);
        part()
    })
}

/// Sets its flag when it goes, whatever happened.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Works for the pool until the part is over, or nothing was to be done for [`PATIENCE`].
fn wait_awake(over: &AtomicBool) {
    let mut since = Instant::now();
    while !over.load(Ordering::Acquire) && since.elapsed() < PATIENCE {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => since = Instant::now(),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Chunks that are computed together at most: enough for a single column to make the threads' meetings small, fewer for
/// many, whose results take room.
fn together(columns: usize) -> usize {
    const MOST: usize = 64;
    (MOST / columns).max(1)
}

/// Adds a whole branch to the residual stream.
fn add(x: &mut [f32], branch: &Branch) -> Result<()> {
    let Branch::Whole(branch) = branch else {
        return Err(Error::Internal("a branch in parts where all was asked for"));
    };
    x.iter_mut().zip(branch).for_each(|(x, branch)| *x += branch);
    Ok(())
}

/// A range of chunks that lies within `count` and is not empty.
fn check_chunks(chunks: Option<Range<usize>>, count: usize, what: &str) -> Result<Range<usize>> {
    let range = chunks.unwrap_or(0..count);
    match range.start < range.end && range.end <= count {
        true => Ok(range),
        false => Err(Error::usage(format!("{what} {}..{} of {count}", range.start, range.end))),
    }
}
