"""Writing the files of a store from the parts of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from m2cache_rs import _core
from m2cache_rs.convert import equalize
from m2cache_rs.convert.checkpoint import Part
from m2cache_rs.convert.equalize import Calibration
from m2cache_rs.convert.source import widen
from m2cache_rs.convert.tiles import tiles
from m2cache_rs.errors import CheckpointError, StoreError
from m2cache_rs.models import Architecture

Scale = NDArray[np.float32]
NORMS = {matrix: norm for norm, matrices in equalize.READERS.items() for matrix in matrices}

_STATISTICS_BUDGET = 16 << 20


class FileWriter:
    """Writes one file after the other; `advance` is told the bytes of every tile that was read."""

    def __init__(
        self,
        writer: _core.StoreWriter,
        architecture: Architecture,
        advance: Callable[[int], None],
        equalized: bool = False,
        calibration: Calibration | None = None,
    ) -> None:
        self.writer = writer
        self.architecture = architecture
        self.advance = advance
        self.equalized = equalized
        self.calibration = calibration

    def write(self, name: str, layer: int, parts: Mapping[str, Part]) -> str:
        """Writes one file (`layer` only names it in errors and statistics); returns the writer's entry."""
        try:
            scales = self._scales(layer, parts)
            self.writer.begin(name)
            self._vectors(parts, scales)
            for group in self._groups(parts):
                self._records(
                    {matrix: parts[matrix] for matrix in group}, scales.get(NORMS.get(group[0], ""))
                )
            return self.writer.end()
        except (CheckpointError, StoreError) as err:
            raise CheckpointError(f"{name.removesuffix('.safetensors')}: {err}") from err

    def work(self, parts: Mapping[str, Part]) -> int:
        """The bytes that `write` reads of these parts' matrices."""
        read = [matrix for group in self._groups(parts) for matrix in group]
        again = [matrix for matrix in read if matrix in NORMS] if self.equalized else []
        return sum(parts[matrix].bytes for matrix in read + again)

    def _groups(self, parts: Mapping[str, Part]) -> list[tuple[str, ...]]:
        """Matrices that are written together: a neuron's, else each alone."""
        ffn = self.architecture.ffn_matrices
        single = [(matrix,) for matrix in ("q", "k", "v", "o", "embed", "head") if matrix in parts]
        return [*single, ffn] if ffn[0] in parts else [*single]

    def _scales(self, layer: int, parts: Mapping[str, Part]) -> dict[str, Scale]:
        """The column factors by norm; none for a tied head, which is the embedding as well."""
        if not self.equalized:
            return {}
        norms = [norm for norm in equalize.READERS if f"norm.{norm}" in parts]
        return {norm: self._scale(layer, norm, parts) for norm in norms if self._readers(norm, parts)}

    def _readers(self, norm: str, parts: Mapping[str, Part]) -> list[str]:
        return [matrix for matrix in equalize.READERS[norm] if matrix in parts]

    def _scale(self, layer: int, norm: str, parts: Mapping[str, Part]) -> Scale:
        hidden = self.architecture.hidden
        rms = self.calibration.of(layer, norm, hidden) if self.calibration else None
        size = equalize.activation_size(parts[f"norm.{norm}"].tensor.vector(), rms)
        wide = (
            tile for matrix in self._readers(norm, parts) for tile in self._wide_tiles(matrix, parts[matrix])
        )
        return equalize.factors(size, equalize.column_rms(wide, hidden))

    def _wide_tiles(self, matrix: str, part: Part) -> Iterator[Scale]:
        for tile in tiles({matrix: part}, self.architecture.records(matrix), _STATISTICS_BUDGET):
            self.advance(tile.bytes)
            values = widen(tile.matrices[matrix], tile.dtype)
            if not np.isfinite(values).all():
                raise CheckpointError(f"tensor {part.tensor.name} has values that are not finite")
            yield values

    def _vectors(self, parts: Mapping[str, Part], scales: Mapping[str, Scale]) -> None:
        for name, part in parts.items():
            if name.startswith(("norm.", "bias.")):
                values = part.tensor.vector()
                scale = scales.get(name.removeprefix("norm."))
                self.writer.vector(name, values if scale is None else values / scale)

    def _records(self, parts: Mapping[str, Part], scale: Scale | None) -> None:
        records = self.architecture.records(next(iter(parts)))
        for tile in tiles(parts, records):
            self.writer.records(tile.first, tile.dtype, tile.matrices, scale)
            self.advance(tile.bytes)
