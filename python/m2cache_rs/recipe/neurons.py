"""Statistics of a store's neurons, kept as `STORE/profiles/neurons.json` by `m2cache profile`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2cache_rs.errors import StoreError, UsageError
from m2cache_rs.recipe.cut import LARGEST
from m2cache_rs.recipe.profiles import FOLDER, read_json, write

VERSION = 1
SHARES = (0.7, 0.5, 0.35, 0.25, 0.1)
"""Shares of a layer's neurons that statistics and thresholds are kept for."""
BANDS = (0.25, 0.25, 0.5)
"""Shares of an active set at 16, 8 and 4 bits whose overlap is measured."""
SELECTORS = ("oracle", "plane")
"""Whose scores have thresholds: |h| at the highest level, and at 4 bits."""


@dataclass(frozen=True)
class Threshold:
    """Where a layer's scores are cut for a share of its neurons.

    `share` is what lies at or above `score` on the profile's text, a mean over its tokens; `most` (k_max) is
    rarely exceeded: the mean count and three standard deviations, or the most that any token had.
    """

    score: float
    share: float
    most: int


@dataclass(frozen=True)
class LayerProfile:
    """One layer's statistics; lists of five are by `SHARES`.

    A token's set for a share is the k highest of |h|, ties by lower id, k the nearest count to the share; a
    neuron that gives exactly 0 is in none. `nonzero`: share of all |h| above 0. `frequency`: tokens whose set
    holds neuron j, [5][neurons]. `overlap`: share of a set that was in the token before's; `band_overlap`:
    the same of its 16, 8 and 4-bit bands (`BANDS`) [5][3]. `skew_mass`, `skew_members`: what the hottest
    tenth of the neurons holds of the sum of |h|, and of the memberships [5]. `plane_recall`: share of a set
    that the k highest at 4 bits hold; `plane_mass`: the same of its |h|.
    """

    nonzero: float
    frequency: tuple[tuple[int, ...], ...]
    overlap: tuple[float, ...]
    band_overlap: tuple[tuple[float, ...], ...]
    skew_mass: float
    skew_members: tuple[float, ...]
    plane_recall: tuple[float, ...]
    plane_mass: tuple[float, ...]
    thresholds: dict[str, tuple[Threshold, ...]]

    def hottest(self) -> list[int]:
        """All neurons, those first that are in most sets (of all shares together), ties by lower id."""
        total = [sum(column) for column in zip(*self.frequency, strict=True)]
        return sorted(range(len(total)), key=lambda neuron: (-total[neuron], neuron))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; no copies of what is by neuron."""
        cuts = {name: [vars(cut) for cut in cuts] for name, cuts in self.thresholds.items()}
        return {**vars(self), "thresholds": cuts}

    def reordered(self, order: Sequence[int]) -> LayerProfile:
        """Of the layer whose neuron i is this one's `order[i]`."""
        moved = tuple(tuple(row[neuron] for neuron in order) for row in self.frequency)
        return replace(self, frequency=moved)


@dataclass(frozen=True)
class NeuronProfile:
    """The statistics of all layers: of `tokens` decode tokens of a text (sha256 `text`), dense at `bits`."""

    store: str
    text: str
    tokens: int
    bits: int
    layers: tuple[LayerProfile, ...]

    def threshold(self, layer: int, selector: str, share: float) -> Threshold:
        """The threshold of one of `SHARES`. UsageError where there is none."""
        if selector not in SELECTORS or share not in SHARES:
            known = f"{', '.join(SELECTORS)} at {', '.join(map(str, SHARES))}"
            raise UsageError(f"no threshold of {selector!r} at a share of {share}; a profile has {known}")
        return self.layers[layer].thresholds[selector][SHARES.index(share)]

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        about = {"version": VERSION, "shares": list(SHARES), "bands": list(BANDS)}
        return {**about, **vars(self), "layers": [layer.to_dict() for layer in self.layers]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> NeuronProfile:
        """From a file's content; ValueError says what is wrong with it."""
        try:
            if tuple(value["shares"]) != SHARES or tuple(value["bands"]) != BANDS:
                raise ValueError("is of other shares")
            layers = tuple(_layer(one) for one in value["layers"])
            about = str(value["store"]), str(value["text"]), int(value["tokens"]), int(value["bits"])
        except KeyError as error:
            raise ValueError(f"lacks {error}") from error
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"has a value of the wrong kind ({error})") from error
        return cls(*about, layers)

    @classmethod
    def load(cls, store: Path, identity: str, layers: int, neurons: int) -> NeuronProfile:
        """The profile of the store with that id and shape.

        Raises UsageError where there is none, StoreError naming a file that is damaged or another store's.
        """
        path, remedy = path_of(store), f"`m2cache profile {store} --text FILE` makes one"
        value = read_json(path, identity, VERSION, remedy)
        if value is None:
            raise UsageError(f"{store} has no profile of its neurons; {remedy}")
        try:
            found = cls.from_dict(value)
        except ValueError as error:
            raise StoreError(f"{path} {error}; {remedy}") from error
        shapes = {len(row) for layer in found.layers for row in layer.frequency}
        cuts = [cut for layer in found.layers for cuts in layer.thresholds.values() for cut in cuts]
        if len(found.layers) != layers or shapes != {neurons} or any(cut.most > neurons for cut in cuts):
            raise StoreError(f"{path} has other layers or neurons than the store; {remedy}")
        return found

    def save(self, store: Path) -> Path:
        """Writes the file of a store in one step; where. StoreIOError where that cannot be."""
        # A line a number, as indented JSON has it, would make 7B's 1.8 million numbers 25 MB.
        text = json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)
        return write(path_of(store), lambda file: file.write(text.encode()), self.store)


def path_of(store: Path) -> Path:
    """Where a store's profile lies."""
    return store / FOLDER / "neurons.json"


def _layer(value: Any) -> LayerProfile:
    thresholds = {
        name: tuple(
            Threshold(_number(one["score"]), _share(one["share"]), _count(one["most"]))
            for one in _five(value["thresholds"][name])
        )
        for name in SELECTORS
    }
    bands = tuple(tuple(map(_share, row)) for row in _five(value["band_overlap"]))
    if any(len(row) != len(BANDS) for row in bands):
        raise ValueError("lacks bands")
    return LayerProfile(
        nonzero=_share(value["nonzero"]),
        frequency=tuple(tuple(map(int, row)) for row in _five(value["frequency"])),
        overlap=tuple(map(_share, _five(value["overlap"]))),
        band_overlap=bands,
        skew_mass=_share(value["skew_mass"]),
        skew_members=tuple(map(_share, _five(value["skew_members"]))),
        plane_recall=tuple(map(_share, _five(value["plane_recall"]))),
        plane_mass=tuple(map(_share, _five(value["plane_mass"]))),
        thresholds=thresholds,
    )


def _five(values: Any) -> list[Any]:
    if len(values) != len(SHARES):
        raise ValueError(f"has {len(values)} values where there are {len(SHARES)} shares")
    return list(values)


def _number(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= LARGEST:
        raise ValueError(f"has a number of {number}")
    return number


def _count(value: Any) -> int:
    """Of neurons, at least one; that there are so many is checked with the store."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"has a count of {value!r:.20}")
    return value


def _share(value: Any) -> float:
    if (share := _number(value)) > 1 + 1e-9:
        raise ValueError(f"has a share of {share}")
    return share
