"""What was measured of a store, for the same store with its neurons in another order.

A predictor's rows move with the neurons; query heads and shares of neurons stay what they are. What a recipe
cost stays as well: sums in another order change a KL by 0.3 % (tale-silu), a tenth of its interval. But one
that a predictor ranks for keeps the digest of the file it was measured with, so that its cost is told no
more: factors are coded in groups of 64 neurons, which are others now (4 %). Journals of `tune` stay behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.errors import M2CacheError
from m2cache_rs.recipe import heads, predictors, tuned
from m2cache_rs.recipe.profiles import write
from m2cache_rs.runtime.opening import Opened

_BY_NEURON = re.compile(r"layer\.(\d+)\.(?:up|bias|weight)")
File = tuple[str, Callable[[], object], Callable[[], object]]
Orders = Sequence[NDArray[np.uint32]]


@dataclass
class Moved:
    """Files of profiles that moved along, and of the others why they did not."""

    carried: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def carry(opened: Opened, orders: Orders, target: Path, id: str) -> Moved:
    """Writes what `profiles/` of a store hold for `target`, the store of that id, neurons in those orders.

    What is broken stays behind. StoreIOError where something cannot be written.
    """
    moved = Moved()
    for name, check, move in _files(opened, orders, target, id):
        try:
            check()
        except M2CacheError as error:
            moved.left[name] = str(error)
        else:
            move()
            moved.carried.append(name)
    return moved


def _files(opened: Opened, orders: Orders, target: Path, id: str) -> Iterator[File]:
    """Each file's name, what reads it, and what moves it."""
    source, old, spec = opened.path, opened.manifest["id"], opened.architecture
    for name in predictors.names(source):
        path, new = predictors.path_of(source, name), predictors.path_of(target, name)
        ranks = partial(predictors.Predictor, source, name, old, spec)
        yield path.name, ranks, partial(_copy, path, new, id, orders)
    path = heads.path_of(source)
    if path.exists():
        chooses = partial(heads.HeadPredictor, source, old, spec)
        yield path.name, chooses, partial(_copy, path, heads.path_of(target), id)
    if tuned.path_of(source).exists():
        yield tuned.FILE, partial(tuned.load, source, old), partial(_recipes, source, old, target, id)


def _recipes(source: Path, old: str, target: Path, id: str) -> None:
    tuned.save(target, id, tuned.load(source, old) or {})


def _copy(path: Path, target: Path, id: str, orders: Orders = ()) -> None:
    """The tensors of a file for the store of that id; those by neuron in the order of their layer."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header["__metadata__"]["store"] = id
        write(target, lambda new: _fill(new, file, header, orders))


def _fill(new: IO[bytes], file: IO[bytes], header: dict[str, Any], orders: Orders) -> None:
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    new.write(len(content).to_bytes(8, "little") + content)
    tensors = [(one["data_offsets"], name) for name, one in header.items() if name != "__metadata__"]
    for (begin, end), name in sorted(tensors):
        found, data = _BY_NEURON.fullmatch(name), file.read(end - begin)
        if found and orders:
            order = orders[int(found[1])]
            shape = header[name]["shape"][0] // len(order), len(order), -1
            data = np.frombuffer(data, np.uint8).reshape(shape)[:, order].tobytes()
        new.write(data)
