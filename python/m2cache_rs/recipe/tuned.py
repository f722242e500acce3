"""Tuned recipes of a store by name, with what they were measured to cost: `STORE/profiles/recipes.json`.

    {"version": 1, "store": ID, "recipes": {"balanced": {"recipe": RECIPE, "measured": MEASURED}, ...}}

`m2cache tune` writes it. RECIPE is a recipe's JSON (recipe.py). MEASURED has `kl` and `kl_interval` (nats a
token to the same store dense at 16 bits, and its bootstrap 95 % interval, null of a text too short for one),
`perplexity`, `bytes_per_token` (weights of all parts that a decode token touches), `bits_per_weight`
(of the FFN, selection included), `tokens`, and `text`, the SHA-256 of the text, in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2cache_rs.errors import StoreError, UsageError
from m2cache_rs.recipe.cut import number
from m2cache_rs.recipe.profiles import FOLDER, read_json, write_json
from m2cache_rs.recipe.recipe import Recipe

EXACT = "exact"
QUALITIES = (EXACT, "high", "balanced", "fast")
"""The first needs no tuning: dense at the highest stored level."""
FILE = "recipes.json"
_VERSION = 1
_REMEDY = "`m2cache tune STORE --text FILE` makes it anew"


@dataclass(frozen=True)
class Measured:
    """What a recipe cost on a text; see the module for the units."""

    kl: float
    kl_interval: tuple[float, float] | None
    perplexity: float
    bytes_per_token: float
    bits_per_weight: float
    tokens: int
    text: str

    @classmethod
    def from_dict(cls, value: Any) -> Measured:
        """From its JSON. UsageError names the field."""
        fields = value if isinstance(value, Mapping) else {}
        interval, text = fields.get("kl_interval"), fields.get("text")
        if interval is not None and (not isinstance(interval, list) or len(interval) != 2):
            raise UsageError(f"measured.kl_interval is {interval!r:.60}; two numbers or null are needed")
        if not isinstance(text, str):
            raise UsageError(f"measured.text is {text!r:.60}; a digest is needed")
        low, high = (number(one, "measured.kl_interval") for one in interval or (0, 0))
        names = ("kl", "perplexity", "bytes_per_token", "bits_per_weight", "tokens")
        kl, perplexity, bytes_, bits, tokens = (
            number(fields.get(name), f"measured.{name}") for name in names
        )
        return cls(kl, (low, high) if interval else None, perplexity, bytes_, bits, int(tokens), text)

    def to_dict(self) -> dict[str, Any]:
        """Its JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Tuned:
    """A recipe that was measured."""

    recipe: Recipe
    measured: Measured


def load(store: Path, id: str) -> dict[str, Tuned] | None:
    """The tuned recipes of the store of that id by name, or None where it was never tuned. StoreError."""
    path = store / FOLDER / FILE
    value = read_json(path, id, _VERSION, _REMEDY)
    if value is None:
        return None
    recipes = value.get("recipes")
    if not isinstance(recipes, dict):
        raise StoreError(f"{path} has no recipes; {_REMEDY}")
    return {name: _tuned(path, name, one) for name, one in recipes.items()}


def save(store: Path, id: str, recipes: Mapping[str, Tuned]) -> Path:
    """Writes them in one step; where. UsageError for a name that no dial has; StoreIOError."""
    for name in recipes:
        if name not in QUALITIES[1:]:
            raise UsageError(f"a recipe is named {name!r}; the names are {', '.join(QUALITIES[1:])}")
    content = {
        name: {"recipe": one.recipe.to_dict(), "measured": one.measured.to_dict()}
        for name, one in recipes.items()
    }
    return write_json(store / FOLDER / FILE, id, _VERSION, {"recipes": content})


def named(store: Path, id: str, quality: str) -> Tuned:
    """The tuned recipe of that name. UsageError where the store has none, StoreError where it is broken."""
    recipes = load(store, id)
    if recipes is None:
        raise UsageError(
            f"quality {quality!r} is a tuned recipe, and {store} was never tuned: `m2cache tune {store} "
            f"--text FILE` does it; {EXACT!r} needs none"
        )
    if quality not in recipes:
        raise UsageError(
            f"quality {quality!r} is none of the tuned recipes of {store} ({', '.join(recipes) or 'none'})"
        )
    return recipes[quality]


def _tuned(path: Path, name: str, value: Any) -> Tuned:
    try:
        if not isinstance(value, Mapping) or not {"recipe", "measured"} <= set(value):
            raise UsageError("it lacks recipe or measured")
        return Tuned(Recipe.from_dict(value["recipe"]), Measured.from_dict(value["measured"]))
    except UsageError as error:
        raise StoreError(f"{path}, recipe {name!r:.40}: {error}; {_REMEDY}") from error
