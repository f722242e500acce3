"""What is measured: a model, plain or with injected outliers, on fixed text against its float32 original."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import checkpoints
import metrics
import numpy as np
import text
from checkpoints import Checkpoint
from metrics import Float, Logits, Score
from numpy.typing import NDArray
from results import Row

MODELS = ("tale-silu", "tale-relu")
VARIANTS = ("plain", "injected")


@dataclass(frozen=True)
class Subject:
    """One of MODELS in one of VARIANTS.

    `source` is its Hugging Face directory, `windows` [windows, T] the text, `reference` the logits [T, vocab]
    of the original in float32, a window each.
    """

    model: str
    variant: str
    source: Path
    checkpoint: Checkpoint
    windows: NDArray[np.uint32]
    reference: list[Float]

    def score(self, logits: Logits) -> Score:
        """How far `logits` are from the original's."""
        return metrics.score(logits, self.windows, self.reference)

    def row(self, score: Score, bits: float, system: str, form: str, equalised: str, reading: str) -> Row:
        """A line of the table about this subject."""
        return Row(
            self.model,
            self.variant,
            system,
            form,
            equalised,
            reading,
            bits,
            float(score.kl.mean()),
            metrics.interval(score.kl),
            score.perplexity,
            float(score.top1.mean()),
            tuple(float(f"{value:.6g}") for value in score.kl),
        )


def subjects(shared: Path, model: str, scratch: Path, per_file: int) -> Iterator[Subject]:
    """The model as it is, then with outliers, written to `scratch`.

    Raises ValueError if the injection changed a single bit of a logit: then it is not the same function.
    """
    source = shared / "data/models" / model
    plain = checkpoints.read(source)
    windows = text.windows(source / "tokenizer.json", shared / "data/text", per_file)
    reference = [plain.logits(ids) for ids in windows]
    yield Subject(model, "plain", source, plain, windows, reference)
    injected = checkpoints.inject(plain)
    if not all(np.array_equal(injected.logits(i), r) for i, r in zip(windows, reference, strict=True)):
        raise ValueError(f"{model}: the injected model is not the same float32 function")
    copy = checkpoints.write(injected, source, scratch / f"{model}-injected")
    yield Subject(model, "injected", copy, injected, windows, reference)
