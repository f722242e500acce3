"""How a store is cut: forms, planes and the three presets of FFN sections (docs/design.md, 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture

FORMS = ("symmetric", "affine")
GROUPS = (64, 32)
PLANES = ("base", "mid", "low")
STORED = {"base": 1, "mid": 2, "all": 3}
"""What `--planes` says, and how many planes that is."""
PRESETS = ("split", "bundled", "gated")
RELU_LIKE = ("relu", "relu2", "relu6")

_BLOCK = 64
_BLOCK_BYTES = (32, 32, 64)


@dataclass(frozen=True)
class Encoding:
    """The coding of the weights and the partition of the FFN into sections."""

    form: str
    group: int
    planes: int
    preset: str
    sections: tuple[tuple[tuple[str, str], ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The form in which the Rust core takes it; the preset is only a name for its sections."""
        coding = {"form": self.form, "group": self.group, "cells": [1, 1, 1]}
        sections = [[list(part) for part in section] for section in self.sections]
        return {"coding": coding, "planes": self.planes, "ffn_sections": sections}

    def bits_per_weight(self, hidden: int) -> dict[int, float]:
        """Bits read for a weight at each stored level, scales and the padding of a last block included."""
        blocks = -(-hidden // _BLOCK)
        scales = _BLOCK // self.group * (2 if self.form == "symmetric" else 4)
        read = [scales + sum(_BLOCK_BYTES[: planes + 1]) for planes in range(self.planes)]
        return {4 << planes: 8 * blocks * count / hidden for planes, count in enumerate(read)}


def choose(architecture: Architecture, form: str, group: int, planes: str, sections: str | None) -> Encoding:
    """The encoding of these options; without `sections`, the preset that suits the activation.

    A smooth activation gets `split` (selection scans gate and up), a ReLU-like one `bundled` (a neuron is all
    or nothing). Raises `UsageError`.
    """
    _known("form", form, FORMS)
    _known("group", group, GROUPS)
    _known("planes", planes, tuple(STORED))
    preset = sections or ("bundled" if architecture.activation in RELU_LIKE else "split")
    _known("sections", preset, PRESETS)
    if preset == "gated" and not architecture.gated:
        raise UsageError(
            "sections 'gated' needs an FFN with a gate, which this model lacks; use split or bundled"
        )
    stored = PLANES[: STORED[planes]]
    cut = [[part for part in section if part[1] in stored] for section in _preset(preset, architecture)]
    return Encoding(form, group, len(stored), preset, tuple(tuple(section) for section in cut if section))


def _known(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} {value!r} is not known; it is one of {', '.join(map(str, known))}")


def _preset(name: str, architecture: Architecture) -> list[list[tuple[str, str]]]:
    whole = architecture.ffn_matrices
    ahead = tuple(matrix for matrix in whole if matrix != "down")
    cuts = {
        "split": [(matrices, plane) for plane in PLANES for matrices in (ahead, ("down",))],
        "bundled": [(whole, "base"), (whole, "mid"), (whole, "low")],
        "gated": [
            (("gate",), "base"),
            (("gate",), "mid"),
            (("up", "down"), "base"),
            (("up", "down"), "mid"),
            (whole, "low"),
        ],
    }
    return [[(matrix, plane) for matrix in matrices] for matrices, plane in cuts[name]]
