"""A GGUF file of the same model, run by llama.cpp beside a store's recipes (the `peers` extra)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from m2cache_rs.config import DECODE_BATCH
from m2cache_rs.errors import UsageError
from m2cache_rs.eval import header
from m2cache_rs.models import Architecture
from m2cache_rs.runtime.decoder import Floats, Ids

GROUP = "llama.cpp"
_OUTER = {"token_embd.weight": "embed", "output.weight": "head"}


@dataclass(frozen=True)
class Size:
    """Bytes of matrices that a token touches, of them the FFN's, and the FFN's bits per weight, all with
    scales. Of an embedding that is not the head too, a token touches one row, which is left out."""

    bytes: float
    ffn_bytes: float
    ffn_bits: float


def size_of(path: Path, spec: Architecture) -> Size:
    """By the file's list of tensors. UsageError for what is no GGUF file, or that of another model."""
    reader = _module("gguf").GGUFReader
    try:
        found = reader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UsageError(f"{path} cannot be read as a GGUF file: {error}") from error
    header.check(path, found.fields, spec)
    tensors = [one for one in found.tensors if len(one.shape) > 1]
    sizes = {_OUTER.get(one.name, one.name): int(one.n_bytes) for one in tensors}
    ffn = [one for one in tensors if ".ffn_" in one.name]
    weights = sum(math.prod(int(n) for n in one.shape) for one in ffn)
    if not weights:
        raise UsageError(f"{path} has no FFN: it is no language model")
    touched = sum(size for name, size in sizes.items() if name != "embed" or "head" not in sizes)
    of_ffn = sum(int(one.n_bytes) for one in ffn)
    return Size(float(touched), float(of_ffn), 8 * of_ffn / weights)


class GgufModel:
    """Runs windows of at most `context` ids, from position 0 each, keys and values in f32.

    llama.cpp maps the file; its memory is not part of any budget of ours. Raises UsageError where the extra
    is not installed, where llama.cpp does not run the file, and where that is of another model than `spec`.
    """

    def __init__(self, path: Path, context: int, spec: Architecture, threads: int | None = None) -> None:
        llama = _module("llama_cpp")
        self.path, self.size, vocab = path, size_of(path, spec), spec.vocab
        try:
            self._llama: Any = llama.Llama(
                str(path),
                n_ctx=context,
                n_batch=context,
                n_ubatch=context,
                n_gpu_layers=0,
                n_threads=threads,
                n_threads_batch=threads,
                logits_all=True,
                type_k=llama.GGML_TYPE_F32,
                type_v=llama.GGML_TYPE_F32,
                verbose=False,
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"llama.cpp does not run {path}: {error}") from error
        if (found := self._llama.n_vocab()) != vocab:
            self.close()
            raise UsageError(f"{path} has a vocabulary of {found}, the store of {vocab}: it is another model")

    def logits_by_batch(self, ids: Ids) -> Iterator[Floats]:
        """Logits float32 [32 or fewer, vocab] of a window, batch by batch."""
        self._llama.reset()
        self._llama.eval([int(one) for one in ids])
        for start in range(0, len(ids), DECODE_BATCH):
            stop = min(start + DECODE_BATCH, len(ids))
            yield np.array(self._llama.scores[start:stop], np.float32)

    def costs(self) -> dict[str, Any]:
        """As `eval.run.costs` has them; what was read is not known."""
        return {
            "needed_bytes_per_token": self.size.bytes,
            "ffn_bytes_per_token": self.size.ffn_bytes,
            "bits_per_weight": self.size.ffn_bits,
        }

    def close(self) -> None:
        """Frees it."""
        self._llama.close()

    def __enter__(self) -> GgufModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _module(name: str) -> Any:
    """A package of the extra. UsageError without it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"running a GGUF file needs {name}, which is not installed: pip install 'm2cache-rs[peers]'"
        ) from error
