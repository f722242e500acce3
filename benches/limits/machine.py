"""What was measured with: processor, memory, and the state of both programs."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

from m2cache_rs import _core

from limits.peer.program import Peer

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def machine(peer: Peer | None) -> dict[str, Any]:
    """As kept beside the figures."""
    info = dict(
        line.split(":", 1)
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {
        "processor": next(iter(info.values()), platform.machine()).strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "huge_pages": HUGE_PAGES.read_text().strip() if HUGE_PAGES.exists() else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "m2cache-rs": _core.__version__,
        "code": code_digest(),
        "llama-cpp-python": peer.version() if peer else None,
    }


def code_digest() -> str:
    """Of the installed package: runs of another state of it are not gone on with."""
    digest, folder = hashlib.sha256(), Path(_core.__file__).parent
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".so")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
