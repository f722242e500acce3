"""One subject in both programs, asked in rounds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from m2cache_rs._core import MemoryProbe
from m2cache_rs.errors import UsageError
from m2cache_rs.machine.memory import free_memory

from limits import module
from limits.inram.summary import DEPTH, OURS, PEER, Asked, Measured
from limits.inram.worker import Worker
from limits.journal import Journal
from limits.peer.gguf_shape import touched
from limits.peer.program import Peer
from limits.subject import Subject
from limits.tell import tell

SPARE = 1 << 30
"""For what is neither weights nor keys and values: both interpreters, scratch, the memory probe."""


@dataclass
class Comparison:
    """One subject in both programs, which are started when they are first asked."""

    subject: Subject
    asked: Asked
    peer: Peer | None
    journal: Journal
    probe: MemoryProbe

    def run(self, repeats: int) -> Measured:
        """All rounds."""
        self._check_memory()
        self.workers: dict[str, Worker] = {}
        with ExitStack() as self.stack:
            rounds = [
                self.journal.step(f"{self.name}, round {n + 1}", lambda n=n: self._round(n))
                for n in range(repeats)
            ]
            about = self.journal.step(f"{self.name}, state", self._about)
        shape = self.subject.shape.architecture
        weights = {OURS: self.subject.touched()}
        if self.peer:
            weights[PEER] = touched(shape, self.subject.kind)
        return Measured(self.name, self.asked, weights, self.subject.kv_bytes(1), rounds, about)

    @property
    def name(self) -> str:
        """As in the table."""
        kind = f" ({self.subject.kind})" if self.peer else ""
        return f"{self.subject.shape.name} at {self.subject.level} bits{kind}"

    def _check_memory(self) -> None:
        """Raises `UsageError` where something would have to be swapped or killed."""
        spec = self.subject.shape.architecture
        if self.asked.most > spec.context:
            raise UsageError(
                f"{self.asked.most} positions are asked for, {self.subject.shape.name} has {spec.context}"
            )
        texts = self.subject.kv_bytes(2 * self.asked.positions + self.asked.context)
        needed = self.subject.resident() + texts + SPARE
        if self.peer:
            needed += self.subject.gguf_bytes + texts
        free = free_memory()
        if needed > free:
            raise UsageError(
                f"{self.name} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
                "--level 4, --context 0 and --no-peer take less"
            )

    def _started(self) -> dict[str, Worker]:
        """Both programs; the second loads when the first has."""
        if not self.workers:
            for name, command in self._commands():
                tell(f"loading {self.name} into {name}")
                self.workers[name] = worker = Worker(name, command)
                self.stack.callback(worker.close)
                worker.ask("about")
        return self.workers

    def _commands(self) -> Iterator[tuple[str, list[str]]]:
        subject, asked = self.subject, self.asked
        ours = (subject.store, subject.level, asked.most, asked.threads)
        yield OURS, module.command(sys.executable, "inram.ours_answers", *ours)
        if self.peer:
            peer = (subject.gguf, asked.positions, asked.threads)
            yield PEER, self.peer.command("inram.llama_answers", *peer)

    def _round(self, number: int) -> dict[str, Any]:
        """Every question to one program, then to the other, who takes turns in being the first."""
        workers = list(self._started().items())
        order = workers if number % 2 == 0 else workers[::-1]
        found: dict[str, Any] = {"bandwidth": [self._bandwidth()]} | {name: {} for name, _ in workers}
        for item, question in questions(self.subject, self.asked):
            for name, worker in order:
                found[name][item] = worker.ask(**question)
        found["bandwidth"].append(self._bandwidth())
        return found

    def _bandwidth(self) -> float:
        return self.probe.bandwidth(all_threads=True, seconds=1.0) * 1e9

    def _about(self) -> dict[str, Any]:
        """Of both programs behind all rounds. Raises `UsageError` where our weights did not stay."""
        found = {
            name: {"idle": worker.idle(), "huge_bytes": worker.huge_bytes(), **worker.ask("about")}
            for name, worker in self._started().items()
        }
        ours, row = found[OURS], self.subject.shape.architecture.hidden * 4
        if ours["read_later"] > sum(ours["tokens"].values()) * row:
            raise UsageError(f"weights were not resident: {ours['read_later']} bytes were read a second time")
        if self.peer and not found[PEER]["repacked"]:
            tell(f"{PEER} repacked nothing: it has no layout for {self.subject.kind} on this processor")
        return found


def questions(subject: Subject, asked: Asked) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What a round asks, by the name of the answer."""
    start, calls = subject.ids(asked.start), asked.calls
    yield "decode", {"what": "run", "ids": start, "new": asked.new}
    for length in asked.prompts:
        yield f"prompt {length}", {"what": "run", "ids": subject.ids(length), "new": 1}
    yield "together", {"what": "together", "ids": start, "rows": asked.rows, "calls": calls}
    if asked.context:
        texts = {"near": subject.ids(DEPTH - calls), "far": subject.ids(asked.context - calls)}
        yield "depths", {"what": "depths", **texts, "calls": calls}
