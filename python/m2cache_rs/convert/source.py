"""Reading a checkpoint's weights in pieces: tiles of rows or columns by positional reads, no whole tensor."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.errors import CheckpointError, StoreIOError

Weights = NDArray[Any]
"""uint16 bit patterns (BF16, F16) or float32."""

ITEMS: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.uint16),
    "F32": np.dtype(np.float32),
}
"""The dtypes a checkpoint may have, and the arrays they are read into."""

BLOCK = 64
"""Rows turned at once by `columns`: the piece in flight stays in the L2 cache."""

_SAMPLES = 64
_SAMPLE_BYTES = 4096


class SourceTensor(Protocol):
    """A matrix or vector of a checkpoint. Reads are independent of each other."""

    @property
    def name(self) -> str:
        """Its name in the checkpoint."""
        ...

    @property
    def dtype(self) -> str:
        """A key of `ITEMS`."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the checkpoint."""
        ...

    def rows(self, first: int, last: int) -> Weights:
        """Rows `first..last` of a matrix, `[last - first, columns]`."""
        ...

    def columns(self, first: int, last: int) -> Weights:
        """Columns `first..last` of a matrix, turned: `[last - first, rows]`."""
        ...

    def vector(self) -> NDArray[np.float32]:
        """All values of a vector."""
        ...


@dataclass(frozen=True)
class SourceFile:
    """An open file of a checkpoint."""

    path: Path
    handle: io.FileIO

    @classmethod
    def open(cls, path: Path) -> SourceFile:
        """Opens for reading. Raises `StoreIOError`."""
        try:
            return cls(path, io.FileIO(path))
        except OSError as err:
            raise io_error("opening", path, err) from err

    def read(self, out: Weights, offset: int) -> None:
        """Fills a contiguous array. Raises `CheckpointError` at an early end, `StoreIOError`."""
        view = out.reshape(-1).view(np.uint8).data
        while view:
            try:
                count = os.preadv(self.handle.fileno(), [view], offset)
            except OSError as err:
                raise io_error("reading", self.path, err) from err
            if count == 0:
                raise CheckpointError(f"{self.path} ends at byte {offset}: it is truncated, fetch it again")
            view, offset = view[count:], offset + count

    def expect(self, offset: int, length: int) -> None:
        """Tells the kernel what is read next, so that many small reads wait for the disk together."""
        os.posix_fadvise(self.handle.fileno(), offset, length, os.POSIX_FADV_WILLNEED)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return os.fstat(self.handle.fileno()).st_size

    def fingerprint(self, header: int) -> str:
        """Hash of the first `header` bytes and of 64 samples of the rest.

        It tells checkpoints apart that were trained further; it does not prove that every byte is the same.
        """
        digest = hashlib.sha256()
        spread = max(self.size - header - _SAMPLE_BYTES, 0)
        begins = [header + spread * index // (_SAMPLES - 1) for index in range(_SAMPLES)]
        for begin, length in [(0, header), *((at, min(_SAMPLE_BYTES, self.size - at)) for at in begins)]:
            piece = np.empty(length, np.uint8)
            self.read(piece, begin)
            digest.update(piece.data)
        return digest.hexdigest()[:32]


def io_error(action: str, path: Path, err: OSError) -> StoreIOError:
    """`err` with what was being done to which file; keeps the error number."""
    error = StoreIOError(f"{action} {path}: {err.strerror or err}")
    error.errno = err.errno
    return error


@dataclass(frozen=True)
class FileTensor:
    """A tensor that lies row after row in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: SourceFile
    begin: int

    def rows(self, first: int, last: int) -> Weights:
        """Rows `first..last`, by one read."""
        out = np.empty((last - first, self.shape[1]), ITEMS[self.dtype])
        self.file.read(out, self.begin + first * self.shape[1] * out.itemsize)
        return out

    def columns(self, first: int, last: int) -> Weights:
        """Columns `first..last`, turned, by one read a row."""
        out = np.empty((last - first, self.shape[0]), ITEMS[self.dtype])
        piece = np.empty((BLOCK, last - first), out.dtype)
        row_bytes = self.shape[1] * out.itemsize
        begin = self.begin + first * out.itemsize
        for row in range(self.shape[0]):
            self.file.expect(begin + row * row_bytes, piece[0].nbytes)
        for row in range(0, self.shape[0], BLOCK):
            part = piece[: self.shape[0] - row]
            for index, line in enumerate(part):
                self.file.read(line, begin + (row + index) * row_bytes)
            out[:, row : row + BLOCK] = part.T
        return out

    def vector(self) -> NDArray[np.float32]:
        """All values."""
        out = np.empty(self.shape, ITEMS[self.dtype])
        self.file.read(out, self.begin)
        return widen(out, self.dtype)


@dataclass(frozen=True)
class HalfSplit:
    """A query or key matrix whose rotary pairs lie side by side, read in half-split order.

    Row j of a head's first half is stored row 2j, row j of its second half stored row 2j + 1.
    """

    stored: FileTensor
    head_dim: int

    @property
    def name(self) -> str:
        """Name."""
        return self.stored.name

    @property
    def dtype(self) -> str:
        """Dtype."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        return self.stored.shape

    def rows(self, first: int, last: int) -> Weights:
        """Rows `first..last` of the reordered matrix; whole heads are read."""
        head = first // self.head_dim
        begin, end = head * self.head_dim, -(-last // self.head_dim) * self.head_dim
        pairs = self.stored.rows(begin, end).reshape(-1, self.head_dim // 2, 2, self.shape[1])
        halves = pairs.transpose(0, 2, 1, 3).reshape(end - begin, self.shape[1])
        return np.ascontiguousarray(halves[first - begin : last - begin])

    def columns(self, first: int, last: int) -> Weights:
        """Columns `first..last` of the reordered matrix, turned."""
        pairs = self.stored.columns(first, last).reshape(last - first, -1, self.head_dim // 2, 2)
        return np.ascontiguousarray(pairs.transpose(0, 1, 3, 2)).reshape(last - first, -1)

    def vector(self) -> NDArray[np.float32]:
        """All values; only matrices are reordered."""
        return self.stored.vector()


def widen(values: Weights, dtype: str) -> NDArray[np.float32]:
    """Stored values as float32, exactly."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return values.view(np.float16).astype(np.float32)
    return np.asarray(values, np.float32)
