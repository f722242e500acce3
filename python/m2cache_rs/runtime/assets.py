"""What a store carries beside weights: the model's own configuration, generation settings and tokenizer."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2cache_rs.errors import StoreError, StoreIOError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_LOG = logging.getLogger("m2cache_rs")


@dataclass(frozen=True)
class Assets:
    """The source model's own files in a store; each is read when first asked for."""

    store: Path

    @cached_property
    def generation(self) -> Mapping[str, Any]:
        """generation_config.json; empty where the model has none."""
        return self._json("generation_config.json")

    @property
    def bos(self) -> int | None:
        """The id that begins a text, if the model has one."""
        ids = self._ids("bos_token_id")
        return ids[0] if ids else None

    @property
    def eos(self) -> frozenset[int]:
        """The ids that end a text."""
        return frozenset(self._ids("eos_token_id"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. UnsupportedError where the store has none, StoreError where it is broken."""
        from tokenizers import Tokenizer

        path = self.store / "tokenizer.json"
        if not path.exists():
            raise UnsupportedError(
                f"{self.store} has no tokenizer.json: give token ids, or convert again with one"
            )
        content = _content(path)  # tokenizers takes no path that is not UTF-8
        try:
            return Tokenizer.from_str(content.decode())
        except Exception as error:  # tokenizers raises bare Exception
            raise StoreError(
                f"{path} is no tokenizer: {error}; mend the model's and convert it again"
            ) from error

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the tokenizer's special ones. UsageError: no text, or not UTF-8."""
        if not isinstance(text, str):
            raise UsageError(f"the text is {text!r}; a str is needed")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not UTF-8 (character {error.start})") from error
        return list(self.tokenizer.encode(text).ids)

    def prompt(self, prompt: str | Sequence[int]) -> Sequence[int]:
        """Ids of a prompt; an empty one begins with the token that begins a text. UsageError without one."""
        if isinstance(prompt, bytes) or not isinstance(prompt, str | Sequence | np.ndarray):
            raise UsageError(f"the prompt is {prompt!r:.60}; a text or a list of token ids is needed")
        ids = self.encode(prompt) if isinstance(prompt, str) else prompt
        if len(ids) == 0 and self.bos is not None:
            ids = [self.bos]
        if len(ids) == 0:
            raise UsageError(
                "the prompt is empty and the model has no token that begins a text: give a prompt"
            )
        if len(prompt) == 0:
            _LOG.warning("the prompt is empty: the text begins with the model's own first token (%d)", ids[0])
        return ids

    @cached_property
    def has_tokenizer(self) -> bool:
        """Whether ids can become text."""
        return (self.store / "tokenizer.json").exists()

    def _ids(self, name: str) -> list[int]:
        """Ids of a role: the generation config's word, else the model config's."""
        value = self.generation.get(name)
        value = self._config.get(name) if value is None else value
        ids: list[int] = [] if value is None else value if isinstance(value, list) else [value]
        if any(type(one) is not int for one in ids):
            raise StoreError(f"{self.store}: {name} is {value!r}; an id or a list of ids is needed")
        return ids

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        return self._json("config.json")

    def _json(self, name: str) -> Mapping[str, Any]:
        path = self.store / name
        if not path.exists():
            return {}
        content = _content(path)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{path} cannot be read: {error}; mend the model's and convert it again"
            ) from error
        if not isinstance(value, dict):
            raise StoreError(f"{path} is no JSON object; mend the model's and convert it again")
        return value


def _content(path: Path) -> bytes:
    """The bytes of an asset. StoreIOError with the system's reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        few = "; raise the limit of open files (ulimit -n)" if error.errno == errno.EMFILE else ""
        refused = StoreIOError(f"{path} cannot be read: {error.strerror or error}{few}")
        refused.errno = error.errno
        raise refused from error
