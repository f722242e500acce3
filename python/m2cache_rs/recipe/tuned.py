"""Tuned recipes of a store by name, with what they were measured to cost: `STORE/profiles/recipes.json`.

    {"version": 1, "store": ID,
     "recipes": {"balanced": {"recipe": RECIPE, "measured": MEASURED, "files": FILES}, ...}}

`m2cache tune` writes it. RECIPE is a recipe's JSON (recipe.py). MEASURED has `kl` and `kl_interval` (nats a
token to the same store dense at 16 bits, and its bootstrap 95 % interval, null of a text too short for one),
`perplexity`, `bytes_per_token` (weights of all parts that a decode token touches), `bits_per_weight`
(of the FFN, selection included), `tokens`, and `text`, the SHA-256 of the text, in hexadecimal. FILES has the
SHA-256 of each file of `profiles/` that the recipe read when it was measured (its predictor), by name: with
another one it costs something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from m2cache_rs.errors import StoreError, UsageError
from m2cache_rs.recipe import heads, predictors
from m2cache_rs.recipe.cut import number
from m2cache_rs.recipe.profiles import FOLDER, digest, read_json, write_json
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
    """A recipe that was measured, with `files` of the store's profiles; see the module."""

    recipe: Recipe
    measured: Measured
    files: Mapping[str, str] = field(default_factory=dict)

    def changed(self, store: Path) -> list[str]:
        """Files that the recipe reads and that are not those it was measured with. StoreIOError."""
        now = files_of(store, self.recipe)
        return [name for name, found in now.items() if self.files.get(name) != found]


def files_of(store: Path, recipe: Recipe) -> dict[str, str]:
    """Digests of what a recipe reads of a store's profiles while it runs, by name, as far as that is there.

    A cut by thresholds has their scores in the recipe, and reads nothing. StoreIOError.
    """
    paths = [predictors.path_of(store, recipe.predictor)] if recipe.predictor else []
    paths += [heads.path_of(store)] if recipe.query_heads is not None else []
    return {path.name: digest(path) for path in paths if path.exists()}


def path_of(store: Path) -> Path:
    """Where a store's tuned recipes lie."""
    return store / FOLDER / FILE


def load(store: Path, id: str) -> dict[str, Tuned] | None:
    """The tuned recipes of the store of that id by name, or None where it was never tuned. StoreError."""
    path = path_of(store)
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
        name: {
            "recipe": one.recipe.to_dict(),
            "measured": one.measured.to_dict(),
            "files": dict(one.files),
        }
        for name, one in recipes.items()
    }
    return write_json(path_of(store), id, _VERSION, {"recipes": content})


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
            f"quality {quality!r} is none of the tuned recipes of {store} ({', '.join(recipes) or 'none'}): "
            f"`m2cache tune {store} --text FILE` makes all of them; {EXACT!r} needs none"
        )
    return recipes[quality]


def _tuned(path: Path, name: str, value: Any) -> Tuned:
    try:
        if not isinstance(value, Mapping) or not {"recipe", "measured"} <= set(value):
            raise UsageError("it lacks recipe or measured")
        files = value.get("files", {})
        if not isinstance(files, Mapping):
            raise UsageError(f"files is {files!r:.60}; digests by name are needed")
        return Tuned(Recipe.from_dict(value["recipe"]), Measured.from_dict(value["measured"]), files)
    except UsageError as error:
        raise StoreError(f"{path}, recipe {name!r:.40}: {error}; {_REMEDY}") from error
