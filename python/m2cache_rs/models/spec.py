"""The architecture spec: what a model is, as data that every backend reads and the manifest carries."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m2cache_rs.errors import M2CacheError, StoreError, UnsupportedError
from m2cache_rs.models import rope

ACTIVATIONS = ("silu", "relu", "relu2", "relu6", "gelu", "gelu_tanh", "quick_gelu")
"""Canonical names of the FFN activations that are computed."""

BIASES = ("q", "k", "v", "o", "gate", "up", "down")
"""Matrices that may have a bias, in the order in which a spec lists them."""

MAX_DIM = 1 << 24
"""Sizes beyond which a number is an attack, not a model; the Rust side has the same limits."""

_SIZES = {
    "layers": 1 << 14,
    "hidden": 1 << 20,
    **dict.fromkeys(("ffn", "heads", "kv_heads", "head_dim", "vocab", "context"), MAX_DIM),
}
_NUMBERS = ("norm_eps", "attention_scale", "partial_rope")
_FLAGS = ("gated", "tied", "qk_norm", "parallel_blocks", "alibi")


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer as data (docs/design.md, 4 and 5b).

    Sizes are counts; `head_dim` may differ from `hidden / heads`; `rope` holds `type`, `theta` and the type's
    parameters by the names transformers gives them (see `m2cache_rs.models.rope`).
    The fields from `moe` on name what later versions will compute; a value other than the default is refused.
    """

    family: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    norm_eps: float
    activation: str
    gated: bool
    tied: bool
    biases: tuple[str, ...]
    attention_scale: float
    rope: Mapping[str, Any]
    rope_layout: str = "half"
    moe: Mapping[str, Any] | None = None
    sliding_window: int | None = None
    qk_norm: bool = False
    soft_cap: float | None = None
    partial_rope: float = 1.0
    parallel_blocks: bool = False
    alibi: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON values, in a fixed order (conversion is deterministic)."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"biases": list(self.biases), "rope": dict(self.rope)}

    def to_json(self) -> str:
        """The spec as JSON text, the form in which the Rust core takes it."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """Reads a manifest's spec. Raises `StoreError` for a missing, unknown or wrong field."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - set(values)):
            raise StoreError(f"architecture lacks {', '.join(missing)}")
        if unknown := sorted(set(values) - set(fields)):
            raise StoreError(f"architecture has unknown fields {', '.join(unknown)}")
        if not isinstance(values["biases"], (list, tuple)) or not isinstance(values["rope"], Mapping):
            raise StoreError("architecture.biases must be a list and architecture.rope an object")
        spec = cls(**{**values, "biases": tuple(values["biases"]), "rope": dict(values["rope"])})
        spec.validate()
        return spec

    def validate(
        self,
        error: type[M2CacheError] = StoreError,
        where: str = "architecture.",
        names: Mapping[str, str] | None = None,
    ) -> None:
        """Raises `error` for a value that makes no sense, `UnsupportedError` for what is not yet computed.

        A message begins with `where` and calls the fields by `names`, else by our own.
        """
        problem = self._bad_type() or self._bad_value()
        if problem is not None:
            field, what = problem
            raise error(f"{where}{(names or {}).get(field, field)} {what}")
        place = where.rstrip(".: ")
        rope.checked(self.rope, self.head_dim, place, error)
        try:
            rope.inverse_frequencies(self.rope, self.head_dim, self.context, self.context)
        except UnsupportedError as err:
            raise UnsupportedError(f"{place}: {err}") from err
        self._refuse_unbuilt()

    def _bad_type(self) -> tuple[str, str] | None:
        """The first field of a wrong type or size, and what is wrong with it."""
        for name, most in _SIZES.items():
            value = getattr(self, name)
            if type(value) is not int or not 0 < value <= most:
                return name, f"is {value!r}; it must be an integer from 1 to {most}"
        for name in _NUMBERS:
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                return name, f"is {value!r}; it must be a finite number, not negative"
        for name in _FLAGS:
            if type(getattr(self, name)) is not bool:
                return name, f"is {getattr(self, name)!r}; it must be true or false"
        return None

    def _bad_value(self) -> tuple[str, str] | None:
        if self.heads % self.kv_heads:
            return "heads", f"is {self.heads}, no multiple of kv_heads, {self.kv_heads}"
        if self.heads * self.head_dim > MAX_DIM:
            return "heads", f"is {self.heads}, which times head_dim, {self.head_dim}, is above {MAX_DIM}"
        if self.head_dim % 2:
            return "head_dim", f"is {self.head_dim}; rotary embedding needs pairs, so an even number"
        if self.activation not in ACTIVATIONS:
            return "activation", f"is {self.activation!r}; known are {', '.join(ACTIVATIONS)}"
        possible = [name for name in BIASES if self.gated or name != "gate"]
        wrong = [name for name in self.biases if name not in possible]
        return ("biases", f"names {wrong[0]!r}, which no layer of this model has") if wrong else None

    def _refuse_unbuilt(self) -> None:
        computed = {
            "rope_layout": "half",
            "moe": None,
            "sliding_window": None,
            "qk_norm": False,
            "soft_cap": None,
            "partial_rope": 1.0,
            "parallel_blocks": False,
            "alibi": False,
        }
        for name, value in computed.items():
            if getattr(self, name) != value:
                raise UnsupportedError(f"architecture.{name} asks for what this version does not compute")

    @property
    def layer_matrices(self) -> tuple[str, ...]:
        """Names of a layer's matrices, in file order."""
        return ("q", "k", "v", "o", *self.ffn_matrices)

    @property
    def ffn_matrices(self) -> tuple[str, ...]:
        """Names of the FFN's matrices, in file order."""
        return ("gate", "up", "down") if self.gated else ("up", "down")

    def records(self, matrix: str) -> int:
        """Number of records of a matrix, each `hidden` long."""
        if matrix in ("q", "o"):
            return self.heads * self.head_dim
        if matrix in ("k", "v"):
            return self.kv_heads * self.head_dim
        return self.ffn if matrix in ("gate", "up", "down") else self.vocab

    def bias_length(self, matrix: str) -> int:
        """Length of a matrix's bias: its output dimension."""
        return self.hidden if matrix in ("o", "down") else self.records(matrix)
