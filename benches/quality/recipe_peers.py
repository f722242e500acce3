"""llama.cpp's files beside our recipes: made from the same checkpoint, or the reader's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ggufs
from ggufs import Quantised
from llamacpp import LlamaCpp, quantise
from m2cache_rs.eval.gguf import GgufModel
from m2cache_rs.eval.windows import Window
from peers import ACTIVATION, Peer
from recipe_meter import Float, Meter, whole
from recipe_rows import PEER, Line
from subjects import Subject

NAMES = ("Q4_0", "Q4_K_M", "Q8_0")
_FFN = ("gate", "up", "down")


def made(meter: Meter, subject: Subject, scratch: Path) -> Iterator[Line]:
    """Its quantisations of a subject. Where it cannot run the activation, its weights in our reference.

    Raises ValueError for a model that llama.cpp computes differently, or that cannot be written for it.
    """
    peer = Peer.of(subject, scratch)
    try:
        for name in NAMES:
            path = quantise(peer.path, peer.path.with_suffix(".quantised"), name)
            stored = ggufs.read(path, subject.checkpoint)
            yield _line(meter, name, stored, path)
            path.unlink()
    finally:
        peer.path.unlink()


def _line(meter: Meter, name: str, stored: Quantised, path: Path) -> Line:
    size, bits = float(token_bytes(stored.bytes)), ffn_bits(stored)
    if stored.checkpoint.architecture.activation != ACTIVATION:
        return meter.other(PEER, f"{name}, weights only", whole(stored.checkpoint.logits), size, bits)
    with LlamaCpp(path, _longest(meter)) as model:
        return meter.other(PEER, name, whole(model.logits), size, bits)


def token_bytes(sizes: dict[str, int]) -> int:
    """Of matrices that a token touches: of an embedding that is not the head too, one row, left out here."""
    return sum(size for name, size in sizes.items() if name != "embed" or "head" not in sizes)


def ffn_bits(stored: Quantised) -> float:
    """Bits per weight of the FFN."""
    names = [name for name in stored.bytes if name.split(".")[-1] in _FFN]
    weights = sum(stored.checkpoint.matrices[name] for name in names)
    return 8 * sum(stored.bytes[name] for name in names) / weights


def given(meter: Meter, path: Path) -> Line:
    """A GGUF file of the same checkpoint, run by llama.cpp. UsageError where its vocabulary is another."""
    # Its barriers spin: on a busy machine more threads are slower.
    with GgufModel(path, _longest(meter), meter.opened.architecture, threads=1) as model:

        def batches(window: Window) -> Iterator[Float]:
            return model.logits_by_batch(window.ids)

        return meter.other(PEER, path.stem, batches, model.size.bytes, model.size.ffn_bits)


def _longest(meter: Meter) -> int:
    return max(len(window.ids) for window in meter.windows)
