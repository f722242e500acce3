"""One run of one program, capped or not, as a dictionary of what it took."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limits import module
from limits.capped import cgroup, disk, watch
from limits.peer.program import Peer
from limits.subject import Subject

HEADROOM = 16 << 20
"""Of a cap, left to the kernel (page tables, buffers of the process): the rest is our --dram."""

Run = dict[str, Any]


class RunError(Exception):
    """A program ended with an error that is no kill: nothing was measured."""


@dataclass(frozen=True)
class Task:
    """What every program is asked for."""

    subject: Subject
    prompt: int
    new: int
    threads: int
    settle: int
    """Seconds of reading before a capped run."""

    def ours(self, cap: int | None) -> Run:
        """Our command line under a cap."""
        assert cap is not None
        options = {
            "--prompt": self.subject.prompt(self.prompt),
            "--max-new-tokens": self.new,
            "--ctx": self.prompt + self.new,
            "--precision": self.subject.level,
            "--threads": self.threads,
            "--dram": cap - HEADROOM,
        }
        words = [str(word) for pair in options.items() for word in pair]
        command = [sys.executable, "-m", "m2cache_rs", "generate", str(self.subject.store), *words, "--json"]
        run = self._capped(command, self._files(), cap)
        if result := run.pop("result"):
            stats = result["stats"]
            run |= {name: result[name] for name in ("tokens", "tokens_per_second", "first_token_seconds")}
            run |= {"weights_read": stats["read_bytes"], "expected": result["expected"]}
            run["stats"] = {k: v for k, v in stats.items() if isinstance(v, int | float | str)}
        return run

    def ours_resident(self, cap: int | None) -> Run:
        """Our decoder without a cap, all weights in memory."""
        assert cap is None
        subject = self.subject
        words = (subject.store, subject.level, self.threads, self.new, subject.prompt(self.prompt))
        run = _measured(module.command(sys.executable, "capped.resident", *words), self._files(), None)
        return run | _speed(run.pop("result"))

    def llama(self, peer: Peer, cap: int | None) -> Run:
        """llama.cpp, mapped, its weights not repacked."""
        ids = self.subject.ids(self.prompt)
        command = peer.command("capped.llama_run", self.subject.gguf, self.new, self.threads, *ids)
        run = self._capped(command, [self.subject.gguf], cap)
        result = run.pop("result")
        if result:
            run["load_seconds"] = result["load_seconds"]
            run["decode_read"] = result["decode_read_bytes"]
        return run | _speed(result)

    def _capped(self, command: list[str], files: list[Path], cap: int | None) -> Run:
        """A run between two measurements of the disk: a virtual one drifts by factors within a minute."""
        if cap is None:
            return _measured(command, files, cap)
        probe = partial(disk.measure, self._files(), self.subject.chunk_bytes())
        before = probe(self.settle)
        run = _measured(command, files, cap)
        behind = probe(max(1, self.settle // 3))
        rates = {"before": before.by_second, "behind": behind.by_second}
        return {**run, "rate": (before.sustained + behind.sustained) / 2, "rates": rates}

    def _files(self) -> list[Path]:
        return sorted(self.subject.store.glob("*.safetensors"))


def _speed(result: dict[str, Any] | None) -> Run:
    if not result or "error" in result:
        return result or {}
    later = result["tokens"] - 1
    rate = later / result["decode_seconds"] if later else None
    return {
        "tokens": result["tokens"],
        "tokens_per_second": rate,
        "first_token_seconds": result["first_token_seconds"],
    }


def _measured(command: list[str], files: list[Path], cap: int | None) -> Run:
    """Runs it on a cold page cache; `result` is the JSON that it printed, None if it was killed."""
    cache = disk.forget(files)
    name = disk.device(files[0])
    with _limit(cap) as group:
        before = disk.read_so_far(name)
        seen = watch.run(group.command(command) if group else command)
        after = disk.read_so_far(name)
        kills, charged = (group.kills(), group.peak()) if group else (0, None)
    killed = seen.killed or kills > 0
    if seen.code and not killed:
        told = (seen.stderr or seen.stdout).strip().splitlines() or ["it said nothing"]
        raise RunError(f"{' '.join(command[:4])} ... failed with {seen.code}: {told[-1]}")
    return {
        "killed": killed,
        "seconds": seen.seconds,
        "peak": seen.peak,
        "anonymous": seen.anonymous,
        "file": seen.file,
        "process_read": seen.read,
        "device_read": None if before is None or after is None else after - before,
        "charged": charged,
        "page_cache": cache,
        "result": None if killed else json.loads(seen.stdout),
    }


@contextlib.contextmanager
def _limit(cap: int | None) -> Iterator[cgroup.Cgroup | None]:
    if cap is None:
        yield None
        return
    with cgroup.limited(cap) as group:
        yield group
