"""Instruction sets change no bit: a forced one gives the portable logits, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from m2cache_rs._core import isa
from numpy.typing import NDArray

PRECISIONS = (4, 8, 16)

# All bands of a layer, for one token and for nine, each with a set of its own.
SPARSE = """
import sys
import numpy as np
from tests.engines import opened, sparse
store, act, out = sys.argv[1], sys.argv[2], sys.argv[3]
engine = opened(store, sparse("plane", {"top": [30, 60, 70]}), act)
width = len(engine.norm(0, "ffn"))
x = np.random.default_rng(4).standard_normal((9, width)).astype(np.float32)
np.save(out, np.concatenate([engine.ffn(1, x), engine.ffn(2, x[:1])]))
print(__import__("json").loads(engine.stats())["isa"])
"""

# One token alone, some together (decode batches), many together (a prompt).
SCRIPT = """
import sys
import numpy as np
from m2cache_rs import Model
store, precision, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with Model.open(store, precision=precision) as model:
    ids = model.encode("The quick brown fox jumps over the lazy dog, and then? " * 4)[:48]
    runs = [model.logits(ids[:1]), model.logits(ids[:9]), model.logits(ids, "prompt")]
    np.save(out, np.concatenate(runs))
    print(model.stats()["isa"])
"""


@cache
def logits(store: Path, name: str, precision: int | str, script: str = SCRIPT) -> NDArray[np.float32]:
    """Logits of a fresh process on one set, which says itself which one it used."""
    out = store.with_name(f"{name}-{precision}.npy")
    command = [sys.executable, "-c", script, str(store), str(precision), str(out)]
    environment = os.environ | {"M2CACHE_ISA": name}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, [name]), done.stderr
    rows: NDArray[np.float32] = np.load(out)
    return rows


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["avx2", "avx512", "avx512vnni", "amx"])
def test_a_forced_set_gives_the_portable_logits(tale: Path, name: str, precision: int) -> None:
    if name not in isa()[0]:
        pytest.skip(f"this machine lacks {name}")
    portable = logits(tale, "portable", precision)
    assert np.isfinite(portable).all()
    assert portable.std() > 0.1
    np.testing.assert_array_equal(logits(tale, name, precision).view(np.uint32), portable.view(np.uint32))


@pytest.mark.parametrize("act", ["auto", "f32"])
@pytest.mark.parametrize("name", ["avx2", "avx512", "avx512vnni", "amx"])
def test_a_forced_set_gives_the_portable_sparse_layer(tale: Path, name: str, act: str) -> None:
    if name not in isa()[0]:
        pytest.skip(f"this machine lacks {name}")
    portable, found = (logits(tale, one, act, SPARSE) for one in ("portable", name))
    assert np.isfinite(portable).all()
    assert portable.std() > 0
    np.testing.assert_array_equal(found.view(np.uint32), portable.view(np.uint32))


def test_precisions_differ(tale: Path) -> None:
    """What the comparison above would not notice: that a process ignored what it was asked for."""
    one, other = logits(tale, "portable", 4), logits(tale, "portable", 8)
    assert (one.view(np.uint32) != other.view(np.uint32)).any()
