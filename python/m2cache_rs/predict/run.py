"""A profile of a store on a text: statistics of its neurons, and predictors of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.predict import file
from m2cache_rs.predict.coding import as_kept
from m2cache_rs.predict.collect import Collector, neurons, rows_of, texts
from m2cache_rs.predict.lowrank import scores, svd
from m2cache_rs.predict.rank import default_rank, outputs, predictor_share
from m2cache_rs.predict.recall import Recall
from m2cache_rs.predict.sample import Sample
from m2cache_rs.predict.spool import Spool
from m2cache_rs.recipe import heads, predictors
from m2cache_rs.recipe.neurons import SHARES, LayerProfile, NeuronProfile, path_of
from m2cache_rs.recipe.predictors import Factors, Predictor
from m2cache_rs.recipe.profiles import made
from m2cache_rs.recipe.worth import check_text
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.session import Model

TOKENS = 4096
"""Tokens of a profile unless the user says: shares of a set to a hundredth, and minutes for 7B in memory."""
Told = Callable[[str, int, int], None]
"""Told what is done, how much of it, of how much."""
_BITS = {1: 4, 2: 8, 3: 16}


@dataclass(frozen=True)
class Wish:
    """What a profile is made of: at most so many tokens, and predictors ("svd", "trained") of a rank.

    Without `force` a text is refused that is too short, or shorter than that of what would be replaced, which
    with `query_heads` is what chooses those as well.
    """

    tokens: int = TOKENS
    kinds: tuple[str, ...] = ("svd",)
    rank: int | None = None
    force: bool = True
    query_heads: bool = False

    def checked(self, arch: Architecture) -> Wish:
        """The same with a rank. UsageError for one that a layer does not have."""
        most = min(arch.hidden, arch.ffn)
        rank = default_rank(arch) if self.rank is None else self.rank
        if not 1 <= rank <= most:
            raise UsageError(f"rank is {rank}; the matrices of this model have 1 to {most}")
        return replace(self, rank=rank)

    def check(self, opened: Opened, tokens: int) -> None:
        """UsageError where a text of so many tokens is not enough."""
        if not self.force:
            files = [path_of(opened.path), *(predictors.path_of(opened.path, kind) for kind in self.kinds)]
            files += [heads.path_of(opened.path)] if self.query_heads else []
            check_text(tokens, opened.manifest["id"], files)


def make(opened: Opened, model: Model, text: str, wish: Wish, told: Told) -> dict[str, Any]:
    """Profiles a model that is open dense at the highest level stored; writes `profiles/`, returns a report.

    `told` hears of the progress. Raises UsageError (text, rank), StoreIOError (profiles/ cannot be written),
    UnsupportedError (training without torch), NumericsError.
    """
    if "trained" in wish.kinds:
        from m2cache_rs.predict.train import require

        require()
    job = _Job(opened, model, wish.checked(opened.architecture), text)
    with ExitStack() as stack:
        spool = stack.enter_context(job.spool()) if wish.kinds else None
        profile = job.statistics(spool, told)
        found = {} if spool is None else job.predictors(spool, told)
    return report(profile, path_of(opened.path)) | found


def bits_of(opened: Opened) -> int:
    """The highest level that a store holds, in bits: what is exact for its profile."""
    return _BITS[opened.planes]


class _Job:
    def __init__(self, opened: Opened, model: Model, wish: Wish, text: str) -> None:
        self.opened, self.model, self.wish = opened, model, wish
        self.arch, self.bits = opened.architecture, bits_of(opened)
        self.parts = texts(model, text, wish.tokens)
        self.rows = rows_of(self.parts)
        wish.check(opened, self.rows)
        self.text = hashlib.sha256(text.encode()).hexdigest()
        self.folder = made(opened.path)

    def spool(self) -> Spool:
        """Room for what predictors learn from."""
        return Spool(self.folder, self.arch.layers, self.rows, self.arch.hidden)

    def statistics(self, spool: Spool | None, told: Told) -> NeuronProfile:
        """Runs the text; writes what its neurons did."""
        collector = Collector(self.model, self.bits, spool)
        collector.run(self.parts, lambda done: told("running the text", done, self.rows))
        layers = tuple(layer.profile() for layer in collector.layers)
        identity = self.opened.manifest["id"]
        profile = NeuronProfile(identity, self.text, self.rows, self.bits, layers)
        profile.save(self.opened.path)
        return profile

    def predictors(self, spool: Spool, told: Told) -> dict[str, Any]:
        """Makes and writes the predictors; what they are and find."""
        rank, samples = self.wish.rank or 0, [self._sample(spool, layer) for layer in range(self.arch.layers)]
        share = predictor_share(self.arch, rank)
        found: dict[str, Any] = {"rank": rank, "outputs": outputs(self.arch), "predictor_share": share}
        found["learned"] = samples[0].learned
        found["plane_held_out"] = file.mean([self._plane(sample, i) for i, sample in enumerate(samples)])
        for kind in self.wish.kinds:
            about = file.About(self.opened.manifest["id"], kind, rank, self.text, self.rows)
            made = self._svd(samples, told) if kind == "svd" else self._trained(samples, told)
            path, recall = file.save(self.opened.path, self.arch, about, made)
            found[kind] = {"path": str(path), "recall": recall}
        return found

    def _sample(self, spool: Spool, layer: int) -> Sample:
        return Sample(self.model, self.opened.store, spool, self.rows, layer, self.bits)

    def _svd(self, samples: Sequence[Sample], told: Told) -> Iterator[tuple[Factors, tuple[float, ...]]]:
        for layer, sample in enumerate(samples):
            factors = svd(sample.matrices(), sample.inputs(), self.wish.rank or 0, outputs(self.arch))
            yield factors, self._recall(sample, factors)
            told("factorising", layer + 1, len(samples))

    def _trained(self, samples: Sequence[Sample], told: Told) -> Iterator[tuple[Factors, tuple[float, ...]]]:
        from m2cache_rs.predict.train import train

        start = Predictor(self.opened.path, "svd", self.opened.manifest["id"], self.arch).layers()
        for layer, (sample, factors) in enumerate(zip(samples, start, strict=True)):
            found = train(
                factors,
                sample.inputs(),
                sample.given(),
                self.arch.activation,
                partial(_trained_steps, told, layer, len(samples)),
            )
            yield found, self._recall(sample, found)

    def _recall(self, sample: Sample, factors: Factors) -> tuple[float, ...]:
        recall, factors = Recall(self.arch.ffn), as_kept(file.balanced(factors))
        for x, h in sample.held_out():
            recall.add(h, scores(factors, sample.normed(x), self.arch.activation))
        return recall.neurons()

    def _plane(self, sample: Sample, layer: int) -> tuple[float, ...]:
        recall = Recall(self.arch.ffn)
        for x, h in sample.held_out():
            recall.add(h, neurons(self.model, layer, x, 4))
        return recall.neurons()


def _trained_steps(told: Told, layer: int, layers: int, done: int) -> None:
    from m2cache_rs.predict.train import STEPS

    told("training", layer * STEPS + done, layers * STEPS)


def report(profile: NeuronProfile, path: Path) -> dict[str, Any]:
    """A profile in a few numbers: means over layers, lists by share."""

    def mean(get: Callable[[LayerProfile], Any]) -> Any:
        return np.mean([get(layer) for layer in profile.layers], axis=0).tolist()

    return {
        "profile": str(path),
        "tokens": profile.tokens,
        "bits": profile.bits,
        "shares": list(SHARES),
        "nonzero": mean(lambda layer: layer.nonzero),
        "skew_mass": mean(lambda layer: layer.skew_mass),
        "skew_members": mean(lambda layer: layer.skew_members),
        "overlap": mean(lambda layer: layer.overlap),
        "band_overlap": mean(lambda layer: layer.band_overlap),
        "plane_recall": mean(lambda layer: layer.plane_recall),
        "plane_mass": mean(lambda layer: layer.plane_mass),
        "most": {
            name: mean(lambda layer, name=name: [cut.most for cut in layer.thresholds[name]])  # type: ignore[misc]
            for name in profile.layers[0].thresholds
        },
    }
