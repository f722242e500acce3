"""llama.cpp's rows: its quantisations of the same checkpoints, run by itself and as weights alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ggufs
import metrics
from llamacpp import QUANTISATIONS, LlamaCpp, quantise
from results import Row
from subjects import Subject

SYSTEM = "llama.cpp"
OWN_RUN, WEIGHTS_ONLY = "own run", "weights only"
# llama.cpp's `llama` graph applies SiLU whatever the checkpoint says.
ACTIVATION = "silu"
WRITER_LIMIT = 1e-4
K_BLOCK = 256


@dataclass(frozen=True)
class Peer:
    """A subject as a float32 GGUF file.

    `writer_kl` is the mean KL of llama.cpp running that file against our float32 reference with the same
    activation: it proves the writer and the rope order.
    """

    subject: Subject
    path: Path
    writer_kl: float

    @classmethod
    def of(cls, subject: Subject, scratch: Path) -> Peer:
        """Writes and checks the file. Raises ValueError where llama.cpp computes another function."""
        path = scratch / f"{subject.model}-{subject.variant}.gguf"
        ggufs.write(subject.checkpoint, subject.source / "tokenizer.json", path)
        kl = _against_reference(subject, path)
        if kl > WRITER_LIMIT:
            raise ValueError(
                f"{path.name}: llama.cpp is {kl:.3g} nats from the reference, {WRITER_LIMIT} allowed"
            )
        return cls(subject, path, kl)

    def rows(self) -> Iterator[tuple[Row, dict[str, int]]]:
        """Rows, each with how many matrices have which type."""
        for name in QUANTISATIONS:
            path = quantise(self.path, self.path.with_suffix(".quantised"), name)
            stored = ggufs.read(path, self.subject.checkpoint)
            types = dict(Counter(stored.types.values()))
            if self.subject.checkpoint.architecture.activation == ACTIVATION:
                yield self._row(stored, name, OWN_RUN, _run(self.subject, path)), types
            score = self.subject.score(stored.checkpoint.logits)
            yield self._row(stored, name, WEIGHTS_ONLY, score), types
            path.unlink()

    def odd_rows(self) -> list[str]:
        """Matrices whose rows K-quants cannot cut into blocks: llama.cpp stores those in another type."""
        return [
            name for name, length in ggufs.row_lengths(self.subject.checkpoint).items() if length % K_BLOCK
        ]

    def _row(self, stored: ggufs.Quantised, name: str, reading: str, score: metrics.Score) -> Row:
        return self.subject.row(score, stored.bits_per_weight, SYSTEM, name, "none", reading)


def _run(subject: Subject, path: Path) -> metrics.Score:
    with LlamaCpp(path, subject.windows.shape[1]) as model:
        return subject.score(model.logits)


def _against_reference(subject: Subject, path: Path) -> float:
    twin = subject.checkpoint.with_activation(ACTIVATION)
    windows = subject.windows[::4]
    with LlamaCpp(path, windows.shape[1]) as model:
        score = metrics.score(model.logits, windows, (twin.logits(ids) for ids in windows))
    return float(score.kl.mean())
