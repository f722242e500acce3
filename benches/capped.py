"""Decoding under a memory cgroup beside llama.cpp: speed, bytes, and the share of what the disk allows.

    python benches/capped.py                                      7B and 8B at 4 bits, 60 % and 30 % of Q4_0
    python benches/capped.py --repeats 1 --llama-python PATH      one round, with a llama.cpp that is there
    python benches/capped.py --shape llama-3-8b --level 16 --cap 5GB --no-peer
    python benches/capped.py --shape qwen-7b --cap 4GB --no-peer
    python benches/capped.py --prompt-tokens 512 --new-tokens 1   the first token of a long prompt

Weights are random (synthetic): the figures say how fast, not how well. Percentages are of the size that
llama.cpp's Q4_0 GGUF of the shape has. Both programs decode the same number of tokens on the same threads
with f16 keys and values, each from an empty page cache, one after the other; llama.cpp maps its file and does
not repack its weights (it would be killed). Virtual disks drift: the disk is read for --settle seconds before
each capped run and a third of that behind it, and the bound of a run takes what it sustained around it. Needs
a memory cgroup (root, as a rule), a disk that takes O_DIRECT and 8 to 25 GB on it; builds llama.cpp from its
Python source distribution the first time. Stores and GGUF files stay in --work and are used again; an
interrupted comparison goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from limits import cgroup
from limits.bound import Sweeps
from limits.journal import Journal
from limits.machine import machine
from limits.peer import Peer, PeerError
from limits.runs import HEADROOM, RunError, Task
from limits.subject import PLANES, Subject
from limits.summary import Measured
from m2cache_rs.config import parse_size
from m2cache_rs.errors import M2CacheError, UsageError
from m2cache_rs.runtime.decoder import PROMPT_CHUNK
from shape import Shape

SHAPES = ("llama-2-7b", "llama-3-8b")
CAPS = ("60%", "30%")
RESULT = Path(__file__).parent / "results/capped.json"
IDLE = """
import m2cache_rs.cli.generate, m2cache_rs.runtime.session, tokenizers
from m2cache_rs.runtime.memory import peak_rss
print(peak_rss())
"""


@dataclass(frozen=True)
class Comparison:
    """Subjects under caps, program by program."""

    tasks: Sequence[Task]
    caps: Sequence[str]
    peer: Peer | None
    journal: Journal

    def run(self, repeats: int) -> list[Measured]:
        """Makes what is missing, then measures: rounds of all programs, so that drifts hit them alike."""
        for task in self.tasks:
            task.subject.make_store()
            if self.peer:
                task.subject.make_gguf(self.peer)
        rounds = [self._round(task, repeat) for repeat in range(repeats) for task in self.tasks]
        return [self._measured(task, cap, rounds) for task in self.tasks for cap in self.caps]

    def _round(self, task: Task, repeat: int) -> dict[str, dict[str, Any]]:
        found = {}
        for cap in (None, *self.caps):
            size = None if cap is None else cap_bytes(cap, task.subject)
            for program, work in self._programs(task, cap is None):
                key = f"{_name(task)}, {cap or 'no cap'}, {program}, round {repeat + 1}"
                found[_key(task, cap, program)] = self.journal.step(key, partial(work, size))
        return found

    def _programs(self, task: Task, free: bool) -> list[tuple[str, Any]]:
        ours = ("m2cache", task.ours_resident if free else task.ours)
        peer = self.peer
        return [ours] if peer is None else [ours, ("llama.cpp", partial(task.llama, peer))]

    def _measured(self, task: Task, cap: str, rounds: Sequence[dict[str, Any]]) -> Measured:
        def runs(cap: str | None, program: str) -> list[dict[str, Any]]:
            key = _key(task, cap, program)
            return [one[key] for one in rounds if key in one]

        subject, size = task.subject, cap_bytes(cap, task.subject)
        idle = self.journal.step("memory of an idle interpreter", idle_bytes)
        positions = task.prompt + task.new
        measured = Measured(
            name=_name(task),
            cap=size,
            gguf=subject.gguf_bytes if cap.endswith("%") or self.peer else 0,
            touched=subject.touched(),
            hold=max(0, size - idle - subject.kv_bytes(positions)),
            sweeps=Sweeps(task.prompt, task.new, PROMPT_CHUNK),
            ours=runs(cap, "m2cache"),
            resident=runs(None, "m2cache"),
            llama=runs(cap, "llama.cpp"),
            llama_resident=runs(None, "llama.cpp"),
            plan=self.journal.step(f"{_name(task)}, {cap}, plan", partial(plan, task, size)),
            plan_at_rate={},
        )
        at_rate = partial(plan, task, size, measured.bound().rate)
        return replace(
            measured, plan_at_rate=self.journal.step(f"{_name(task)}, {cap}, plan at this rate", at_rate)
        )


def _name(task: Task) -> str:
    return f"{task.subject.shape.name} at {task.subject.level} bits, {task.prompt} + {task.new} tokens"


def _key(task: Task, cap: str | None, program: str) -> str:
    return f"{_name(task)}/{cap}/{program}"


def cap_bytes(text: str, subject: Subject) -> int:
    """A size, or a percentage of the GGUF file's. Raises `UsageError`."""
    if not text.endswith("%"):
        return parse_size(text, "--cap")
    try:
        share = float(text[:-1]) / 100
    except ValueError:
        share = 0
    if share <= 0:
        raise UsageError(f"--cap {text} is no share; 60% or 5GB are understood")
    return int(share * subject.gguf_bytes)


def idle_bytes() -> int:
    """Resident memory of our command line before it opens anything."""
    command = [sys.executable, "-c", IDLE]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def plan(task: Task, cap: int, rate: float | None = None) -> dict[str, Any]:
    """What `m2cache plan` expects of the capped run, by its own word on the disk or at a given rate."""
    options: dict[str, Any] = {
        "--dram": cap - HEADROOM,
        "--ctx": task.prompt + task.new,
        "--prompt": task.prompt,
        "--precision": task.subject.level,
        "--threads": task.threads,
    }
    if rate is not None:
        options["--disk-gbps"] = f"{rate / 1e9:.4f}"
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "m2cache_rs", "plan", str(task.subject.store), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"m2cache plan failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
    add("--level", type=int, choices=tuple(PLANES), default=4, help="bits a weight (default 4)")
    add(
        "--cap",
        action="append",
        help="a size or a share of Q4_0, may be repeated (default: 60%% and 30%%)",
    )
    add("--prompt-tokens", type=int, default=16)
    add("--new-tokens", type=int, default=64)
    add("--repeats", type=int, default=3, help="rounds of all programs (default 3)")
    add(
        "--settle",
        type=int,
        default=9,
        help="seconds of reading before a capped run, a third behind it (default 9)",
    )
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--no-peer", action="store_true", help="without llama.cpp")
    add(
        "--llama-python",
        type=Path,
        metavar="PATH",
        help="a Python that has llama_cpp and gguf (default: built)",
    )
    add("--work", type=Path, default=Path("capped.work"), help="for what is made (default ./capped.work)")
    add("--out", type=Path, default=RESULT, help="the JSON file of results")
    chosen = parser.parse_args()
    counts = (chosen.prompt_tokens, chosen.new_tokens, chosen.repeats, chosen.threads, chosen.settle)
    if min(counts) < 1:
        parser.error("tokens, --repeats, --threads and --settle must be at least 1")
    return chosen


def main() -> None:
    """Measures, prints, writes the JSON file."""
    chosen = options()
    with cgroup.limited(64 << 20):
        pass  # refused now rather than behind minutes of work
    chosen.work.mkdir(parents=True, exist_ok=True)
    peer = None if chosen.no_peer else Peer.at(chosen.llama_python)
    subjects = [
        Subject(Shape.of(text), chosen.level, chosen.work.resolve()) for text in chosen.shape or SHAPES
    ]
    counts = (chosen.prompt_tokens, chosen.new_tokens, chosen.threads, chosen.settle)
    tasks = [Task(subject, *counts) for subject in subjects]
    caps, where = chosen.cap or CAPS, machine(peer)
    for task in tasks:
        for cap in caps:
            cap_bytes(cap, task.subject)
    journal = Journal(chosen.work / "capped.journal", json.dumps([where, chosen.repeats], sort_keys=True))
    measured = Comparison(tasks, caps, peer, journal).run(chosen.repeats)
    print("\n\n".join("\n".join(one.lines()) for one in measured))
    write(chosen.out, where, measured)
    journal.forget()


def write(path: Path, where: dict[str, Any], measured: Sequence[Measured]) -> None:
    """The figures and every run they come from."""
    rows = [{"summary": one.summary(), **asdict(one)} for one in measured]
    result = {"label": "synthetic weights", "machine": where, "headroom": HEADROOM, "measured": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (M2CacheError, OSError, cgroup.NoCgroupError, PeerError, RunError) as error:
        sys.exit(f"capped.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("capped.py: interrupted; the same command goes on from here")
