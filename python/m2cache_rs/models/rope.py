"""Rotary embedding (Su et al., arXiv 2104.09864): inverse frequencies by every rule transformers has.

The arithmetic is float32 in transformers' order, with powers rounded once from float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2cache_rs.errors import M2CacheError, UnsupportedError
from m2cache_rs.models.fields import Fields

F32 = np.float32
Vector = NDArray[np.float32]
Rope = Mapping[str, Any]


def inverse_frequencies(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    """The angle per position of every rotary pair, and the factor on its cosine and sine.

    `rope` is the field of a validated `Architecture`, `context` its `context` (max_position_embeddings).
    `length` is the sequence's, that of the whole prompt when it is created (docs/design.md, 5).
    Only `dynamic` and `longrope` depend on it. transformers, too, looks at the whole prompt of a pass,
    but while it generates it changes the frequencies under keys that are already rotated; we keep them.

    Returns float32 `[head_dim / 2]` in radians per position, and the attention factor.
    Raises `UnsupportedError` where the parameters give no finite frequencies.
    """
    try:
        with np.errstate(all="ignore"):
            frequencies, factor = _RULES[rope["type"]](rope, head_dim, context, length)
    except (ZeroDivisionError, ValueError, OverflowError) as err:
        raise UnsupportedError(f"rope of type {rope['type']!r} cannot be computed: {err}") from err
    if not (np.isfinite(frequencies).all() and math.isfinite(factor)):
        raise UnsupportedError(f"rope of type {rope['type']!r} gives frequencies that are not finite")
    return frequencies, factor


def positions(rope: Rope, context: int) -> int:
    """How many positions a sequence may have: the context, or what the scaling stretches it to.

    A configuration with yarn gives the original context and a factor, one with dynamic only the factor; by
    the other types max_position_embeddings is already the whole.
    """
    factor = rope.get("factor", 1.0)
    if rope["type"] == "dynamic":
        return max(context, int(context * factor))
    original = rope["original_max_position_embeddings"] if rope["type"] == "yarn" else 0
    return max(context, int(original * factor))


def checked(
    rope: Rope, head_dim: int, file: str, error: type[M2CacheError], prefix: str = "rope."
) -> dict[str, Any]:
    """The parameters that the rope's type reads, each checked; like transformers, it ignores others.

    Raises `error` naming the parameter (behind `prefix`) and `file`, `UnsupportedError` for a type that is
    not known.
    """
    fields = Fields(rope, file, prefix, error)
    kind = fields.text("type", "default")
    if kind not in _PARAMETERS:
        known = ", ".join(sorted(_PARAMETERS))
        raise UnsupportedError(f"{file}: rope type {kind!r} is not supported; these are: {known}")
    values: dict[str, Any] = {"type": kind, "theta": fields.positive("theta", 10000.0)}
    for name in (*_PARAMETERS[kind], *_OPTIONAL.get(kind, ())):
        if fields.has(name) or name in _PARAMETERS[kind]:
            values[name] = _read(fields, name, head_dim)
    return values


def _read(fields: Fields, name: str, head_dim: int) -> Any:
    if name in ("short_factor", "long_factor"):
        return fields.numbers(name, head_dim // 2)
    if name == "original_max_position_embeddings":
        return fields.integer(name)
    if name == "truncate":
        return fields.flag(name, True)
    if name == "partial_rotary_factor":
        return _share(fields, name)
    return fields.positive(name) if name == "factor" else fields.number(name)


def _share(fields: Fields, name: str) -> float:
    value = fields.number(name)
    if not 0 <= value <= 1:
        raise fields.wrong(name, "a number from 0 to 1")
    return value


def _default(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    return F32(1) / _wavelengths(rope["theta"], head_dim), 1.0


def _linear(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    """Position interpolation (Chen et al., arXiv 2306.15595): every angle shrinks by `factor`."""
    return F32(1) / _wavelengths(rope["theta"], head_dim) / F32(rope["factor"]), 1.0


def _proportional(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    """Only the first share of the pairs turns; the others keep the frequency zero."""
    turning = int(rope.get("partial_rotary_factor", 1.0) * head_dim // 2)
    frequencies = np.zeros(head_dim // 2, F32)
    frequencies[:turning] = F32(1) / _wavelengths(rope["theta"], head_dim)[:turning]
    return frequencies / F32(rope.get("factor", 1.0)), 1.0


def _dynamic(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    """NTK-aware scaling: the base grows with the length beyond the context the model was trained on.

    transformers passes the length as a tensor once it exceeds the context: that arithmetic is float32.
    """
    factor, power = rope["factor"], head_dim / (head_dim - 2)
    if length <= context:
        base = rope["theta"] * ((factor * context / context) - (factor - 1)) ** power
    else:
        stretch = F32(factor) * F32(length) / F32(context) - F32(factor - 1)
        base = F32(rope["theta"]) * _power(stretch, power)
    return F32(1) / _wavelengths(base, head_dim), 1.0


def _yarn(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    """YaRN (Peng et al., arXiv 2309.00071, section 3.2): fast pairs extrapolate, slow ones interpolate."""
    original = rope["original_max_position_embeddings"]
    factor = rope.get("factor") or context / original
    low, high = _yarn_range(rope, head_dim, original)
    ramp = (np.arange(head_dim // 2, dtype=F32) - F32(low)) / F32(high - low)
    extrapolated = F32(1) - np.clip(ramp, F32(0), F32(1))
    wavelengths = _wavelengths(rope["theta"], head_dim)
    slow, fast = F32(1) / (F32(factor) * wavelengths), F32(1) / wavelengths
    return slow * (F32(1) - extrapolated) + fast * extrapolated, _yarn_attention(rope, factor)


def _yarn_range(rope: Rope, head_dim: int, original: int) -> tuple[float, float]:
    """The pairs between which the ramp lies: they turn `beta_fast` and `beta_slow` times in the context."""

    def pair(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope["theta"]))

    low, high = pair(rope.get("beta_fast") or 32), pair(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high


def _yarn_attention(rope: Rope, factor: float) -> float:
    if "attention_factor" in rope:
        return float(rope["attention_factor"])

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale(1.0)


def _longrope(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    """LongRoPE (Ding et al., arXiv 2402.13753): searched factors per pair, for short and for long."""
    original = rope["original_max_position_embeddings"]
    stretch = np.asarray(rope["long_factor" if length > original else "short_factor"], F32)
    frequencies = F32(1) / (stretch * _wavelengths(rope["theta"], head_dim))
    if "attention_factor" in rope:
        return frequencies, float(rope["attention_factor"])
    factor = rope.get("factor") or context / original
    return frequencies, math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _llama3(rope: Rope, head_dim: int, context: int, length: int) -> tuple[Vector, float]:
    """Llama 3.1: pairs slower than the original context shrink by `factor`, a band between is blended."""
    factor, original = F32(rope["factor"]), rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    plain = F32(1) / _wavelengths(rope["theta"], head_dim)
    turn = _quotient(2 * math.pi, plain)
    slow, fast = turn > F32(original / low), turn < F32(original / high)
    blend = (_quotient(original, turn) - F32(low)) / F32(high - low)
    blended = (F32(1) - blend) * plain / factor + blend * plain
    return np.where(slow, plain / factor, np.where(fast, plain, blended)), 1.0


def _wavelengths(theta: float | np.float32, head_dim: int) -> Vector:
    """theta ** (2i / head_dim) for every pair i."""
    wavelengths: Vector = _power(F32(theta), np.arange(0, head_dim, 2, dtype=F32) / F32(head_dim))
    return wavelengths


def _quotient(number: float, values: Vector) -> Vector:
    """number / values as torch rounds it: the reciprocal first."""
    return F32(1) / values * F32(number)


def _power(base: np.float32, exponent: Any) -> Any:
    """A float32 power through float64: float32 library functions differ between machines."""
    return np.power(np.float64(base), np.asarray(exponent, np.float64)).astype(F32)


_RULES: dict[str, Callable[[Rope, int, int, int], tuple[Vector, float]]] = {
    "default": _default,
    "linear": _linear,
    "proportional": _proportional,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}

_PARAMETERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "proportional": (),
    "dynamic": ("factor",),
    "yarn": ("original_max_position_embeddings",),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}

_OPTIONAL: dict[str, tuple[str, ...]] = {
    "proportional": ("partial_rotary_factor", "factor"),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "attention_factor"),
}
