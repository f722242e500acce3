"""What a synthetic model looks like: a configuration as published with the weights that are not here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2cache_rs.convert.checkpoint import read_config
from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture, architecture_of

FOLDER = Path(__file__).with_name("shapes")
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
"""qwen-7b is Qwen1.5-7B: the sizes of the first Qwen-7B and, like it, biases in q, k and v alone."""


@dataclass(frozen=True)
class Shape:
    """A name for tables, the config.json and what it says."""

    name: str
    config: dict[str, Any]
    architecture: Architecture

    @classmethod
    def of(cls, text: str) -> Shape:
        """One of NAMES, or the path of any config.json.

        Raises `UsageError` for neither, `CheckpointError` and `UnsupportedError` for what cannot be computed.
        """
        path = FOLDER / f"{text}.json" if text in NAMES else Path(text)
        if not path.is_file():
            raise UsageError(f"{text} is no file; name a config.json or one of {', '.join(NAMES)}")
        config = read_config(path)
        name = text if text in NAMES else path.parent.name or path.stem
        return cls(name, config, architecture_of(config, str(path))[1])
