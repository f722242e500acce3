"""m2cache-rs: run language models bigger than the memory you have.

    from m2cache_rs import Model

    with Model.open("tale.m2c", cache="64MiB", precision=8) as model:
        for token in model.generate("Once upon a time"):
            print(token.text, end="", flush=True)

Names are imported on first use, so `import m2cache_rs` costs nothing; neither torch nor cupy is ever imported
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2cache_rs._core import __version__
    from m2cache_rs.errors import (
        BudgetError,
        CheckpointError,
        DamageError,
        M2CacheError,
        NumericsError,
        StoreError,
        StoreIOError,
        UnsupportedError,
        UsageError,
    )
    from m2cache_rs.runtime.session import Model, Token

__all__ = [
    "BudgetError",
    "CheckpointError",
    "DamageError",
    "M2CacheError",
    "Model",
    "NumericsError",
    "StoreError",
    "StoreIOError",
    "Token",
    "UnsupportedError",
    "UsageError",
    "__version__",
]

_HOMES = {"Model": "runtime.session", "Token": "runtime.session", "__version__": "_core"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'm2cache_rs' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"m2cache_rs.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
