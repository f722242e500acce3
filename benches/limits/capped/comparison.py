"""Subjects under caps: rounds of every program, and what the bound and the planner say of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from m2cache_rs.config import PROMPT_CHUNK, parse_size
from m2cache_rs.errors import UsageError

from limits.capped.bound import Sweeps
from limits.capped.runs import HEADROOM, RunError, Task
from limits.capped.summary import Measured
from limits.journal import Journal
from limits.peer.program import Peer
from limits.subject import Subject

IDLE = """
import m2cache_rs.cli.generate, m2cache_rs.runtime.session, tokenizers
from m2cache_rs.machine.memory import peak_rss
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
