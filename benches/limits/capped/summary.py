"""From the runs of one subject under one cap to figures, and to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from limits.capped.bound import Bound, Sweeps

Run = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Every run of one subject under one cap, and what the bound needs. Sizes are bytes."""

    name: str
    cap: int
    gguf: int
    touched: int
    hold: int
    sweeps: Sweeps
    ours: Sequence[Run]
    resident: Sequence[Run]
    llama: Sequence[Run]
    llama_resident: Sequence[Run]
    plan: dict[str, Any]
    plan_at_rate: dict[str, Any]

    def rates(self) -> list[float]:
        """What the disk sustained around each of the runs."""
        return _values([*self.ours, *self.llama], "rate")

    def bound(self, rate: float | None = None) -> Bound:
        """The bound at a rate, the middle one if none is given; without a resident run, by the disk alone."""
        speed = _middle(_values(self.resident, "tokens_per_second"))
        chosen = _middle(self.rates()) if rate is None else rate
        return Bound(self.touched, self.hold, chosen, 1 / speed if speed == speed else 0.0)

    def _shares(self) -> list[float]:
        """Of the bound at the rate around it, what each run of ours reached."""
        runs = [run for run in self.ours if run.get("tokens_per_second") is not None]
        return [run["tokens_per_second"] / self.bound(run["rate"]).tokens_per_second for run in runs]

    def summary(self) -> dict[str, Any]:
        """The figures; None where there is none."""
        ours, llama = (_middle(_values(runs, "tokens_per_second")) for runs in (self.ours, self.llama))
        bound, plan = self.bound(), self.plan["expected"]["tokens_per_second"]
        figures = {
            "ours": ours,
            "llama": llama,
            "bound": bound.tokens_per_second,
            "ours_to_bound": _middle(self._shares()),
            "ours_to_llama": ours / llama,
            "plan": plan,
            "plan_to_ours": plan / ours,
            "plan_at_rate": self.plan_at_rate["expected"]["tokens_per_second"],
            "rate": bound.rate,
            "compute_seconds": bound.compute,
            "io_seconds": bound.io,
            "peak": float(max((run["peak"] for run in self.ours), default=0)),
            **self._first(),
        }
        known = {name: value if value == value else None for name, value in figures.items()}
        sizes = {"cap": self.cap, "gguf": self.gguf, "touched": self.touched, "needed": bound.needed}
        return known | sizes | {"limit": bound.limit, "killed": sum(run["killed"] for run in self.ours)}

    def _first(self) -> dict[str, float]:
        capped, resident = (
            _middle(_values(runs, "first_token_seconds")) for runs in (self.ours, self.resident)
        )
        reads = [self.sweeps.first_token(size, self.touched) for size in _values(self.ours, "weights_read")]
        io = _middle(reads) / _middle(self.rates())
        least = max([value for value in (resident, io) if value == value], default=float("nan"))
        return {
            "first_token": capped,
            "first_token_resident": resident,
            "first_token_io": io,
            "first_token_ratio": capped / least,
        }

    def lines(self) -> Iterator[str]:
        """A table of the programs, then the bound and the first token."""
        share = f" ({self.cap / self.gguf:.0%} of Q4_0's {_size(self.gguf)})" if self.gguf else ""
        yield f"{self.name}, cap {_size(self.cap)}{share}, synthetic weights"
        titles = ("tokens/s", 26), ("first token", 13), ("read/token", 13), ("peak", 10), ("anonymous", 11)
        yield " " * 20 + "".join(f"{name:>{width}}" for name, width in titles) + "  killed"
        rows = ("m2cache", self.ours), ("llama.cpp", self.llama)
        alone = ("m2cache, no cap", self.resident), ("llama.cpp, no cap", self.llama_resident)
        yield from (self._row(name, runs) for name, runs in (*rows, *alone) if runs)
        yield from self._conclusion()

    def _row(self, name: str, runs: Sequence[Run]) -> str:
        speeds = _values(runs, "tokens_per_second")
        speed = f"{median(speeds):.3f} ({min(speeds):.3f}..{max(speeds):.3f})" if speeds else "-"
        first, peak, anonymous = (_values(runs, key) for key in ("first_token_seconds", "peak", "anonymous"))
        return (
            f"  {name:18}{speed:>26}{_middle(first):>11.2f} s{_size(_middle(self._read(runs))):>13}"
            f"{_size(max(peak, default=0)):>10}{_size(max(anonymous, default=0)):>11}"
            f"{sum(run.get('killed', False) for run in runs):>6}/{len(runs)}"
        )

    def _read(self, runs: Sequence[Run]) -> list[float]:
        """Bytes that a decoded token reads: ours counts the whole run, llama.cpp's decoding alone."""
        ours = [self.sweeps.later(size, self.touched) for size in _values(runs, "weights_read")]
        return ours + [size / max(1, self.sweeps.new - 1) for size in _values(runs, "decode_read")]

    def _conclusion(self) -> Iterator[str]:
        found, bound = {k: _number(v) for k, v in self.summary().items()}, self.bound()
        rates = self.rates()
        compute = (
            f"arithmetic {bound.compute:.3f} s"
            if bound.compute
            else "arithmetic unknown: no run had all weights in memory"
        )
        yield (
            f"  bound {found['bound']} tokens/s, by {bound.limit}: a token touches {_size(bound.touched)}; "
            f"{_size(bound.needed)} do not fit, {bound.io:.3f} s at {_size(bound.rate)}/s; {compute}"
        )
        drift = f"{_size(min(rates))}/s to {_size(max(rates))}/s"
        yield f"  disk around the runs {drift}; {_spread(self._shares())}"
        yield (
            f"  m2cache / bound {found['ours_to_bound']}, m2cache / llama.cpp {found['ours_to_llama']}, "
            f"plan {found['plan']} tokens/s ({found['plan_at_rate']} at this rate of the disk), "
            f"plan / m2cache {found['plan_to_ours']}"
        )
        yield (
            f"  first token {found['first_token']} s; without a cap {found['first_token_resident']} s, "
            f"reads alone {found['first_token_io']} s; ratio to the larger {found['first_token_ratio']}"
        )


def _spread(shares: Sequence[float]) -> str:
    words = ", ".join(f"{share:.3f}" for share in shares)
    return f"m2cache / bound at the rate around each run: {words or 'no run'}"


def _values(runs: Sequence[Run], name: str) -> list[float]:
    return [run[name] for run in runs if run.get(name) is not None]


def _middle(values: Sequence[float]) -> float:
    """Median, NaN of nothing."""
    return median(values) if values else float("nan")


def _size(value: float | None) -> str:
    """In decimal units, as disks and caps are given."""
    if value is None or value != value:
        return "-"
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if value >= u), (1e3, "kB"))
    return f"{value / unit:.2f} {name}"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"
