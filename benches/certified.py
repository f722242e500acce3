"""What certainty costs: certified neurons and those that 4 bits choose, beside dense 16 bits, all in memory.

    python benches/certified.py --model DIR --text FILE        a ReLU checkpoint, and layers of 7B's shape
    python benches/certified.py --shape llama-3-8b --layers 3  synthetic layers of another shape alone

The synthetic ones have random weights with gates biased so that --on of the neurons are on: their figures say
how fast and how many, not how well. Of every recipe: tokens a second and the ratio to dense (in turns, in one
process), the bytes that a token touches by the core's count and what dense's are over them, which bounds the
ratio where memory is waited for; the share of neurons computed; recall, the share of the neurons that are on
at 16 bits which are among them, and of their sum of |h|. With --text also KL to dense.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from limits import options, rectified
from limits.found import Choice, Found, watch
from limits.machine import machine
from limits.tell import tell
from limits.turns import Turns, in_turns
from m2cache_rs import Model
from m2cache_rs._core import MemoryProbe
from m2cache_rs.convert import convert
from m2cache_rs.eval.run import evaluate_all
from m2cache_rs.machine.machine import last_cache_bytes
from m2cache_rs.recipe.cut import Above, Cut, Shares
from m2cache_rs.recipe.recipe import Certified, Dense, Recipe, Sparse
from m2cache_rs.runtime.cost import ffn_cost
from m2cache_rs.runtime.decoder import Ids

SHARES = (0.35, 0.25, 0.15, 0.1)
# Every neuron that 4 bits do not say is off.
POSITIVE = 1e-30
# A token of a toy model takes a millisecond: a round has so many times as many.
TOY = 16
WINDOW = 256


def recipes() -> dict[str, tuple[Recipe, Choice | None]]:
    """By name; of those that 4 bits choose, what they choose."""
    found: dict[str, tuple[Recipe, Choice | None]] = {"certified": (_with(Certified(16)), None)}
    for share in SHARES:
        cut = Shares(share, (1.0, 0.0, 0.0))
        found[f"plane, {share:.0%}"] = (_plane(cut), Choice(share))
    found["plane, all that 4 bits say is on"] = (_plane(Above((POSITIVE, None, None), 1.0)), Choice(None))
    return found


def _plane(cut: Cut) -> Recipe:
    return _with(Sparse("plane", (cut,)))


def _with(ffn: Certified | Sparse | Dense) -> Recipe:
    return Recipe(16, 16, 16, 16, ffn)


@dataclass(frozen=True)
class Subject:
    """A store, ids to decode, and text that is predicted, if there is any."""

    name: str
    store: Path
    ids: Ids
    text: str | None

    @property
    def synthetic(self) -> bool:
        """Whether its weights are random."""
        return self.text is None


@dataclass
class Row:
    """A recipe of a subject: its turns with dense, the share of the neurons that is on by layer, and what is
    computed."""

    subject: str
    synthetic: bool
    name: str
    turns: Turns
    on: list[float]
    active: float
    bits: float
    found: Found | None
    quality: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: medians, then what they come from."""
        ratios, seconds = self.turns.ratios("dense", "recipe"), self.turns.seconds()
        sizes = self.turns.bytes
        return {
            "subject": self.subject,
            "synthetic": self.synthetic,
            "recipe": self.name,
            "tokens_per_second": {which: 1 / one for which, one in seconds.items()},
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "bytes": sizes,
            "ratio_of_bytes": sizes["dense"] / sizes["recipe"],
            "shares": self.turns.shares(),
            "on": self.on,
            "active": self.active,
            "bits_per_weight": self.bits,
            **({} if self.found is None else self.found.to_dict()),
            **(self.quality or {}),
            "rounds": self.turns.rounds,
        }

    def line(self) -> str:
        """For the terminal."""
        one = self.to_dict()
        speeds, (low, high) = one["tokens_per_second"], one["ratios"]
        words = (
            f"{self.subject}{' (synthetic)' if self.synthetic else ''}, {self.name}: {speeds['recipe']:.1f} "
            f"tokens/s against {speeds['dense']:.1f}, {one['ratio']:.2f} ({low:.2f} to {high:.2f}) times, "
            f"bytes {one['ratio_of_bytes']:.2f} times fewer; {self.active:.1%} of neurons, "
            f"{self.bits:.2f} bits"
        )
        if self.found is not None:
            words += f"; recall {one['recall']:.4f}, of the sum {one['mass']:.5f}"
        return words + (f"; KL {one['kl']:.3g}" if self.quality else "")


def subjects(chosen: Any) -> Iterator[Subject]:
    """The checkpoint that was named, then synthetic layers of the shapes."""
    folder, rng = options.work(chosen), np.random.default_rng(1)
    if chosen.model:
        store, text = folder / f"{chosen.model.name}-gated.m2c", chosen.text.read_text()
        if not store.exists():
            convert(chosen.model, store, sections="gated")
        with Model.open(store, ctx=WINDOW) as model:
            ids = np.asarray(model.encode(text[: 32 * chosen.tokens]), np.uint32)[: chosen.tokens]
        yield Subject(chosen.model.name, store, ids, text)
    for shape in options.shapes(chosen):
        config = rectified.config_of(shape, chosen.layers)
        name = f"{shape.name}-relu-{chosen.layers}-{chosen.on:g}"
        store = rectified.make_store(config, chosen.on, folder / name)
        ids = rng.integers(0, config["vocab_size"], chosen.tokens // 8).astype(np.uint32)
        yield Subject(name, store, ids, None)


def measure(subject: Subject, chosen: Any, probe: MemoryProbe) -> Iterator[Row]:
    """All recipes of a subject."""
    dense, wanted = Recipe.dense(16), recipes()
    tell(f"{subject.name}: which neurons are on")
    with Model.open(subject.store, recipe=dense, ctx=WINDOW, kv="f32") as model:
        choices = {name: choice for name, (_, choice) in wanted.items() if choice is not None}
        on, found = watch(model, subject.ids, choices, WINDOW)
    tell(f"{subject.name}: {statistics.mean(on):.2%} of the neurons are on")
    qualities = _qualities(subject, {name: one for name, (one, _) in wanted.items()}, chosen.tokens)
    new = chosen.new_tokens * (1 if subject.synthetic else TOY)
    for name, (recipe, _) in wanted.items():
        pair = {"dense": dense, "recipe": recipe}
        turns = in_turns(subject.store, pair, subject.ids, chosen.repeats, new, probe)
        counted = turns.stats["recipe"]["recipe"]["cost"]
        quality = qualities.get(name)
        cost = quality["cost"] if quality else counted
        yield Row(
            subject.name, subject.synthetic, name, turns, on, sum(cost["active"]), cost["bits_per_weight"],
            found.get(name), quality and quality["quality"],
        )  # fmt: skip


def _qualities(subject: Subject, wanted: Mapping[str, Recipe], tokens: int) -> dict[str, dict[str, Any]]:
    """KL of each to dense, and what it cost there; nothing without a text."""
    if subject.text is None:
        return {}
    opened = {name: _model(subject, recipe) for name, recipe in wanted.items()}
    reference = _model(subject, Recipe.dense(16))
    scores = evaluate_all(list(opened.values()), subject.text, tokens, reference, None, WINDOW)
    found = {}
    for (name, model), score in zip(opened.items(), scores, strict=True):
        cost = ffn_cost(model.stats()["ffn"], model.architecture)
        quality = {
            "tokens": score["tokens"],
            "perplexity": score["perplexity"],
            "kl": score["mean_kl"],
            "kl_interval": score["kl_interval"],
        }
        found[name] = {"quality": quality, "cost": cost.to_dict() if cost else {}}
    for model in (*opened.values(), reference):
        model.close()
    return found


def _model(subject: Subject, recipe: Recipe) -> Model:
    return Model.open(subject.store, recipe=recipe, ctx=WINDOW, kv="f32")


def main() -> None:
    """Measures, prints, writes the JSON file."""
    parser = options.parser("certified", __doc__, repeats=5)
    parser.add_argument("--model", type=Path, help="a checkpoint with ReLU (with --text)")
    parser.add_argument("--text", type=Path, help="a text that it was not trained on")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of it (default 2048)")
    parser.add_argument("--layers", type=int, default=4, help="of the synthetic model (default 4)")
    parser.add_argument(
        "--on", type=float, default=0.1, help="share of its neurons that are on (default 0.1)"
    )
    parser.set_defaults(new_tokens=12)
    chosen = parser.parse_args()
    if (chosen.model is None) != (chosen.text is None):
        parser.error("--model goes with --text")
    if not 0 < chosen.on < 1:
        parser.error(f"--on is {chosen.on:g}; a share between 0 and 1 is needed")
    chosen.shape = chosen.shape or ["llama-2-7b"]
    probe = MemoryProbe(min(1 << 30, max(4 * last_cache_bytes(), 256 << 20)), chosen.threads)
    rows = []
    for subject in subjects(chosen):
        for row in measure(subject, chosen, probe):
            print(row.line(), flush=True)
            rows.append(row)
    label = "synthetic weights where `synthetic`; else a toy model: the mechanism, not the quality at 7B"
    options.keep(chosen.out, {"label": label, "machine": machine(None), "rows": [r.to_dict() for r in rows]})


if __name__ == "__main__":
    options.run("certified.py", main, [], "nothing was written")
