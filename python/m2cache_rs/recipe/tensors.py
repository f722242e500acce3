"""Tensors of a store in `STORE/profiles/`: safetensors, whose metadata say whose they are, read singly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs._core import read_header
from m2cache_rs.errors import M2CacheError, StoreError
from m2cache_rs.recipe.profiles import check_store, digest, io_error, opened

Floats = NDArray[np.float32]
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}


@dataclass(frozen=True)
class _Tensor:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int


class TensorFile:
    """A file, called `what` in errors, which end in `remedy`; its header was read, and it is of store `id`.

    StoreError where it is broken or another store's, StoreIOError.
    """

    def __init__(self, path: Path, what: str, id: str, remedy: str) -> None:
        self.path, self._what, self._remedy = path, what, remedy
        try:
            opened(path).close()
        except OSError as error:
            raise io_error(f"{what} {path} cannot be read", error) from error
        try:
            header = read_header(path)
            self.about = _metadata(path)
        except OSError as error:
            raise io_error(f"{what} {path} cannot be read", error) from error
        except M2CacheError as error:
            raise self.broken(f"is broken: {error}") from error
        check_store(path, self.about.get("store"), id, remedy)
        self._tensors = {
            name: _Tensor(_DTYPES[dtype], tuple(shape), begin)
            for name, dtype, shape, begin, _ in header
            if dtype in _DTYPES
        }

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor in f32 or f16; None where there is no such one."""
        found = self._tensors.get(name)
        return found.shape if found else None

    def read(self, name: str) -> Floats:
        """A tensor that is there. StoreIOError."""
        tensor = self._tensors[name]
        count = int(np.prod(tensor.shape))
        try:
            found = np.fromfile(self.path, tensor.dtype, count, offset=tensor.begin)
        except OSError as error:
            raise io_error(f"{self._what} {self.path} cannot be read", error) from error
        return np.ascontiguousarray(found.reshape(tensor.shape), np.float32)

    @property
    def digest(self) -> str:
        """The SHA-256 of all that lies in it, in hexadecimal. StoreIOError."""
        return digest(self.path)

    def broken(self, why: str) -> StoreError:
        """What the file is, or lacks, and the way out."""
        return StoreError(f"{self._what} {self.path} {why}; {self._remedy}")


def _metadata(path: Path) -> dict[str, Any]:
    """What a file whose header is sound says of itself."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        found = json.loads(file.read(length)).get("__metadata__", {})
    return dict(found)
