"""Decoding and prompts with all weights in memory, beside llama.cpp: speed, and share of bandwidth.

    python benches/decode.py                                     7B and 8B at 4 and 8 bits, five rounds
    python benches/decode.py --shape llama-3-8b --level 4 --repeats 1 --llama-python PATH
    python benches/decode.py --level 4 --context 0 --no-peer

Weights are random (synthetic): the figures say how fast, not how well. llama.cpp runs at its best for this
machine: compiled on it, the file read instead of mapped so that its weights are repacked (the table says how
many bytes were), attention as it prefers, f16 keys and values as ours. Both programs keep their model in
memory for all rounds and are asked in turns; the one that is not asked sleeps. A round measures, for each,

- tokens a second behind a prompt of 16, and the bytes that they touch as a share of what threads that only
  read memory got in the same round;
- the first token of each --prompt-tokens;
- a call that decodes --rows tokens over one that decodes one, logits of all rows: verifying a draft;
- the time of a token at --context positions over that at 64.

Medians of the rounds are printed with their range, and the cores that other work took meanwhile: llama.cpp's
threads wait for each other by spinning, so that other work slows it down out of proportion. Needs memory for
both models at once (20 GB at 8 bits beside --context 4096) and room for their files in --work (22 GB a shape;
--discard removes them when the shape is done); builds llama.cpp from its Python source distribution the first
time. An interrupted comparison goes on with the round it was in.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limits.gguf_shape import KINDS, touched
from limits.inram import DEPTH, OURS, PEER, Asked, Measured
from limits.journal import Journal
from limits.machine import machine
from limits.peer import Peer, PeerError
from limits.subject import PLANES, Subject
from limits.tell import tell
from limits.worker import Worker, WorkerError
from m2cache_rs._core import MemoryProbe
from m2cache_rs.errors import M2CacheError, UsageError
from m2cache_rs.runtime.machine import last_cache_bytes
from m2cache_rs.runtime.memory import free_memory
from shape import Shape

SHAPES = ("llama-2-7b", "llama-3-8b")
RESULT = Path(__file__).parent / "results/decode.json"
ANSWERS = Path(__file__).parent / "limits/ours_answers.py"
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
        ours = [sys.executable, ANSWERS, subject.store, subject.level, asked.most, asked.threads]
        yield OURS, [str(word) for word in ours]
        if self.peer:
            yield PEER, self.peer.answers(subject.gguf, asked.positions, asked.threads)

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


def make(subject: Subject, peer: Peer | None) -> None:
    """The files of both programs, unless they are there."""
    subject.make_store()
    if peer:
        subject.make_gguf(peer)


def discard(subjects: Sequence[Subject]) -> None:
    """Removes them again."""
    for subject in subjects:
        shutil.rmtree(subject.store, ignore_errors=True)
        subject.gguf.unlink(missing_ok=True)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--shape",
        action="append",
        help=f"a name or a config.json, may be repeated (default: {', '.join(SHAPES)})",
    )
    add(
        "--level",
        type=int,
        action="append",
        choices=tuple(KINDS),
        help="bits, may be repeated (default: all)",
    )
    add("--new-tokens", type=int, default=64, help="decoded behind a prompt of 16 (default 64)")
    add("--prompt-tokens", type=int, action="append", help="may be repeated (default: 512 and 32)")
    add("--rows", type=int, default=8, help="tokens of a verifying call (default 8)")
    add("--context", type=int, default=4096, help="positions of the long text (default 4096); 0: none")
    add("--repeats", type=int, default=5, help="rounds of both programs (default 5)")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--no-peer", action="store_true", help="without llama.cpp")
    add(
        "--llama-python",
        type=Path,
        metavar="PATH",
        help="a Python that has llama_cpp and gguf (default: built)",
    )
    add("--discard", action="store_true", help="remove the files of a shape when it is done")
    add("--work", type=Path, default=Path("decode.work"), help="for what is made (default ./decode.work)")
    add("--out", type=Path, default=RESULT, help="the JSON file of results")
    chosen = parser.parse_args()
    chosen.prompt_tokens = chosen.prompt_tokens or [512, 32]
    if min(chosen.repeats, chosen.threads, *chosen.prompt_tokens) < 1:
        parser.error("--repeats, --threads and --prompt-tokens must be at least 1")
    if min(chosen.new_tokens, chosen.rows) < 2:
        parser.error("--new-tokens and --rows must be at least 2")
    if chosen.context and chosen.context <= DEPTH:
        parser.error(f"--context must be above {DEPTH}, or 0")
    return chosen


def main() -> None:
    """Measures, prints, writes the JSON file."""
    chosen = options()
    chosen.work.mkdir(parents=True, exist_ok=True)
    peer = None if chosen.no_peer else Peer.at(chosen.llama_python)
    levels = sorted(set(chosen.level or KINDS))
    asked = Asked(chosen.threads, chosen.new_tokens, chosen.prompt_tokens, chosen.rows, chosen.context)
    shapes = [Shape.of(text) for text in chosen.shape or SHAPES]
    where = machine(peer)
    journal = Journal(chosen.work / "decode.journal", json.dumps([where, asdict(asked)], sort_keys=True))
    probe = MemoryProbe(min(1 << 30, max(4 * last_cache_bytes(), 256 << 20)), chosen.threads)
    rows = []
    for shape in shapes:
        # One store serves every level: planes that are not read cost nothing.
        planes, work = PLANES[levels[-1]], chosen.work.resolve()
        subjects = [Subject(shape, level, work, planes, KINDS[level]) for level in levels]
        for subject in subjects:
            make(subject, peer)
            one = Comparison(subject, asked, peer, journal, probe).run(chosen.repeats)
            print("\n".join(one.lines()), end="\n\n", flush=True)
            rows.append({"summary": one.summary(), **asdict(one)})
        if chosen.discard:
            discard(subjects)
    result = {"label": "synthetic weights", "machine": where, "measured": rows}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    journal.forget()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (M2CacheError, OSError, PeerError, WorkerError) as error:
        sys.exit(f"decode.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("decode.py: interrupted; the same command goes on from here")
