"""llama.cpp as a peer: built from its Python source distribution, with a random file of the same shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import astuple, dataclass
from pathlib import Path

from m2cache_rs.models import Architecture
from stand_in import tokens

from limits import module
from limits.peer.gguf_shape import tensors
from limits.tell import tell

PACKAGES = ("llama-cpp-python==0.3.36", "gguf==0.19.0")


class PeerError(Exception):
    """llama.cpp is not there or does not work; the message says what to do."""


@dataclass(frozen=True)
class Peer:
    """A Python that has llama_cpp and gguf."""

    python: Path

    @classmethod
    def at(cls, python: Path | None) -> Peer:
        """The given Python, or one made in the user's cache, where llama.cpp is compiled (minutes, once)."""
        peer = cls(python or _built())
        check = subprocess.run([peer.python, "-c", "import gguf, llama_cpp"], capture_output=True, text=True)
        if check.returncode:
            last = (check.stderr.strip().splitlines() or ["it does not start"])[-1]
            raise PeerError(
                f"{peer.python} has no working llama.cpp ({last}); install {' '.join(PACKAGES)} there, "
                "or use --no-peer"
            )
        return peer

    def version(self) -> str:
        """Of the Python package."""
        code = "import llama_cpp; print(llama_cpp.__version__)"
        return subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()

    def write(self, spec: Architecture, kind: str, path: Path) -> None:
        """A Q4_0 or Q8_0 file of random weights, labelled so."""
        wish = {
            "path": str(path),
            "architecture": spec.to_dict(),
            "kind": kind,
            "tensors": [astuple(tensor) for tensor in tensors(spec, kind)],
            "tokens": tokens(spec.vocab),
        }
        command = self.command("peer.random_gguf")
        done = subprocess.run(command, input=json.dumps(wish), capture_output=True, text=True)
        if done.returncode:
            raise PeerError(f"{path} could not be written: {done.stderr.strip().splitlines()[-1]}")

    def command(self, name: str, *words: object) -> list[str]:
        """What runs a module of `limits` with it."""
        return module.command(self.python, name, *words)


def _built() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "m2cache-rs/peers" / PACKAGES[0].replace("==", "-")
    python, ready = folder / "bin/python", folder / "ready"
    if not ready.exists():
        tell(f"building {PACKAGES[0]} in {folder} (minutes, once)")
        _build(folder, python)
        ready.touch()
    return python


def _build(folder: Path, python: Path) -> None:
    """From source, so that llama.cpp uses all that this processor has."""
    name = PACKAGES[0].partition("=")[0]
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--no-binary", name, *PACKAGES],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise PeerError(
                f"building the peer failed ({' '.join(step)}): {done.stderr.strip()[-500:]}; it needs a "
                "C++ compiler and a network; --llama-python names a Python that has it, --no-peer needs none"
            )
