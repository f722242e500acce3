"""What is computed of a model (docs/design.md, 2): a level for every part, and which neurons of the FFN.

A recipe speaks of shares, so that it means the same for every shape; `core` turns them into counts. As JSON:

    {"attn": 8, "head": 8, "embed": 16, "prompt": 8, "ffn": {"dense": 4}}
    {..., "ffn": {"certified": 16}}
    {..., "query_heads": {"active": 0.5}}
    {..., "ffn": {"sparse": {"selector": "plane", "layers": [{"active": 0.5, "bands": [0.25, 0.25, 0.5]}]}}}

`prompt` is the level of the FFN in prompt tokens, which are always dense. `bands` are shares of the active
neurons at 16, 8 and 4 bits. A single one of `layers` is every layer's. Instead of shares a layer may have
thresholds, {"above": {"scores": [1.5, 0.7, null], "most": 0.3}}, by level as bands are. Beside `selector`:
`candidates`, the share of neurons that a cascade's first step leaves (a number, or one for each layer), and
`predictor`, the name of the file that `lowrank` and `cascade` read (`m2cache profile` makes them).
`query_heads`: the share of the query heads that a decode token has, one for every layer or a list of each
layer's; all without it (`m2cache profile --query-heads` makes what chooses them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from m2cache_rs.config import LEVELS, PLANES, Precision
from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture
from m2cache_rs.recipe.cut import Cut, Shares, parse_cut, rounded, share

SELECTORS = ("plane", "lowrank", "cascade", "oracle")
PREDICTED = ("lowrank", "cascade")
_FIELDS = ("attn", "head", "embed", "prompt", "ffn")
_KNOWN = (*_FIELDS, "query_heads")
_SPARSE = ("selector", "layers", "candidates", "predictor")


@dataclass(frozen=True)
class Dense:
    """All neurons at one level."""

    bits: int


@dataclass(frozen=True)
class Certified:
    """All that the planes below do not prove to be off at this level: the bits of `Dense`."""

    bits: int


@dataclass(frozen=True)
class Sparse:
    """Those that a selector ranks highest; a single one of `layers` is every layer's.

    `selector` may also be a trace of the core's ({"trace": ...}, src/config/recipe.rs), for benches.
    """

    selector: str | Mapping[str, Any]
    layers: tuple[Cut, ...]
    candidates: tuple[float, ...] = ()
    predictor: str | None = None

    def __post_init__(self) -> None:
        """Refuses a cascade without candidates, and candidates of anything else."""
        if (self.selector == "cascade") != bool(self.candidates):
            raise UsageError("ffn.sparse: candidates go with the selector cascade, and that needs them")

    @property
    def bits(self) -> int:
        """The finest level of any layer."""
        return max(cut.bits for cut in self.layers)

    @property
    def paid(self) -> str:
        """The selector whose scores are computed."""
        return str(self.selector if isinstance(self.selector, str) else self.selector["trace"]["paid"])

    @property
    def predicts(self) -> bool:
        """Whether low-rank factors rank the neurons."""
        return self.paid in PREDICTED


Ffn = Dense | Certified | Sparse


@dataclass(frozen=True)
class Recipe:
    """Bits of attention, head and embedding rows, and of the FFN in prompts; the FFN of decode tokens.

    `query_heads`: shares of the query heads of decode tokens, a single one for every layer; None is all.
    """

    attn: int
    head: int
    embed: int
    prompt: int
    ffn: Ffn
    query_heads: tuple[float, ...] | None = None

    @classmethod
    def dense(cls, bits: int) -> Recipe:
        """Everything at one level."""
        return cls(bits, bits, bits, bits, Dense(bits))

    @classmethod
    def from_dict(cls, value: Any) -> Recipe:
        """From its JSON. UsageError says which field is wrong."""
        fields = _object(value, "the recipe", _KNOWN, _FIELDS)
        levels = {name: _level(fields[name], name) for name in _FIELDS[:-1]}
        return cls(**levels, ffn=_ffn(fields["ffn"]), query_heads=_query_heads(fields.get("query_heads")))

    def to_dict(self) -> dict[str, Any]:
        """Its JSON."""
        levels = {name: getattr(self, name) for name in _FIELDS[:-1]}
        found = {**levels, "ffn": _ffn_dict(self.ffn)}
        if self.query_heads is None:
            return found
        return {**found, "query_heads": {"active": _one_or_list(self.query_heads)}}

    @property
    def precision(self) -> Precision:
        """Bits of the parts: of the FFN the finest level that a decode token uses."""
        return Precision(self.attn, self.ffn.bits, self.head, self.embed)

    @property
    def of_prompt(self) -> Recipe:
        """What prompt tokens are computed by."""
        return replace(self, ffn=Dense(self.prompt), query_heads=None)

    @property
    def predictor(self) -> str | None:
        """The predictor that it reads, if it does."""
        return self.ffn.predictor if isinstance(self.ffn, Sparse) and self.ffn.predicts else None

    def with_predictor(self, name: str) -> Recipe:
        """The same with the predictor of that name."""
        return replace(self, ffn=replace(self.ffn, predictor=name)) if isinstance(self.ffn, Sparse) else self

    def check_planes(self, planes: int) -> None:
        """UsageError where a store of that many planes lacks one."""
        best = LEVELS[planes - 1]
        oracle = isinstance(self.ffn, Sparse) and self.ffn.paid == "oracle"
        needs = {"attn": self.attn, "ffn": self.ffn.bits, "the oracle": 16 if oracle else 4}
        needs |= {"prompt": self.prompt, "head": self.head, "embed": self.embed}
        for name, bits in needs.items():
            if bits > best:
                raise UsageError(
                    f"the recipe has {name} at {bits} bits, which needs the plane "
                    f"{PLANES[LEVELS.index(bits)]!r} that this store lacks (it has up to {best} bits): "
                    f"ask for {best}, or convert with more --planes"
                )

    def core(self, spec: Architecture) -> str:
        """What the core takes: JSON with counts (src/config/recipe.rs).

        A share of n neurons is the nearest count, halves upwards, and at least 1. Bands cut the count where
        their shares, summed from 16 bits down, round to. UsageError where layers are not as many as the
        model's.
        """
        found = {**self.to_dict(), "ffn": _core_ffn(self.ffn, spec)}
        if self.query_heads is not None:
            _check_layers("query_heads", self.query_heads, spec)
            found["query_heads"] = {"top": [rounded(one, spec.heads) for one in self.query_heads]}
        return json.dumps(found)


def _core_ffn(ffn: Ffn, spec: Architecture) -> dict[str, Any]:
    if not isinstance(ffn, Sparse):
        return _ffn_dict(ffn)
    for name, given in (("layers", ffn.layers), ("candidates", ffn.candidates)):
        _check_layers(name, given, spec)
    selector: Any = ffn.selector
    if selector == "cascade":
        _check_candidates(ffn, spec)
        selector = {"cascade": [rounded(share, spec.ffn) for share in ffn.candidates]}
    return {"sparse": {"selector": selector, "cuts": [cut.core(spec.ffn) for cut in ffn.layers]}}


def _check_candidates(ffn: Sparse, spec: Architecture) -> None:
    """A cascade keeps no more neurons than its first step leaves."""
    for layer in range(spec.layers):
        cut, left = one_or_each(ffn.layers, layer), one_or_each(ffn.candidates, layer)
        kept = cut.active if isinstance(cut, Shares) else cut.most
        if rounded(kept, spec.ffn) > rounded(left, spec.ffn):
            raise UsageError(
                f"the recipe keeps a share of {kept:g} of the neurons of layer {layer}, and its candidates "
                f"are {left:g}: raise candidates, or lower active"
            )


def one_or_each(given: tuple[Any, ...], layer: int) -> Any:
    """A layer's own; a single one is every layer's."""
    return given[layer] if len(given) > 1 else given[0]


def _check_layers(name: str, given: tuple[Any, ...], spec: Architecture) -> None:
    if len(given) not in (0, 1, spec.layers):
        raise UsageError(
            f"the recipe has {name} for {len(given)} layers, the model has {spec.layers}: give 1 for all, or "
            f"{spec.layers}"
        )


def _one_or_list(given: tuple[float, ...]) -> float | list[float]:
    return given[0] if len(given) == 1 else list(given)


def _query_heads(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    active = _object(value, "query_heads", ("active",), ("active",))["active"]
    found = active if isinstance(active, list) else [active]
    if not found:
        raise UsageError("query_heads.active is []; a share is needed, or a list of each layer's")
    return tuple(share(one, "query_heads.active") for one in found)


def _ffn_dict(ffn: Ffn) -> dict[str, Any]:
    if isinstance(ffn, Dense | Certified):
        return {type(ffn).__name__.lower(): ffn.bits}
    fields: dict[str, Any] = {"selector": ffn.selector, "layers": [cut.to_dict() for cut in ffn.layers]}
    if ffn.candidates:
        fields["candidates"] = _one_or_list(ffn.candidates)
    if ffn.predictor is not None:
        fields["predictor"] = ffn.predictor
    return {"sparse": fields}


def _ffn(value: Any) -> Ffn:
    kinds = ("dense", "certified", "sparse")
    fields = _object(value, "ffn", kinds, ())
    if len(fields) != 1:
        raise UsageError(f"ffn is {value!r:.60}; it must have one of {', '.join(kinds)}")
    ((kind, content),) = fields.items()
    if kind == "sparse":
        return _sparse(content)
    bits = _level(content, f"ffn.{kind}")
    return Dense(bits) if kind == "dense" else Certified(bits)


def _sparse(value: Any) -> Sparse:
    where = "ffn.sparse"
    fields = _object(value, where, _SPARSE, _SPARSE[:2])
    layers = fields["layers"]
    if not isinstance(layers, list) or not layers:
        raise UsageError(
            f"{where}.layers is {layers!r:.60}; a list is needed, of one for every layer or of all"
        )
    cuts = tuple(parse_cut(one, f"{where}.layers[{i}]") for i, one in enumerate(layers))
    predictor = fields.get("predictor")
    if predictor is not None and not isinstance(predictor, str):
        raise UsageError(f"{where}.predictor is {predictor!r:.60}; a name is needed")
    return Sparse(_selector(fields["selector"], where), cuts, _candidates(fields, where), predictor)


def _selector(value: Any, where: str) -> str | Mapping[str, Any]:
    traced = isinstance(value, Mapping) and set(value) == {"trace"} and isinstance(value["trace"], Mapping)
    if traced and value["trace"].get("paid") in SELECTORS:
        return dict(value)
    if value not in SELECTORS:
        raise UsageError(f"{where}.selector is {value!r:.60}; it must be one of {', '.join(SELECTORS)}")
    return str(value)


def _candidates(fields: Mapping[str, Any], where: str) -> tuple[float, ...]:
    given = fields.get("candidates", [])
    found = given if isinstance(given, list) else [given]
    return tuple(share(one, f"{where}.candidates") for one in found)


def _level(value: Any, where: str) -> int:
    if isinstance(value, bool) or value not in LEVELS:
        raise UsageError(f"{where} is {value!r:.60}; the levels are 4, 8 and 16 bits")
    return int(value)


def _object(value: Any, where: str, known: tuple[str, ...], needed: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is {value!r:.60}; an object with {', '.join(needed or known)} is needed")
    for name in value:
        if name not in known:
            raise UsageError(f"{where} names {name!r:.60}; known are {', '.join(known)}")
    for name in needed:
        if name not in value:
            raise UsageError(f"{where} lacks {name}")
    return value
