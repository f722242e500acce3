"""Running a program and watching its memory and its reads from outside, to the end."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

POLL = 0.05


@dataclass
class Watched:
    """What a program did. Sizes are bytes; `anonymous` and `file` are the most resident pages of a kind."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak: int = 0
    anonymous: int = 0
    file: int = 0
    read: int = 0

    @property
    def killed(self) -> bool:
        """Whether a signal ended it."""
        return self.code < 0


def run(command: list[str], cwd: Path | None = None) -> Watched:
    """Runs a command to its end; it dies with us if we are interrupted."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd)
        seen = Watched(0, "", "", 0.0)
        try:
            _follow(child.pid, seen)
        finally:
            child.kill()  # where it has ended already, this does nothing
            seen.code = child.wait()
        seen.seconds = time.perf_counter() - begun
        for file in (out, err):
            file.seek(0)
        seen.stdout, seen.stderr = out.read().decode(errors="replace"), err.read().decode(errors="replace")
        return seen


def _follow(pid: int, seen: Watched) -> None:
    """Polls until the process has ended; it stays a zombie, whose counters can still be read."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        _look(pid, seen)
        time.sleep(POLL)
    seen.read = max(seen.read, _io(pid))


def _look(pid: int, seen: Watched) -> None:
    status = _status(pid)
    seen.peak = max(seen.peak, status.get("VmHWM", 0))
    seen.anonymous = max(seen.anonymous, status.get("RssAnon", 0))
    seen.file = max(seen.file, status.get("RssFile", 0))
    seen.read = max(seen.read, _io(pid))


def _status(pid: int) -> dict[str, int]:
    """The sizes of /proc/PID/status in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines if line.endswith(" kB"))
    return {word[0].rstrip(":"): int(word[1]) * 1024 for word in words}


def _io(pid: int) -> int:
    """Bytes that the process made the disk read."""
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in text.splitlines())["read_bytes"])
