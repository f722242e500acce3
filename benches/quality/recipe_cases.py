"""What recipes are measured on: a reader's checkpoint, or the tale models with and without outliers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import text
from m2cache_rs import Model
from m2cache_rs.config import format_size
from m2cache_rs.convert import convert
from m2cache_rs.eval.windows import Window
from m2cache_rs.eval.windows import windows as cut
from m2cache_rs.machine.memory import free_memory
from m2cache_rs.runtime.opening import Opened
from numpy.typing import NDArray

if TYPE_CHECKING:
    from subjects import Subject

# What a checkpoint takes in float32, read, turned and written, by its size in 16 bits.
_FLOATS = 6
# Tokens that predictors learn from.
LEARNING = 2048


@dataclass(frozen=True)
class Case:
    """A store with the windows it is measured on and a file of other text to learn from.

    `subject` gives the checkpoint in float32, from which llama.cpp's files are made; None: there is none.
    """

    name: str
    store: Path
    windows: Sequence[Window]
    learning: Path
    subject: Callable[[], Subject] | None = None


def tales(shared: Path, scratch: Path, per_file: int, window: int) -> Iterator[Case]:
    """Both tale models as trained and with injected outliers; of every window of held-out text its first
    `window` tokens.

    Those with outliers are not equalised: that undoes powers of two to the bit, and with it the difference.
    Raises ValueError where it does not.
    """
    from subjects import MODELS, subjects

    learning = scratch / "learning.txt"
    for model in MODELS:
        tokenizer = shared / "data/models" / model / "tokenizer.json"
        learning.write_text(text.training(tokenizer, shared / "data/text", LEARNING))
        for subject in subjects(shared, model, scratch, per_file):
            windows = [Window(ids[:window], 1, 0) for ids in subject.windows]
            plain = subject.variant == "plain"
            stores = [_store(subject, scratch, equalize) for equalize in (True, False)]
            if plain:
                expected = _codes(stores[0], windows[0])
            elif not np.array_equal(_codes(stores[0], windows[0]), expected):
                raise ValueError(f"{model}: equalisation does not undo the injected outliers")
            name = f"{model}, as trained" if plain else f"{model}, outliers injected"
            yield Case(name, stores[not plain], windows, learning, partial(_same, subject))


def _store(subject: Subject, scratch: Path, equalize: bool) -> Path:
    store = scratch / f"{subject.model}-{subject.variant}-{equalize}.m2c"
    convert(subject.source, store, equalize=equalize)
    return store


def _codes(store: Path, window: Window) -> NDArray[np.float32]:
    """What 4 bits predict: other codes give other logits."""
    with Model.open(store, ctx=len(window.ids), precision=4) as model:
        return model.logits(window.ids)


def _same(subject: Subject) -> Subject:
    return subject


def own(
    checkpoint: Path, content: str, learning: str | None, out: Path, tokens: int, window: int
) -> Iterator[Case]:
    """A reader's checkpoint, converted into `out` unless it is there (a store is taken as it is).

    Without a text to learn from, the first half of the other is, and what is measured is the second half.
    """
    if learning is None:
        middle = content.find("\n", len(content) // 2) + 1 or len(content) // 2
        learning, content = content[:middle], content[middle:]
    kept = out / "learning.txt"
    kept.write_text(learning)
    given = (checkpoint / "manifest.json").exists()
    store = checkpoint if given else out / f"{checkpoint.name}.m2c"
    if not store.exists():
        convert(checkpoint, store)
    windows = _windows(store, content, tokens, window)
    yield Case(checkpoint.name, store, windows, kept, None if given else partial(_read, checkpoint, windows))


def _read(checkpoint: Path, windows: Sequence[Window]) -> Subject:
    needed = _FLOATS * sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    if needed > (free := free_memory()):
        raise ValueError(
            f"making llama.cpp's files of this checkpoint takes {format_size(needed)}, {format_size(free)} "
            "are free: name files of the same model instead (--gguf)"
        )
    import checkpoints
    from subjects import Subject

    whole = np.stack([one.ids for one in windows if len(one.ids) == len(windows[0].ids)])
    return Subject(checkpoint.name, "plain", checkpoint, checkpoints.read(checkpoint), whole, [])


def _windows(store: Path, content: str, tokens: int, window: int) -> list[Window]:
    opened = Opened(store)
    with Model.open(opened, ctx=min(window, opened.context), precision=4) as model:
        found = list(cut(model, content, tokens, window))
    if not found:
        raise ValueError("the text has no token to predict: two tokens are the least")
    return found
