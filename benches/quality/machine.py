"""What a result was measured with: the processor's model and the versions that matter."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import m2cache_rs
import numpy as np


def describe() -> dict[str, str]:
    """Names and versions; nothing that tells one machine of a kind from another."""
    return {
        "processor": _processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "m2cache-rs": m2cache_rs.__version__,
        "llama-cpp-python": _version("llama-cpp-python"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
