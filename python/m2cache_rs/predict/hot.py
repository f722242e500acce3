"""A store with each layer's neurons hot-first, and its profiles beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from m2cache_rs.convert.reorder import reorder
from m2cache_rs.predict.moved import Moved, carry
from m2cache_rs.recipe.neurons import NeuronProfile
from m2cache_rs.recipe.profiles import FOLDER, write
from m2cache_rs.runtime.opening import Opened


def hot_first(
    opened: Opened, profile: NeuronProfile, dst: Path, progress: Callable[[int, int], None]
) -> tuple[str, Moved]:
    """Writes the store to `dst`, those neurons first that are in most sets of the profile; the new id.

    The profile moves along, and all else that was measured (`moved`): neurons give what they gave.
    `profiles/order.json` says which neuron of the source each one is: there, since nothing that computes
    needs it. Raises as `reorder`.
    """
    orders = [layer.hottest() for layer in profile.layers]
    arrays = [np.array(order, np.uint32) for order in orders]
    moved = [layer.reordered(order) for layer, order in zip(profile.layers, orders, strict=True)]
    others = Moved()

    def beside(directory: Path, identity: str) -> None:
        nonlocal others
        replace(profile, store=identity, layers=tuple(moved)).save(directory)
        origin = {"version": 1, "store": identity, "source": profile.store, "layers": orders}
        write(directory / FOLDER / "order.json", lambda file: file.write(json.dumps(origin).encode()))
        others = carry(opened, arrays, directory, identity)

    return reorder(opened.path, dst, arrays, beside, progress), others
