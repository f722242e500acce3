"""A program that runs beside this one with its model in memory, and is asked (see `answering`)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")


class WorkerError(Exception):
    """The program ended before it answered; the message says how."""


class Worker:
    """One child. What it takes of the processor between two questions is counted: it should be nothing."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the child
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._last: tuple[float, float] | None = None
        self.idle_seconds = self.idle_processor_seconds = 0.0

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """The answer, and as `others` the cores that other work kept busy. Raises `WorkerError`."""
        if self._child.poll() is not None:
            raise WorkerError(self._end())
        self._count_idle()
        begun, busy, own = time.monotonic(), _busy_seconds(), self._processor_seconds()
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps({"ask": what, **more}) + "\n")
            self._child.stdin.flush()
            text = self._child.stdout.readline()
        except BrokenPipeError:
            text = ""
        if not text:
            raise WorkerError(self._end())
        self._last = ended, used = time.monotonic(), self._processor_seconds()
        others = _busy_seconds() - busy - (used - own)
        return {**json.loads(text), "others": max(0.0, others / (ended - begun))}

    def huge_bytes(self) -> int:
        """Bytes of its memory in huge pages."""
        text = Path(f"/proc/{self._child.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("AnonHuge")) * 1024

    def idle(self) -> float | None:
        """Cores that it kept busy while nothing was asked; None of too short a time."""
        self._count_idle()
        self._last = None
        return self.idle_processor_seconds / self.idle_seconds if self.idle_seconds > 1 else None

    def close(self) -> None:
        """Ends it, whatever it does."""
        self._child.kill()
        self._child.communicate()
        self._errors.close()

    def _count_idle(self) -> None:
        if self._last is not None:
            self.idle_seconds += time.monotonic() - self._last[0]
            self.idle_processor_seconds += self._processor_seconds() - self._last[1]

    def _processor_seconds(self) -> float:
        """Of the kernel and its own; the name in front of them may hold blanks."""
        words = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / TICKS

    def _end(self) -> str:
        code = self._child.wait()
        self._errors.seek(0)
        told = self._errors.read().decode(errors="replace").strip().splitlines()
        if code < 0:
            return f"{self.name} was ended by signal {-code}, by the kernel if there was too little memory"
        return f"{self.name} failed with {code}: {told[-1] if told else 'it said nothing'}"


def _busy_seconds() -> float:
    """Processor time that anybody took on this machine, and what its host took from it."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, *interrupts = map(int, words[:8])
    return (user + nice + system + sum(interrupts)) / TICKS
