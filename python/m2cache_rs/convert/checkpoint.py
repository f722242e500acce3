"""A source model: its architecture, its tensors checked against it, and the files that travel with them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2cache_rs.convert.source import ITEMS, SourceFile, SourceTensor
from m2cache_rs.errors import CheckpointError, UnsupportedError
from m2cache_rs.models import Architecture, Family, Tensor

_SHOWN = 5
_ROWS = 256  # compared at a time
_PACKED = (".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".SCB", ".absmax")


@dataclass(frozen=True)
class Part:
    """A matrix or vector of ours: the tensor that holds it, and whether our records are its columns."""

    tensor: SourceTensor
    columns: bool

    @property
    def bytes(self) -> int:
        """Size in the checkpoint."""
        return math.prod(self.tensor.shape) * ITEMS[self.tensor.dtype].itemsize

    @property
    def record_bytes(self) -> int:
        """Size of one record in the checkpoint."""
        return self.tensor.shape[0 if self.columns else 1] * ITEMS[self.tensor.dtype].itemsize


@dataclass(frozen=True)
class Checkpoint:
    """An open source model. `assets` are the files a store carries: a path, or content made here."""

    path: Path
    kind: str
    family: Family
    architecture: Architecture
    tensors: Mapping[str, SourceTensor]
    files: tuple[SourceFile, ...]
    headers: tuple[int, ...]
    assets: Mapping[str, Path | bytes]

    def layer(self, index: int) -> dict[str, Part]:
        """A decoder layer's matrices and vectors, by our names."""
        return self._parts(self.family.layer_tensors(self.architecture, index))

    def outer(self) -> dict[str, Part]:
        """Embedding, final norm and untied head, by our names."""
        return self._parts(self.family.outer_tensors(self.architecture))

    def parts(self) -> Iterator[dict[str, Part]]:
        """The parts of every file of a store, in file order: layers first."""
        yield from (self.layer(index) for index in range(self.architecture.layers))
        yield self.outer()

    def _parts(self, wanted: Mapping[str, Tensor]) -> dict[str, Part]:
        return {ours: Part(self.tensors[place.name], place.columns) for ours, place in wanted.items()}

    def fingerprint(self) -> dict[str, Any]:
        """What tells this source from another, without paths or times: names, sizes, digests."""
        weights = [
            {"name": file.path.name, "bytes": file.size, "digest": file.fingerprint(header)}
            for file, header in zip(self.files, self.headers, strict=True)
        ]
        assets = [{"name": name, "digest": _digest(content)} for name, content in sorted(self.assets.items())]
        return {"kind": self.kind, "weights": weights, "assets": assets}

    def stamps(self) -> list[list[int]]:
        """Size and modification time (ns) of each file of weights, as the files stand now."""
        status = [file.path.stat() for file in self.files]
        return [[entry.st_size, entry.st_mtime_ns] for entry in status]

    def close(self) -> None:
        """Closes the files."""
        for file in self.files:
            file.handle.close()


@contextmanager
def closing_on_error(files: list[SourceFile]) -> Iterator[None]:
    """Closes files that an error leaves without an owner."""
    try:
        yield
    except BaseException:
        for file in files:
            file.handle.close()
        raise


def read_asset(content: Path | bytes) -> bytes:
    """The bytes of an asset."""
    return content if isinstance(content, bytes) else content.read_bytes()


def _digest(content: Path | bytes) -> str:
    return hashlib.sha256(read_asset(content)).hexdigest()[:32]


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file. Raises `CheckpointError`."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} cannot be read as JSON: {err}") from err
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return values


def check(checkpoint: Checkpoint) -> list[str]:
    """Compares the tensors with what the architecture needs; returns warnings.

    Raises `CheckpointError` for tensors that are missing or of another shape, `UnsupportedError` for dtypes
    that are not converted and for quantised checkpoints whose configuration does not say so.
    """
    spec, family = checkpoint.architecture, checkpoint.family
    wanted = {
        place.name: place
        for layer in range(spec.layers)
        for place in family.layer_tensors(spec, layer).values()
    }
    wanted |= {place.name: place for place in family.outer_tensors(spec).values()}
    extra = [name for name in checkpoint.tensors if name not in wanted and not family.ignores(spec, name)]
    _check_present(checkpoint, [name for name in wanted if name not in checkpoint.tensors], extra)
    for place in wanted.values():
        _check_tensor(checkpoint.tensors[place.name], place)
    _check_tied(checkpoint)
    return (
        [f"the checkpoint has {_count(extra)} that this model does not use: {_list(extra)}"] if extra else []
    )


def _check_present(checkpoint: Checkpoint, missing: list[str], extra: list[str]) -> None:
    if not missing:
        return
    packed = [name for name in extra if name.endswith(_PACKED)]
    if packed:
        raise UnsupportedError(
            f"{checkpoint.path}: tensor {packed[0]} belongs to an already quantised checkpoint; "
            "convert the unquantised original"
        )
    raise CheckpointError(
        f"{checkpoint.path} lacks {_count(missing)} that its config needs: {_list(missing)}"
    )


def _check_tensor(tensor: SourceTensor, place: Tensor) -> None:
    if tensor.dtype not in ITEMS:
        raise UnsupportedError(
            f"tensor {tensor.name} has dtype {tensor.dtype}; only {', '.join(ITEMS)} are converted "
            "(a quantised checkpoint: convert its unquantised original)"
        )
    if tensor.shape != place.shape:
        have, want = list(tensor.shape), list(place.shape)
        raise CheckpointError(f"tensor {tensor.name} has shape {have}, but the config asks for {want}")


def _check_tied(checkpoint: Checkpoint) -> None:
    """A head beside a tied embedding must be the embedding: transformers takes one that differs as a head."""
    places = checkpoint.family.outer_tensors(replace(checkpoint.architecture, tied=False))
    head = checkpoint.tensors.get(places["head"].name)
    if not checkpoint.architecture.tied or head is None:
        return
    _check_tensor(head, places["head"])
    embed, rows = checkpoint.tensors[places["embed"].name], head.shape[0]
    for first in range(0, rows, _ROWS):
        last = min(first + _ROWS, rows)
        if head.rows(first, last).tobytes() != embed.rows(first, last).tobytes():
            raise CheckpointError(
                f"tensor {head.name} is not {embed.name}, but the config ties them (tie_word_embeddings); "
                "set that to false to convert both, or take the tensor out"
            )


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _list(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
