"""Decoding with sparse recipes, all in memory, beside dense at the same level: speed and share of bandwidth.

    python benches/sparse.py                       7B and 8B at 4 and 8 bits, five rounds
    python benches/sparse.py --shape llama-2-7b --level 4 --repeats 2

Weights are random (synthetic): the figures say how fast, not how well. Both recipes of a pair keep their
weights in one process and decode in turns. Predictors are random as well: `lowrank` computes with factors of
--rank and takes what they rank highest, or, in `trace` rows, a generated ranking behind the same cost, whose
parameters stand beside it; the time that generating it takes is left out. Per pair: tokens a second, their
ratio by rounds, the bytes a token touches by the core's count, and their share of what threads that only read
memory got in the same round.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from limits import options
from limits.machine import machine
from limits.subject import PLANES, Subject
from limits.tell import tell
from limits.turns import Turns, in_turns
from m2cache_rs._core import MemoryProbe, trace_memory
from m2cache_rs.errors import UsageError
from m2cache_rs.machine.machine import last_cache_bytes
from m2cache_rs.machine.memory import free_memory
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.predictors import path_of
from m2cache_rs.recipe.recipe import Dense, Recipe, Sparse
from safetensors.numpy import save_file

PREDICTOR = "random"
SPARE = 1 << 30
BANDS = {4: (0.0, 0.0, 1.0), 8: (0.0, 1.0, 0.0)}


@dataclass(frozen=True)
class Case:
    """A sparse recipe at a level; `trace` is (overlap, skew) of a generated ranking, `asked` by shape the
    ratio to dense that the project wants."""

    selector: str
    level: int
    active: float
    trace: tuple[float, float] | None = None
    asked: tuple[float, float] = (1.0, 1.0)

    @property
    def name(self) -> str:
        """As in the table."""
        trace = f", trace (overlap {self.trace[0]}, skew {self.trace[1]})" if self.trace else ""
        return f"{self.selector} {self.active:.0%} at {self.level} bits{trace}"


CASES = (
    Case("plane", 4, 0.5, None, (1.05, 1.05)),
    Case("lowrank", 4, 0.5, None, (1.2, 1.2)),
    Case("lowrank", 4, 0.1, (0.8, 1.0), (1.9, 2.2)),
    Case("plane", 8, 0.5, None, (1.08, 1.08)),
    Case("plane", 8, 0.25, None, (1.25, 1.25)),
)


@dataclass
class Measured:
    """A pair of recipes: rounds of {"bandwidth", "dense", "sparse"}, and what a token of each touches."""

    name: str
    asked: float
    rounds: list[dict[str, Any]]
    bytes: dict[str, float]
    about: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Medians; `shares` are of the bandwidth of the same round."""
        turns = Turns(self.rounds, self.bytes, {})
        ratios = turns.ratios("dense", "sparse")
        return {
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "asked": self.asked,
            "ratio_of_bytes": self.bytes["dense"] / self.bytes["sparse"],
            "seconds": turns.seconds(),
            "shares": turns.shares(),
            "bytes": self.bytes,
        }

    def line(self) -> str:
        """For the terminal."""
        found = self.summary()
        low, high = found["ratios"]
        return (
            f"{self.name}: {1 / found['seconds']['sparse']:.2f} tokens/s against "
            f"{1 / found['seconds']['dense']:.2f}, {found['ratio']:.2f} ({low:.2f} to {high:.2f}) times, "
            f"asked {self.asked}; bytes {found['ratio_of_bytes']:.2f} times fewer; share of bandwidth "
            f"{found['shares']['sparse']:.2f}, dense {found['shares']['dense']:.2f}"
        )


def recipes(case: Case, neurons: int) -> tuple[Recipe, Recipe]:
    """Dense at the level, and the case."""
    level = case.level
    selector: Any = case.selector
    if case.trace:
        overlap, skew = case.trace
        memory = trace_memory(neurons, case.active, overlap, skew, 0)
        selector = {"trace": {"paid": selector, "memory": memory, "skew": skew, "seed": 0}}
    predictor = PREDICTOR if case.selector == "lowrank" else None
    sparse = Sparse(selector, (Shares(case.active, BANDS[level]),), predictor=predictor)
    dense = Recipe(level, level, level, level, Dense(level))
    return dense, Recipe(level, level, level, level, sparse)


def make_predictor(subject: Subject, rank: int) -> None:
    """Random factors of that rank in the store's profiles, unless they are there."""
    path, spec = path_of(subject.store, PREDICTOR), subject.shape.architecture
    if path.exists():
        return
    tell(f"making {path}")
    rng = np.random.default_rng(0)
    shapes = {"down": (rank, spec.hidden), "up": (spec.ffn, rank), "bias": (spec.ffn,), "weight": (spec.ffn,)}
    tensors = {
        f"layer.{layer}.{part}": rng.standard_normal(shape, np.float32).astype(np.float16)
        for layer in range(spec.layers)
        for part, shape in shapes.items()
    }
    for layer in range(spec.layers):
        tensors[f"layer.{layer}.weight"] = np.abs(tensors[f"layer.{layer}.weight"])
    path.parent.mkdir(exist_ok=True)
    store = json.loads((subject.store / "m2cache.json").read_text())["id"]
    save_file(tensors, path, {"store": store, "kind": "random, for benches", "bits": "8"})


def measure(
    subject: Subject, case: Case, asked: float, rounds: int, new: int, probe: MemoryProbe
) -> Measured:
    """The pair, in turns."""
    tell(f"{subject.shape.name}, {case.name}")
    pair = dict(zip(("dense", "sparse"), recipes(case, subject.shape.architecture.ffn), strict=True))
    turns = in_turns(subject.store, pair, np.ones(1, np.uint32), rounds, new, probe)
    about = {"recipe": pair["sparse"].to_dict(), "isa": turns.stats["sparse"]["isa"]}
    name = f"{subject.shape.name}, {case.name}"
    return Measured(name, asked, turns.rounds, turns.bytes, about)


def subjects(chosen: Any) -> Iterator[tuple[int, Subject]]:
    """Each shape at each level, with the place of its asked ratio."""
    for shape in options.shapes(chosen):
        for level in sorted(set(chosen.level or BANDS)):
            yield int(shape.name == "llama-3-8b"), Subject(shape, level, options.work(chosen), PLANES[level])


def main() -> None:
    """Measures, prints, writes the JSON file."""
    parser = options.parser("sparse", __doc__, repeats=5)
    parser.add_argument("--level", type=int, action="append", choices=tuple(BANDS), help="may be repeated")
    parser.add_argument("--rank", type=int, default=192, help="of the random predictors (default 192)")
    chosen = parser.parse_args()
    probe = MemoryProbe(min(1 << 30, max(4 * last_cache_bytes(), 256 << 20)), chosen.threads)
    where, measured = machine(None), []
    for place, subject in subjects(chosen):
        subject.make_store()
        make_predictor(subject, chosen.rank)
        for case in (case for case in CASES if case.level == subject.level):
            if free_memory() < 2 * subject.resident() + SPARE:
                raise UsageError(f"two models of {subject.resident() / 1e9:.1f} GB do not fit in free memory")
            one = measure(subject, case, case.asked[place], chosen.repeats, chosen.new_tokens, probe)
            print(one.line(), flush=True)
            measured.append(one)
    options.write(chosen.out, measured, machine=where, rank=chosen.rank)


if __name__ == "__main__":
    options.run("sparse.py", main, [], "nothing was written")
