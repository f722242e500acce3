"""Stores that several tests share, converted once a session, and the command line as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from m2cache_rs.cli.program import main
from m2cache_rs.config import Precision, PrecisionLike
from m2cache_rs.convert import convert
from m2cache_rs.models import architecture_of
from m2cache_rs.plan.budget import Weights
from m2cache_rs.recipe.recipe import Dense, Recipe
from m2cache_rs.runtime.opening import Opened

from tests.reference import checkpoint, tiny

EXAMPLE = Path(__file__).parents[1] / "examples/models/tale-silu"

# Two layers, grouped heads, sizes that are no multiple of anything, more neurons than a chunk.
SMALL = tiny.CONFIG | {
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 300,
    "attention_bias": True,
    "max_position_embeddings": 600,
    "eos_token_id": None,
}

# What a machine may deny the reader, said once a program (tests/test_io.py): other tests do not depend on it.
DENIED = re.compile(
    r"m2cache: warning: "
    r"(reading with threads|io_uring reads into memory|[^\n]*: read through the page cache)[^\n]*\n"
)

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Shown = Callable[..., tuple[int, str, str]]


def needs(store: Path, precision: PrecisionLike) -> Weights:
    """What the weights of a store take."""
    opened = Opened(store)
    attn, ffn, head, embed = Precision.parse(precision).levels(opened.planes)
    return opened.weights(Recipe(attn, head, embed, ffn, Dense(ffn)))


@pytest.fixture(scope="session")
def tale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, all planes, the default encoding."""
    path = tmp_path_factory.mktemp("stores") / "tale.m2c"
    convert(EXAMPLE, path)
    return path


@pytest.fixture(scope="session")
def tale_mid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model without the low plane."""
    path = tmp_path_factory.mktemp("stores") / "tale-mid.m2c"
    convert(EXAMPLE, path, planes="mid")
    return path


@pytest.fixture(scope="session", params=["split", "bundled", "gated"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of odd sizes without tokenizer, in each preset of sections."""
    folder = tmp_path_factory.mktemp("small")
    save_small(folder / "model")
    (folder / "model/tokenizer.json").write_bytes((EXAMPLE / "tokenizer.json").read_bytes())
    convert(folder / "model", folder / "small.m2c", sections=request.param)
    return folder / "small.m2c"


def save_small(path: Path) -> None:
    """Writes the model that `small` converts."""
    checkpoint.save(path, SMALL, tiny.weights(architecture_of(SMALL)[1], seed=3), "BF16")


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Runs `m2cache` in a process of its own; torch, transformers and cupy cannot be imported there."""
    hidden = "; ".join(f"sys.modules[{name!r}] = None" for name in ("torch", "transformers", "cupy"))
    code = f"import sys; {hidden}; from m2cache_rs.cli.main import run; run()"

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 120, **options}
        command = [sys.executable, "-c", code, *(a if isinstance(a, bytes) else str(a) for a in arguments)]
        done = subprocess.run(command, check=False, env=os.environ | {"COLUMNS": "100"}, **settings)  # type: ignore[call-overload]
        if isinstance(done.stderr, str):
            done.stderr = but_denials(done.stderr)
        return done  # type: ignore[no-any-return]

    return run


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            sys.exit(main([str(one) for one in arguments]))
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return run


def but_denials(stderr: str) -> str:
    """What a program said, without what it said about the machine."""
    return DENIED.sub("", stderr)
