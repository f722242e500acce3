"""Whether what lies in `STORE/profiles/` can be used: each file read as those read it who compute by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from m2cache_rs.errors import StoreError, UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.recipe import neurons, tuned
from m2cache_rs.recipe.heads import HeadPredictor
from m2cache_rs.recipe.predictors import Predictor
from m2cache_rs.recipe.profiles import FOLDER, read_json

ORDER = "order.json"
_REMEDY = "`m2cache profile SOURCE --reorder STORE` made it, with the store"


class Profiles:
    """Those of the store of that id, shape and number of planes."""

    def __init__(self, store: Path, id: str, spec: Architecture, planes: int) -> None:
        self._store, self._id, self._spec, self._planes = store, id, spec, planes
        self._checks: dict[str, Callable[[str], None]] = {
            r"neurons\.json": self._neurons,
            r"recipes\.json": self._recipes,
            r"order\.json": self._order,
            r"query-heads\.safetensors": self._heads,
            r"predictor-(.+)\.safetensors": self._predictor,
        }

    def names(self) -> list[str]:
        """All files, but for what somebody is still writing."""
        folder = self._store / FOLDER
        return sorted(one.name for one in folder.iterdir() if one.name[0] != ".") if folder.is_dir() else []

    def check(self, name: str) -> bool:
        """Whether a file is one of ours. StoreError, StoreIOError or UsageError says what is wrong in it."""
        for pattern, check in self._checks.items():
            if found := re.fullmatch(pattern, name):
                check(found[found.lastindex or 0])
                return True
        return False

    def _neurons(self, _: str) -> None:
        neurons.NeuronProfile.load(self._store, self._id, self._spec.layers, self._spec.ffn)

    def _recipes(self, _: str) -> None:
        for name, one in (tuned.load(self._store, self._id) or {}).items():
            try:
                one.recipe.check_planes(self._planes)
                one.recipe.core(self._spec)
            except UsageError as error:
                raise StoreError(f"{tuned.path_of(self._store)}, recipe {name!r:.40}: {error}") from error

    def _order(self, name: str) -> None:
        path = self._store / FOLDER / name
        layers = (read_json(path, self._id, 1, _REMEDY) or {}).get("layers")
        every = list(range(self._spec.ffn))
        if not isinstance(layers, list) or [_sorted(one) for one in layers] != [every] * self._spec.layers:
            raise StoreError(f"{path} has no order of the neurons of every layer; {_REMEDY}")

    def _heads(self, _: str) -> None:
        found = HeadPredictor(self._store, self._id, self._spec)
        _check_numbers(found.path, map(vars, found.layers()))

    def _predictor(self, name: str) -> None:
        found = Predictor(self._store, name, self._id, self._spec)
        _check_numbers(found.path, map(vars, found.layers()), "weight")


def _sorted(order: Any) -> Any:
    return sorted(order) if isinstance(order, list) and all(type(one) is int for one in order) else None


def _check_numbers(path: Path, layers: Iterable[dict[str, Any]], positive: str = "") -> None:
    """All are finite, and those of the part `positive` not below 0."""
    for layer, parts in enumerate(layers):
        for part, values in parts.items():
            if not np.isfinite(values).all():
                raise StoreError(f"{path} has numbers in {part} of layer {layer} that are not finite")
            if part == positive and (values < 0).any():
                raise StoreError(f"{path} has numbers in {part} of layer {layer} that are below 0")
