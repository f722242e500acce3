"""What a model costs per token and how fast it goes: a cost model. Pure: nothing is measured or opened here.

A decoded token touches every dense record once, and of a sparse FFN the records that its recipe lets it
touch at most. Missing blocks that every token needs are read while others are computed. Which neurons are
chosen is known only while a token is computed: their records are read by runs, at the rate of reads of that
size, and waited for. So

    token = max(io, waits + compute) + serial
    io = bytes of missing blocks / read rate + waits
    waits = bytes of missing chosen runs / their read rate
    compute = dot bytes / dot rate + accumulated bytes / accumulate rate + KV bytes / memory rate
              + chunks of 256 records x what one costs beside its arithmetic
    serial = the embedding row, read before anything can be computed, and sampling

and a prompt streams the missing bytes once per chunk of 256 positions, beside that chunk's arithmetic; its
first chunk finds the cache empty and reads every byte:

    first token = sum over chunks of max(io, compute x (1 + (rows - 1) x a further row's share)) + serial

Rates are of stored bytes and come from the device profile (`m2cache doctor`), or from what the caller says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from m2cache_rs.config import PROMPT_CHUNK
from m2cache_rs.models import Architecture
from m2cache_rs.plan.budget import Budget, Weights
from m2cache_rs.plan.reads import Reads
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.recipe.work import Work

# Finding a chunk's blocks, handing out their leases, adding its sums, and its share of waking the pool.
# Derived from measurements; see benches/NOTES.md ("One decoded token, again").
_CHUNK = 2.5e-6
# Detokenising and sampling one token of a vocabulary of 100,000. Measured.
_SAMPLE = 0.5e-3
# What one further row costs of the first, which decodes the weights. Measured; see benches/NOTES.md.
_FURTHER_ROW = 0.15


@dataclass(frozen=True)
class Rates:
    """What the machine does, in GB (1e9) of stored bytes a second.

    `read` tells the rate of reads of so many bytes, many in flight; `kernels`: level -> (dot, accumulate);
    `source` says where the figures come from, `caveat` what is different now (empty: nothing is).
    """

    read: Callable[[int], float]
    memory: float
    kernels: Mapping[int, tuple[float, float]]
    source: str
    caveat: str = ""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one decoded token: what it touches of weights that lie in memory, what it reads of others
    (padding, pages and gaps included), and keys and values."""

    dram: int
    ssd: int
    kv: int

    @property
    def total(self) -> int:
        """Of weights."""
        return self.dram + self.ssd


@dataclass(frozen=True)
class Expectation:
    """What to expect of a run. Seconds are per token, but for `first_token`."""

    traffic: Traffic
    read_gbps: float
    io: float
    waits: float
    compute: float
    serial: float
    first_token: float
    rates: Rates

    @property
    def token(self) -> float:
        """Seconds of one decoded token."""
        return max(self.io, self.waits + self.compute) + self.serial

    @property
    def tokens_per_second(self) -> float:
        """Decoded tokens a second."""
        return 1 / self.token

    @property
    def bound(self) -> str:
        """What the time goes to: `ssd` or `compute`."""
        return "ssd" if self.io > self.compute else "compute"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; bytes and seconds."""
        return {
            "tokens_per_second": self.tokens_per_second,
            "first_token_seconds": self.first_token,
            "bound": self.bound,
            "io_seconds": self.io,
            "wait_seconds": self.waits,
            "compute_seconds": self.compute,
            "serial_seconds": self.serial,
            "bytes_per_token": asdict(self.traffic),
            "read_gbps": self.read_gbps,
            "rates": self.rates.source,
        }


@dataclass(frozen=True)
class Subject:
    """What the cost model must know of a model: its shape, its recipe and bytes.

    `weights` and `work` are a decode token's, the latter what its FFN is computed from; `prompt` and
    `prompt_work` a prompt's. `kv_position`: bytes of keys and values of one position. `reads` tells what a
    decode token reads beside a cache of so many bytes.
    """

    architecture: Architecture
    recipe: Recipe
    weights: Weights
    prompt: Weights
    work: Work
    prompt_work: Work
    kv_position: int
    reads: Callable[[int], Reads]


def expect(model: Subject, budget: Budget, rates: Rates, prompt: int, new: int) -> Expectation:
    """What `prompt` tokens and then `new` ones cost under a budget."""
    found = model.reads(budget.cache)
    held = max(0, model.weights.token_bytes - found.total)
    traffic = Traffic(held, found.total, model.kv_position * (prompt + new // 2))
    read = rates.read(model.prompt.swept // max(1, model.prompt.blocks))
    waits = found.chosen / _per_second(rates.read(max(1, found.chosen_read)))
    io = found.swept / _per_second(read) + waits
    row = _arithmetic(model, model.weights, model.work, rates)
    compute = row + traffic.kv / _per_second(rates.memory)
    serial = _SAMPLE * model.architecture.vocab / 1e5 + model.weights.parts["embed"] / _per_second(read)
    first = _first_token(model, budget, rates, read, prompt) + serial * -(-prompt // PROMPT_CHUNK)
    return Expectation(traffic, read, io, waits, compute, serial, first, rates)


def missing(swept: int, weights: Weights, budget: Budget) -> int:
    """What of so many bytes the fixed slots do not hold: they hold the same share of all the weights."""
    every = max(1, weights.all - weights.least)
    return swept * (every - min(budget.fixed, every)) // every


def _first_token(model: Subject, budget: Budget, rates: Rates, read: float, prompt: int) -> float:
    """Chunks of the prompt, each a sweep of the model; keys and values grow from chunk to chunk.

    The first sweep fills the cache, the later ones find it so.
    """
    swept = model.prompt.swept
    io = [size / _per_second(read) for size in (swept, missing(swept, model.weights, budget))]
    row = _arithmetic(model, model.prompt, model.prompt_work, rates)
    total = 0.0
    for start in range(0, max(prompt, 1), PROMPT_CHUNK):
        rows = min(PROMPT_CHUNK, max(prompt, 1) - start)
        seen = model.kv_position * (start + rows / 2) * rows
        compute = row * (1 + (rows - 1) * _FURTHER_ROW) + seen / _per_second(rates.memory)
        total += max(io[start > 0], compute)
    return total


def _arithmetic(model: Subject, weights: Weights, work: Work, rates: Rates) -> float:
    """Seconds in which one row meets all weights, wherever they lie."""
    recipe, seconds = model.recipe, _chunks(model.architecture) * _CHUNK
    for part, level in (("attn", recipe.attn), ("head", recipe.head), ("embed", recipe.embed)):
        added = weights.parts[part] * _accumulated(part, model.architecture)
        seconds += (weights.parts[part] - added) / _dot_rate(level, rates) + added / _sum_rate(level, rates)
    seconds += sum(size / _dot_rate(level, rates) for level, size in work.dots.items())
    return seconds + sum(size / _sum_rate(level, rates) for level, size in work.sums.items())


def _dot_rate(level: int, rates: Rates) -> float:
    return _per_second(min(rates.kernels[level][0], rates.memory))


def _sum_rate(level: int, rates: Rates) -> float:
    return _per_second(min(rates.kernels[level][1], rates.memory))


def _chunks(spec: Architecture) -> int:
    """Chunks of 256 records that a token goes through; the FFN's matrices go together."""
    records = [spec.records(name) for name in ("q", "k", "v", "o")] + [spec.ffn]
    return spec.layers * sum(-(-one // 256) for one in records) + -(-spec.vocab // 256)


def _accumulated(part: str, spec: Architecture) -> float:
    """The share of a part's bytes that is accumulated (o); the rest is dots."""
    q, kv = spec.records("q"), spec.records("k")
    return q / (2 * q + 2 * kv) if part == "attn" else 0.0


def _per_second(gbps: float) -> float:
    return gbps * 1e9
