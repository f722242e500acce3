"""What is compared: a shape at a level, its store and its GGUF file, made once and kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2cache_rs import _core
from m2cache_rs.errors import UsageError
from m2cache_rs.plan.footprint import sections
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.opening import open_store
from shape import Shape
from stand_in import tokens
from synth import synthesize

from limits.peer import gguf_shape
from limits.peer.program import Peer
from limits.tell import tell

PLANES = {4: "base", 8: "mid", 16: "all"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Subject:
    """A shape at a level, in a folder of made files.

    `planes`: what the store holds where that is more than the level needs; `kind`: type of the GGUF file.
    """

    shape: Shape
    level: int
    work: Path
    planes: str | None = None
    kind: str = "Q4_0"

    @property
    def store(self) -> Path:
        """Our store."""
        return self.work / f"{self.shape.name}-{self.stored}.m2c"

    @property
    def gguf(self) -> Path:
        """llama.cpp's file."""
        return self.work / f"{self.shape.name}-{self.kind}.gguf"

    @property
    def gguf_bytes(self) -> int:
        """Size of that file's tensors, whether it is there or not: what percentages are of."""
        return gguf_shape.size(self.shape.architecture, self.kind)

    @property
    def stored(self) -> str:
        """Planes in the store."""
        return self.planes or PLANES[self.level]

    def make_store(self) -> None:
        """Makes the store unless it is there. Raises `UsageError` where something else lies there."""
        if not self.store.exists():
            tell(f"making {self.store}")
            synthesize(self.shape, self.store, self.stored)
        manifest = json.loads(open_store(self.store).manifest())
        if not manifest["synthetic"] or _exact(manifest["architecture"]) != _exact(
            self.shape.architecture.to_dict()
        ):
            raise UsageError(
                f"{self.store} is no synthetic store of {self.shape.name}; move it out of --work"
            )

    def make_gguf(self, peer: Peer) -> None:
        """Makes the file unless it is there. Raises `UsageError` without room, `PeerError`."""
        if self.gguf.exists() and self.gguf.stat().st_size >= self.gguf_bytes:
            return
        free = shutil.disk_usage(self.work).free
        if free < self.gguf_bytes * 1.01:
            raise UsageError(
                f"{self.gguf} needs {self.gguf_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            )
        tell(f"making {self.gguf}")
        peer.write(self.shape.architecture, self.kind, self.gguf)

    def chunk_bytes(self) -> int:
        """Bytes of 256 records of one section, the least that a sweep reads at once."""
        return 256 * min(one.stride for one in sections(json.loads(open_store(self.store).layout())))

    def touched(self) -> int:
        """Bytes of the store that one decoded token touches."""
        return int(self._needs()["token_bytes"])

    def resident(self) -> int:
        """Bytes of cache that hold all of the store at the level."""
        return int(self._needs()["all"])

    def _needs(self) -> dict[str, Any]:
        manifest = json.loads(open_store(self.store).manifest())
        architecture, encoding = (json.dumps(manifest[name]) for name in ("architecture", "encoding"))
        recipe = Recipe.dense(self.level).core(self.shape.architecture)
        found: dict[str, Any] = json.loads(_core.needs(architecture, encoding, recipe))
        return found

    def kv_bytes(self, positions: int) -> int:
        """Bytes of keys and values, in f16."""
        spec = self.shape.architecture
        return positions * spec.layers * spec.kv_heads * spec.head_dim * 2 * 2

    def prompt(self, length: int) -> str:
        """A text of `length` tokens: the stand-in tokenizer makes one of each letter."""
        return (LETTERS * (length // len(LETTERS) + 1))[:length]

    def ids(self, length: int) -> list[int]:
        """The same prompt as ids."""
        known = {token: index for index, token in enumerate(tokens(self.shape.architecture.vocab))}
        return [known.get(letter, 0) for letter in self.prompt(length)]


def _exact(architecture: dict[str, Any]) -> dict[str, Any]:
    """Without the numbers that a manifest has in single precision."""
    return {name: value for name, value in architecture.items() if not isinstance(value, float)}
