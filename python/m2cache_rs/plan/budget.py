"""How a cap on the memory of a whole process is split (docs/design.md, 6). Pure: nothing is measured here.

A budget caps VmHWM, the peak of resident memory: interpreter, libraries, keys and values, scratch, weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from m2cache_rs import _core
from m2cache_rs.config import DECODE_BATCH, PROMPT_CHUNK, format_size
from m2cache_rs.errors import BudgetError
from m2cache_rs.models import Architecture
from m2cache_rs.recipe.recipe import Dense, Recipe, Sparse

_MIB = 1 << 20
# Records of one lease: the FFN's hidden rows exist for so many neurons at a time.
_CHUNK = 256
# Logits of a decode batch exist three times at most: by vocabulary, by row, as the caller's.
_LOGIT_COPIES = 3
# Pages of libraries that only running touches: 1.1 MiB measured when the core was a third smaller; with 3 MiB
# for them one thread of the demo model came within 30 KiB of its budget, and over it once in thirty runs.
_UNTOUCHED = 4 * _MIB
# Two opens of one store differ by that much in what they measure; the least budget named works next time too.
JITTER = _MIB

WAYS = (("precision", "a lower {}"), ("ctx", "a shorter {}"), ("max_new_tokens", "fewer {}"))
"""Arguments that a model needs less with."""


@dataclass(frozen=True)
class Weights:
    """What the weights of a model take under a recipe, by the layout of its store; all bytes.

    `all` is the cache that holds every weight, `least` the smallest that works, `ring` what the core takes
    for its ring of slots when it may. In the store they are so many `blocks`, of each part so many bytes
    `stored`, with what pads their records: what a sweep of them reads. One decoded token touches
    `token_bytes` of records, of which `parts` says which part does; where thresholds choose the neurons, as
    many as they may; what chooses heads, and a predictor, is not among them.
    """

    all: int
    least: int
    ring: int
    blocks: int
    stored: Mapping[str, int]
    token_bytes: int
    parts: Mapping[str, int]

    @property
    def swept(self) -> int:
        """What a sweep of all blocks reads."""
        return sum(self.stored.values())

    @classmethod
    def of(
        cls,
        spec: Architecture,
        encoding: Mapping[str, Any],
        recipe: Recipe,
        serves: Sequence[Recipe] = (),
    ) -> Weights:
        """From a spec and a coding as the manifest has it; no store is needed. UsageError: a recipe.

        Of a model that `serves` other recipes, too; tokens are of the first.
        """
        others = [one.core(spec) for one in serves]
        found = json.loads(_core.needs(spec.to_json(), json.dumps(encoding), recipe.core(spec), others))
        return cls(**{name: found[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Costs:
    """What a process takes beside weights, in bytes.

    `base` is there already; `kv`, `scratch` and the low-rank factors of a `predictor` will be, and `reserve`,
    which somebody else in the process takes.
    """

    base: int
    kv: int
    scratch: int
    reserve: int = 0
    predictor: int = 0

    @property
    def ahead(self) -> int:
        """What is not there yet."""
        return self.kv + self.scratch + self.predictor + self.reserve

    @property
    def total(self) -> int:
        """The sum."""
        return self.base + self.ahead


@dataclass(frozen=True)
class Budget:
    """A split cap in bytes. `dram` is None where only the weight cache was given; it caps nothing then."""

    dram: int | None
    base: int
    kv: int
    scratch: int
    reserve: int
    ring: int
    fixed: int
    predictor: int = 0

    @property
    def cache(self) -> int:
        """Bytes of weight cache."""
        return self.ring + self.fixed

    @property
    def total(self) -> int:
        """What the process is expected to take at its peak."""
        return self.base + self.ahead + self.reserve

    @property
    def ahead(self) -> int:
        """What the model takes of it after the budget was made."""
        return self.kv + self.scratch + self.predictor + self.cache

    def placed(self, ring: int, fixed: int) -> Budget:
        """The same with the slots that the core made of the cache."""
        return replace(self, ring=ring, fixed=fixed)

    def to_dict(self) -> dict[str, int | None]:
        """For JSON."""
        return {**asdict(self), "total": self.total}


def split(dram: int, weights: Weights, costs: Costs) -> Budget:
    """All of the cap that is left goes to weights, until they are all there.

    Raises BudgetError naming the least cap that works: ring slots for one step and no fixed weights.
    """
    if dram < costs.total + weights.least:
        raise BudgetError(too_small(dram, weights, costs), WAYS)
    return with_cache(dram, min(weights.all, dram - costs.total), weights, costs)


def with_cache(dram: int | None, cache: int, weights: Weights, costs: Costs) -> Budget:
    """The budget of a weight cache of that many bytes, cut as the core cuts it."""
    ring = _core.ring_bytes(cache, weights.all, weights.least)
    kept = costs.base, costs.kv, costs.scratch, costs.reserve
    return Budget(dram, *kept, ring, cache - ring, costs.predictor)


def least_dram(weights: Weights, costs: Costs) -> int:
    """The least cap that works, in whole MiB."""
    return -(-(costs.total + weights.least + JITTER) // _MIB) * _MIB


def too_small(dram: int, weights: Weights, costs: Costs) -> str:
    """What to tell of a cap that is too small."""
    least = least_dram(weights, costs)
    base, kv, ring = (format_size(one) for one in (costs.base, costs.kv, weights.least))
    scratch = format_size(costs.scratch + costs.reserve)
    return (
        f"a budget of {format_size(dram)} is too small for this model at this precision and context: the "
        f"least that works is {least} bytes ({format_size(least)}): process {base}, keys and values {kv}, "
        f"scratch {scratch}{_predictor(costs)}, weights {ring}"
    )


def _predictor(costs: Costs) -> str:
    return f", predictor {format_size(costs.predictor)}" if costs.predictor else ""


def kv_bytes(spec: Architecture, positions: int, kind: str) -> int:
    """Keys and values of that many positions of one sequence, kept as f16 or f32."""
    return _core.KvCache.bytes_for(spec.layers, spec.kv_heads, spec.head_dim, kind, positions)


def scratch_bytes(
    spec: Architecture,
    recipe: Recipe,
    act: str,
    positions: int,
    threads: int,
    logit_rows: int = DECODE_BATCH,
    serves: Sequence[Recipe] = (),
) -> int:
    """What activations take at most while a sequence of `positions` runs, beside weights and KV.

    Rows of a chunk (256 in a prompt, 32 else) times what one row takes in the larger branch, or decode rows
    whose neurons are ranked, or the logits of `logit_rows`, plus what the core says its threads keep for this
    recipe computed in `act`; a quarter more for the allocator, and the pages of libraries that only running
    touches. What logits a caller keeps is the caller's. Of a model that `serves` other recipes, too, what is
    enough for all. UsageError: a recipe, act or threads that are none.
    """
    rows = min(max(positions, DECODE_BATCH), PROMPT_CHUNK)
    ranking = max(_ranking_bytes(spec, one) for one in (recipe, *serves))
    activations = max(rows * _row_bytes(spec), DECODE_BATCH * _row_bytes(spec) + ranking)
    logits = logit_rows * spec.vocab * 4 * _LOGIT_COPIES
    small = _vector_bytes(spec) + spec.layers * spec.kv_heads * (positions // 64 + 1) * 128
    core, others = recipe.core(spec), [one.core(spec) for one in serves]
    kept = _core.scratch_bytes(spec.to_json(), core, act, rows, logit_rows, positions, threads, others)
    return (max(activations, logits) + kept) * 5 // 4 + small + _UNTOUCHED


def _row_bytes(spec: Architecture) -> int:
    """One row: x, its branch, the normed and the coded inputs; then attention's or the FFN's own."""
    q, kv, hidden = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.hidden
    shared = 4 * hidden * 2 + (4 + 4 + 4 + 3) * hidden
    sums = 4 * hidden * 4
    mixing, output = 4 * (3 * q + 2 * kv), 4 * 2 * q + sums
    return shared + max(mixing, output, sums + 4 * 5 * _CHUNK) + spec.kv_heads * 64


def _ranking_bytes(spec: Architecture, recipe: Recipe) -> int:
    """Decode rows that have some neurons of a layer: scores and what they are made of, of all its neurons;
    then each neuron's key, and its place and rows in three bands."""
    if isinstance(recipe.ffn, Dense):
        return 0
    arrays = 0
    if isinstance(recipe.ffn, Sparse):
        arrays = 4 if recipe.ffn.predicts else 2
    return spec.ffn * (DECODE_BATCH * 4 * arrays + 4 + 3 * 8)


def _vector_bytes(spec: Architecture) -> int:
    """Norms and biases, which are always there."""
    biases = sum(spec.bias_length(name) for name in spec.biases)
    return 4 * (spec.layers * (2 * spec.hidden + biases) + spec.hidden)
