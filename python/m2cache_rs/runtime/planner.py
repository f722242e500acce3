"""What a model costs per token and how fast it goes: a cost model. Pure: nothing is measured or opened here.

A decoded token touches every dense record once. What the cache does not hold is read while the rest is
computed, so

    token = max(io, compute) + serial
    io = missing bytes / read rate
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

from m2cache_rs.config import PARTS
from m2cache_rs.models import Architecture
from m2cache_rs.runtime.budget import Budget, Levels, Weights
from m2cache_rs.runtime.decoder import PROMPT_CHUNK

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
    """Bytes that one decoded token touches, per tier and kernel."""

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
    compute: float
    serial: float
    first_token: float
    rates: Rates

    @property
    def token(self) -> float:
        """Seconds of one decoded token."""
        return max(self.io, self.compute) + self.serial

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
            "compute_seconds": self.compute,
            "serial_seconds": self.serial,
            "bytes_per_token": asdict(self.traffic),
            "read_gbps": self.read_gbps,
            "rates": self.rates.source,
        }


@dataclass(frozen=True)
class Subject:
    """What the cost model must know of a model: its shape, levels and bytes."""

    architecture: Architecture
    levels: Levels
    weights: Weights
    kv_position: int
    """Bytes of keys and values of one position."""


def expect(model: Subject, budget: Budget, rates: Rates, prompt: int, new: int) -> Expectation:
    """What `prompt` tokens and then `new` ones cost under a budget."""
    ssd = missing(model.weights, budget)
    traffic = Traffic(model.weights.token_bytes - ssd, ssd, model.kv_position * (prompt + new // 2))
    read = rates.read(model.weights.token_bytes // max(1, model.weights.blocks))
    io, row = ssd / _per_second(read), _arithmetic(model, rates)
    compute = row + traffic.kv / _per_second(rates.memory)
    serial = _SAMPLE * model.architecture.vocab / 1e5 + model.weights.parts["embed"] / _per_second(read)
    cold = model.weights.token_bytes / _per_second(read)
    first = _first_token(model, rates, (cold, io), row, prompt) + serial * -(-prompt // PROMPT_CHUNK)
    return Expectation(traffic, read, io, compute, serial, first, rates)


def missing(weights: Weights, budget: Budget) -> int:
    """Bytes of a token that the fixed slots do not hold."""
    return max(0, weights.token_bytes - budget.fixed)


def _first_token(model: Subject, rates: Rates, io: tuple[float, float], row: float, prompt: int) -> float:
    """Chunks of the prompt, each a sweep of the model; keys and values grow from chunk to chunk.

    `io`: seconds of reads of the first sweep, which fills the cache, and of the later ones.
    """
    total = 0.0
    for start in range(0, max(prompt, 1), PROMPT_CHUNK):
        rows = min(PROMPT_CHUNK, max(prompt, 1) - start)
        seen = model.kv_position * (start + rows / 2) * rows
        compute = row * (1 + (rows - 1) * _FURTHER_ROW) + seen / _per_second(rates.memory)
        total += max(io[start > 0], compute)
    return total


def _arithmetic(model: Subject, rates: Rates) -> float:
    """Seconds in which one row meets all weights, wherever they lie."""
    seconds = _chunks(model.architecture) * _CHUNK
    for part, level in zip(PARTS, model.levels, strict=True):
        bytes_, added = model.weights.parts[part], _accumulated(part, model.architecture)
        dot, accumulate = (_per_second(min(rate, rates.memory)) for rate in rates.kernels[level])
        seconds += bytes_ * (1 - added) / dot + bytes_ * added / accumulate
    return seconds


def _chunks(spec: Architecture) -> int:
    """Chunks of 256 records that a token goes through; the FFN's matrices go together."""
    records = [spec.records(name) for name in ("q", "k", "v", "o")] + [spec.ffn]
    return spec.layers * sum(-(-one // 256) for one in records) + -(-spec.vocab // 256)


def _accumulated(part: str, spec: Architecture) -> float:
    """The share of a part's bytes that is accumulated (o, down); the rest is dots."""
    q, kv = spec.records("q"), spec.records("k")
    if part == "attn":
        return q / (2 * q + 2 * kv)
    return 1 / len(spec.ffn_matrices) if part == "ffn" else 0.0


def _per_second(gbps: float) -> float:
    return gbps * 1e9
