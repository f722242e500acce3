//! What a model takes, without one that is open.

use super::errors::json;
use super::parse;
use crate::config::{Architecture, Encoding, Recipe};
use crate::engine::{self, Forecast, Needs, Run};
use crate::error::Error;
use pyo3::prelude::*;

/// What a model needs under a recipe (see Engine), from its architecture and encoding alone, as JSON: {"all": cache bytes
/// that hold every weight, "least": least cache that works, "ring": most that the read ring takes, "blocks", "stored": their
/// bytes by part, padding included, "token_bytes": bytes that one decoded token touches (of records, padding left out), in a
/// sparse FFN the most that its cuts let it touch, without what chooses, "parts": token_bytes by part}. All but the last two
/// are those of a model that serves other recipes, too.
///
/// Raises UsageError for planes that are not stored and for JSON that is no architecture, encoding or recipe of it.
#[pyfunction]
#[pyo3(signature = (architecture, encoding, recipe, serves=vec![]))]
pub fn needs(architecture: &str, encoding: &str, recipe: &str, serves: Vec<String>) -> PyResult<String> {
    let (arch, encoding) = shape(architecture, encoding)?;
    json(&Needs::of(&arch, &encoding, &Recipe::parse(recipe)?, &parse::recipes(&serves)?)?)
}

/// What one decoded token reads from a store, from a model's architecture and encoding alone, under a recipe (see Engine)
/// and beside a cache of so many bytes, as JSON: {"swept": bytes of whole blocks, "chosen": bytes of records that are chosen
/// while it is computed, with the gaps and pages that come with them, "reads": of these}. A read costs as much as request
/// bytes (None: the usual). Neurons are taken to lie evenly spread.
///
/// Raises what needs does, and BudgetError naming the least cache.
#[pyfunction]
#[pyo3(signature = (architecture, encoding, recipe, cache, request=None))]
pub fn forecast(
    architecture: &str,
    encoding: &str,
    recipe: &str,
    cache: u64,
    request: Option<u64>,
) -> PyResult<String> {
    let (arch, encoding) = shape(architecture, encoding)?;
    json(&Forecast::of(&arch, &encoding, &Recipe::parse(recipe)?, cache, request)?)
}

/// An architecture, and an encoding of it.
fn shape(architecture: &str, encoding: &str) -> PyResult<(Architecture, Encoding)> {
    let arch = parse::architecture(architecture)?;
    let encoding: Encoding = parse::of("encoding", encoding)?;
    encoding.validate(&arch).map_err(Error::usage)?;
    Ok((arch, encoding))
}

/// Bytes that the threads of a model take at most beside weights, keys, values and the rows of a call: under a recipe (see
/// Engine), with 4 and 8 bits computed in act, in calls of so many rows and rows of logits, with sequences of up to so
/// many positions, on the instruction set that an Engine would choose here; of a model that serves other recipes, too.
///
/// Raises UsageError for an act or threads that are none, and for JSON that is no architecture or recipe of it.
#[pyfunction]
#[pyo3(signature = (architecture, recipe, act, rows, logit_rows, positions, threads, serves=vec![]))]
#[allow(clippy::too_many_arguments)]
pub fn scratch_bytes(
    architecture: &str,
    recipe: &str,
    act: &str,
    rows: usize,
    logit_rows: usize,
    positions: usize,
    threads: usize,
    serves: Vec<String>,
) -> PyResult<usize> {
    let (first, others) = (Recipe::parse(recipe)?, parse::recipes(&serves)?);
    let (recipes, arithmetic) = ([vec![first], others].concat(), parse::act(act)?);
    let run = Run { recipes, arithmetic, rows, logit_rows, positions, threads };
    Ok(run.scratch(&parse::architecture(architecture)?)?)
}

/// Bytes of the ring that is cut from a cache of that many bytes, for a model whose weights all take `all` and whose
/// largest step takes `least`; the rest is for weights that stay.
#[pyfunction]
pub fn ring_bytes(cache: u64, all: u64, least: u64) -> u64 {
    engine::usual_ring(cache, all).max(least)
}
