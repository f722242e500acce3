"""What query heads are worth: a linear guess, from the layer's input, at the size of what a head adds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.errors import NumericsError, UsageError
from m2cache_rs.predict.collect import rows_of, texts
from m2cache_rs.predict.ridge import Line, Ridge
from m2cache_rs.predict.sample import HELD_OUT
from m2cache_rs.predict.spool import Spool
from m2cache_rs.recipe.cut import rounded
from m2cache_rs.recipe.heads import path_of
from m2cache_rs.recipe.profiles import made, write
from m2cache_rs.runtime.cpu import CpuBackend
from m2cache_rs.runtime.decoder import Batch, Floats, Ids, Kind
from m2cache_rs.runtime.opening import Opened
from m2cache_rs.runtime.session import Model

PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Of the mean of what they are added to; each layer takes the best on tokens held out."""
SHARES = (0.75, 0.5, 0.25)
"""Of heads, for which the recall is told."""
Told = Callable[[str, int, int], None]


def make(opened: Opened, model: Model, text: str, tokens: int, told: Told) -> dict[str, Any]:
    """Learns from a text through a model that is open dense; writes `profiles/query-heads.safetensors`.

    Returns a report: the path, and by `SHARES` the recall of the exact choice on the last fifth of the
    tokens, which nothing is learned from. Raises UsageError, StoreIOError, NumericsError.
    """
    parts = texts(model, text, tokens)
    arch, rows = opened.architecture, rows_of(parts)
    folder = made(opened.path)
    with Spool(folder, arch.layers, rows, arch.hidden) as spool:
        worths = Worths(opened, model, spool, rows)
        for part in parts:
            worths.run(part.ids, lambda done: told("running the text", done, rows))
        found = []
        for layer in range(arch.layers):
            found.append(fit(worths.inputs(layer), worths.found[layer]))
            told("fitting heads", layer + 1, arch.layers)
    lines, recalls = [line for line, _ in found], [recall for _, recall in found]
    path = save(opened.path, opened.manifest["id"], lines, rows)
    return {"path": str(path), "recall": np.mean(recalls, axis=0).tolist(), "shares": list(SHARES)}


class Worths:
    """An observer of the decoder: what every head adds for every token, and the inputs it could tell by.

    `found[layer]` is [rows, heads]: the Euclidean size of the head's part of what `o` gives.
    """

    def __init__(self, opened: Opened, model: Model, spool: Spool, rows: int) -> None:
        arch = opened.architecture
        self.found = np.zeros((arch.layers, rows, arch.heads), np.float32)
        self._opened, self._model, self._spool, self._arch = opened, model, spool, arch
        self._grams: dict[int, Floats] = {}
        self._rows, self._row, self._batch = rows, 0, Batch.run(np.zeros(0, np.uint32), 0, 0, Kind.DECODE)

    def run(self, ids: Ids, progress: Callable[[int], None]) -> None:
        """Runs ids from position 0; `progress` is told the rows done."""
        with self._model.sequence(len(ids)) as sequence:
            for start in range(0, len(ids), DECODE_BATCH):
                self._batch = Batch.run(ids[start : start + DECODE_BATCH], sequence, start, Kind.DECODE)
                count = len(self._batch.positions)
                self._model.forward(self._batch, np.zeros(count, bool), self._see)
                self._row += count
                progress(self._row)

    def inputs(self, layer: int) -> Floats:
        """All rows as q reads them, float32 [rows, hidden]."""
        x = self._spool.read(layer, 0, self._rows)
        mean = np.mean(np.square(x), axis=1, keepdims=True, dtype=np.float64)
        with self._model.turn() as backend:
            gain = backend.norm(layer, "attn")
        return np.asarray(x / np.sqrt(mean + self._arch.norm_eps) * gain, np.float32)

    def _see(self, layer: int, which: str, x: Floats) -> None:
        if which != "attn":
            return
        self._spool.write(layer, self._row, x)
        mixed = self._mixed(layer, x)
        squares = np.einsum("nhi,hij,nhj->nh", mixed, self._gram(layer), mixed, optimize=True)
        if not np.isfinite(squares).all():
            raise NumericsError(f"layer {layer} has heads that give no finite number")
        self.found[layer, self._row : self._row + len(x)] = np.sqrt(np.maximum(squares, 0))

    def _mixed(self, layer: int, x: Floats) -> Floats:
        """What the heads give, [N, heads, head_dim]; the positions are taken back, to be appended again."""
        batch = self._batch
        with self._model.turn() as backend:
            if not isinstance(backend, CpuBackend):
                raise UsageError("a profile is made on the CPU")
            mixed = backend.engine.mixed(layer, x, backend.kv, batch.sequences, batch.positions)
            backend.truncate(int(batch.sequences[0]), int(batch.positions[0]), (layer, layer + 1))
        return mixed.reshape(len(x), self._arch.heads, self._arch.head_dim)

    def _gram(self, layer: int) -> Floats:
        """Products of each head's records of o with one another: sizes without the products themselves."""
        if layer not in self._grams:
            arch, store = self._arch, self._opened.store
            bits = (4, 8, 16)[self._opened.planes - 1]
            heads = (
                store.rows(layer, "o", head * arch.head_dim, arch.head_dim, bits)
                for head in range(arch.heads)
            )
            self._grams[layer] = np.stack([one @ one.T for one in heads])
        return self._grams[layer]


def fit(x: Floats, worth: Floats) -> tuple[Line, list[float]]:
    """The line of the best penalty, for inputs [T, hidden] and worths [T, heads], and its recall by `SHARES`.

    Learned from the first of the rows, judged by the share of the worth of the highest heads that its own
    choice has of the others.
    """
    count = max(1, len(x) - max(1, round(HELD_OUT * len(x))))
    learned, held = slice(None, count), slice(count if count < len(x) else 0, None)
    ridge = Ridge(x[learned].astype(np.float64), worth[learned].astype(np.float64))
    others, wanted = x[held].astype(np.float64), worth[held].astype(np.float64)
    lines = [ridge.line(penalty * max(ridge.size, 1e-30)) for penalty in PENALTIES]
    recalls = [recall(line.guess(others), wanted) for line in lines]
    best = int(np.argmax([sum(one) for one in recalls]))
    return lines[best], recalls[best]


def recall(guess: Any, worth: Any) -> list[float]:
    """Of the worth of the exact choice, what the choice by a guess has: by `SHARES`; both [T, heads]."""
    found = []
    for share in SHARES:
        top = rounded(share, worth.shape[1])
        exact, chosen = (np.argsort(-one, axis=1, kind="stable")[:, :top] for one in (worth, guess))
        have, most = (np.take_along_axis(worth, one, axis=1).sum() for one in (chosen, exact))
        found.append(float(have / most) if most > 0 else 1.0)
    return found


def save(store: Path, id: str, lines: list[Line], tokens: int) -> Path:
    """Writes a store's lines, fitted to so many tokens; where. StoreIOError."""
    parts = {
        f"layer.{layer}.{part}": np.ascontiguousarray(values, "<f4")
        for layer, line in enumerate(lines)
        for part, values in (("weight", line.weight), ("bias", line.bias))
    }
    entries: dict[str, Any] = {"__metadata__": {"store": id, "tokens": str(tokens)}}
    at = 0
    for name, values in parts.items():
        end = at + values.nbytes
        entries[name], at = {"dtype": "F32", "shape": values.shape, "data_offsets": [at, end]}, end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header + b"".join(one.tobytes() for one in parts.values())
    return write(path_of(store), lambda file: file.write(content), id)
