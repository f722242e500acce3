"""From the rounds of one shape at one level, all in memory, to figures and to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

Round = Mapping[str, Any]
Figures = dict[str, float]

OURS, PEER = "m2cache", "llama.cpp"
DEPTH = 64
"""Positions of the short text that a long one is compared with."""


@dataclass(frozen=True)
class Asked:
    """What both programs are asked in every round, in tokens; `context` 0 leaves the long text out."""

    threads: int
    new: int
    prompts: Sequence[int]
    rows: int
    context: int
    start: int = 16
    """In front of decoded tokens."""
    calls: int = 8
    """Timed calls where a single one is measured."""

    @property
    def positions(self) -> int:
        """Of the longest text that is run from nothing, and a token behind it."""
        return max(self.start + self.new, *(length + 1 for length in self.prompts))

    @property
    def most(self) -> int:
        """Positions of the longest text of all."""
        return max(self.positions, self.start + (self.calls + 1) * (self.rows + 1), DEPTH, self.context)


@dataclass(frozen=True)
class Measured:
    """Every round. `weights`: bytes that a token touches, by program; `position`: bytes of keys and values.

    A round has `bandwidth`, bytes a second as often as measured in it, and the answers of each program.
    """

    name: str
    asked: Asked
    weights: Mapping[str, int]
    position: int
    rounds: Sequence[Round]
    about: Mapping[str, Mapping[str, Any]]

    def figures(self, program: str) -> list[Figures]:
        """Of each round."""
        return [dict(self._figures(program, one)) for one in self.rounds]

    def _figures(self, program: str, one: Round) -> Iterator[tuple[str, float]]:
        found, bandwidth, asked = one[program], mean(one["bandwidth"]), self.asked
        yield from self._rate(
            "decode", program, _rate(found["decode"]), asked.start + asked.new / 2, bandwidth
        )
        for length in asked.prompts:
            seconds = found[f"prompt {length}"]["first_token"]
            yield f"prompt {length} tokens_per_second", length / seconds
            yield f"prompt {length} first_token_seconds", seconds
        yield "together", median(found["together"]["many"]) / median(found["together"]["one"])
        if asked.context:
            near, far = (median(found["depths"][name]) for name in ("near", "far"))
            yield "far", far / near
            yield from self._rate("far", program, 1 / far, asked.context, bandwidth)

    def _rate(
        self, name: str, program: str, rate: float, positions: float, bandwidth: float
    ) -> Iterator[tuple[str, float]]:
        size = self.weights[program] + positions * self.position
        yield f"{name} tokens_per_second", rate
        yield f"{name} bytes_per_token", size
        yield f"{name} share_of_bandwidth", size * rate / bandwidth

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds and their range, by program; where both ran, the ratio of the medians."""
        every = {program: self.figures(program) for program in self.weights}
        found: dict[str, Any] = {
            program: {name: _spread([one[name] for one in rounds]) for name in rounds[0]}
            for program, rounds in every.items()
        }
        if PEER in found:
            pairs = found[OURS].items()
            found["ratio"] = {name: one["median"] / found[PEER][name]["median"] for name, one in pairs}
        found["bandwidth"] = _spread([rate for one in self.rounds for rate in one["bandwidth"]])
        return found

    def lines(self) -> Iterator[str]:
        """A table."""
        summary = self.summary()
        yield (
            f"{self.name}, {self.asked.threads} threads, {len(self.rounds)} rounds, synthetic weights; "
            f"memory is read at {_cell(summary['bandwidth'], 1e9)} GB/s"
        )
        both = "ratio" in summary
        yield (
            f"  {'':32}"
            + "".join(f"{program:>26}" for program in self.weights)
            + ("   ratio" if both else "")
        )
        for title, name, scale in self._rows():
            cells = "".join(f"{_cell(summary[program][name], scale):>26}" for program in self.weights)
            ratio = f"{summary['ratio'][name]:8.2f}" if both else ""
            yield f"  {title:32}{cells}{ratio}"
        yield from self._notes()

    def _rows(self) -> Iterator[tuple[str, str, float]]:
        """Title, figure and unit."""
        asked = self.asked
        yield f"decode {asked.start} + {asked.new}, tokens/s", "decode tokens_per_second", 1
        yield "  GB a token", "decode bytes_per_token", 1e9
        yield "  share of bandwidth", "decode share_of_bandwidth", 1
        for length in asked.prompts:
            yield f"prompt of {length}, tokens/s", f"prompt {length} tokens_per_second", 1
            yield "  first token, s", f"prompt {length} first_token_seconds", 1
        yield f"call of {asked.rows} tokens / of one", "together", 1
        if asked.context:
            yield f"at {asked.context} positions, tokens/s", "far tokens_per_second", 1
            yield f"  time / time at {DEPTH}", "far", 1
            yield "  GB a token", "far bytes_per_token", 1e9
            yield "  share of bandwidth", "far share_of_bandwidth", 1

    def _notes(self) -> Iterator[str]:
        for program, about in self.about.items():
            idle = "unknown" if about["idle"] is None else f"{about['idle']:.3f} cores"
            kernels = _llama(about) if program == PEER else f"kernels {about['isa']}"
            others = _cell(
                _spread([answer["others"] for one in self.rounds for answer in one[program].values()]), 1
            )
            yield f"  {program}: other work took {others} cores beside it; idle it took {idle}"
            yield f"    {about['huge_bytes'] / 1e9:.2f} GB in huge pages; {kernels}"


def _llama(about: Mapping[str, Any]) -> str:
    size = f"{about['repacked'] / 1e9:.2f} GB of weights" if about["repacked"] else "NOTHING"
    return "; ".join([f"{size} repacked", *about["attention"], about["system"]])


def _rate(run: Mapping[str, float]) -> float:
    return (run["tokens"] - 1) / run["decode"]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _cell(one: Mapping[str, float], scale: float) -> str:
    middle, low, high = (_number(one[name] / scale) for name in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}..{high})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
