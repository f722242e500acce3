"""What lies at a path that should be a store, when it is none: said with the way out."""

from __future__ import annotations

from pathlib import Path

from m2cache_rs.errors import M2CacheError, StoreError, UsageError

MANIFEST = "m2cache.json"
_MARKER = "m2cache-root.json"


def why_no_store(path: Path) -> M2CacheError | None:
    """The error for `path`, or None where a manifest lies in it.

    UsageError, or StoreError where files of a store lie there without their manifest.
    """
    if not path.exists():
        return UsageError(
            f"{path} does not exist; a store is a directory that `m2cache convert MODEL {path}` makes"
        )
    if path.name.endswith(".partial"):
        return UsageError(
            f"{path} is an unfinished conversion; run the same `m2cache convert` again, it goes on from there"
        )
    if not path.is_dir():
        return UsageError(_file(path))
    return None if (path / MANIFEST).exists() else _directory(path)


def holds_weights(directory: Path) -> bool:
    """Whether files of a store's weights lie in a directory, with or without a manifest."""
    return (directory / "embed.safetensors").exists() or any(directory.glob("layer-*.safetensors"))


def _file(path: Path) -> str:
    if (path.parent / MANIFEST).exists():
        return f"{path} is a file of a store; name the store itself, {path.parent}"
    return f"{path} is a file, not a store (a directory); make one with `m2cache convert MODEL {path}.m2c`"


def _directory(path: Path) -> M2CacheError:
    if (path / _MARKER).exists():
        return UsageError(
            f"{path} holds a part of a striped store; name the directory that has the {MANIFEST}"
        )
    if holds_weights(path):
        return StoreError(
            f"{path} is a store whose {MANIFEST} is missing, without which the rest cannot be read: "
            "put it back from a copy of this store, or convert the model again"
        )
    is_model = (path / "config.json").exists()
    kind, source = (
        ("a model, not a store", path) if is_model else (f"no store: it has no {MANIFEST}", "MODEL")
    )
    return UsageError(
        f"{path} is {kind}; make a store with `m2cache convert {source} {path.resolve().name}.m2c`"
    )
