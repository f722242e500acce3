"""Readers as a user meets them: what is denied is said once and changes no token; faults end in an error."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import M2CacheError, Model, StoreIOError, UsageError

from tests.denials import AUDIT_ARCH

ROOT = Path(__file__).parents[1]
PROMPT = "In the beginning God created"
TOKENS = 8

# Runs in a process of its own, since a denial is for good; reads every weight from the store in every step.
CHILD = """
import json, sys
{denial}
import logging
logging.basicConfig(format="%(message)s")
from m2cache_rs import Model
from m2cache_rs.runtime import opening
with Model.open(sys.argv[1], precision=8, cache={cache}, io=sys.argv[2]) as model:
    tokens = [token.id for token in model.generate({prompt!r}, {tokens})]
    print(json.dumps({{"tokens": tokens, **{{key: model.stats()[key] for key in ("io", "notes")}}}}))
"""


def least_cache(store: Path) -> int:
    """The least weight cache that works: nearly everything is read again for every token."""
    with pytest.raises(M2CacheError) as refused:
        Model.open(store, precision=8, cache=1)
    return int(str(refused.value).split("the least that works is ")[1].split()[0])


def generate(
    store: Path, io: str = "auto", denial: str = "", faults: str = "", **environment: str
) -> tuple[dict[str, Any], list[str]]:
    """(tokens, engine and notes of a generation, the lines it said on stderr)."""
    code = CHILD.format(denial=denial, cache=least_cache(store), prompt=PROMPT, tokens=TOKENS)
    run = subprocess.run(
        [sys.executable, "-c", code, str(store), io],
        cwd=ROOT,
        env=os.environ | {"M2CACHE_FAULTS": faults} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr.splitlines()


@pytest.fixture(scope="module")
def expected(tale: Path) -> list[int]:
    with Model.open(tale, precision=8, io="psync") as model:
        return [token.id for token in model.generate(PROMPT, TOKENS)]


@pytest.fixture(scope="module")
def uring(tale: Path) -> None:
    """For tests that mean nothing where io_uring is denied from the start."""
    try:
        Model.open(tale, precision=8, io="uring").close()
    except UsageError as denied:
        pytest.skip(f"no io_uring on this machine: {denied}")


@pytest.mark.usefixtures("uring")
def test_both_engines_are_had_by_name_and_say_nothing(tale: Path, expected: list[int]) -> None:
    for io in ("uring", "psync"):
        result, said = generate(tale, io)
        assert (result["tokens"], result["io"]) == (expected, io)
        assert result["notes"] == said


seccomp = pytest.mark.skipif(
    platform.machine() not in AUDIT_ARCH, reason="the seccomp filter of this test knows x86-64 and ARM"
)


@seccomp
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_a_container_that_denies_io_uring_is_told_once_and_read_with_threads(
    tale: Path, expected: list[int], code: int
) -> None:
    denial = f"from tests.denials import deny_io_uring; deny_io_uring({code})"
    result, said = generate(tale, denial=denial)
    assert (result["tokens"], result["io"]) == (expected, "psync")
    assert said == result["notes"]
    [note] = said
    assert "io_uring" in note
    assert f"os error {code}" in note
    assert "seccomp" in note


@seccomp
def test_asked_for_by_name_a_denied_io_uring_is_an_error_with_a_way_out(tale: Path) -> None:
    code = (
        "from tests.denials import deny_io_uring; deny_io_uring(1)\n"
        "import sys; from m2cache_rs import Model, UsageError\n"
        "try: Model.open(sys.argv[1], io='uring')\n"
        "except UsageError as e: print(e)"
    )
    out = subprocess.check_output([sys.executable, "-c", code, tale], cwd=ROOT, text=True, timeout=120)
    assert "os error 1" in out
    assert "io psync" in out
    assert "auto" in out


@pytest.mark.usefixtures("uring")
def test_without_locked_memory_io_uring_reads_into_unregistered_slots(
    tale: Path, expected: list[int]
) -> None:
    # Enough for the queue, which newer kernels count as well.
    denial = "from tests.denials import limit_locked_memory; limit_locked_memory(64 << 10)"
    result, said = generate(tale, denial=denial)
    assert (result["tokens"], result["io"]) == (expected, "uring")
    assert said == result["notes"]
    [note] = said
    assert "not registered" in note
    assert "ulimit -l" in note


def test_without_any_locked_memory_reads_go_on_and_it_is_said_once(tale: Path, expected: list[int]) -> None:
    denial = "from tests.denials import limit_locked_memory; limit_locked_memory(0)"
    result, said = generate(tale, denial=denial)
    assert result["tokens"] == expected
    assert said == result["notes"]
    assert len(said) == 1
    assert "io_uring" in said[0]


def test_the_switch_denies_io_uring(tale: Path, expected: list[int]) -> None:
    result, said = generate(tale, M2CACHE_IO_URING="off")
    assert (result["tokens"], result["io"]) == (expected, "psync")
    assert said == result["notes"]
    assert len(said) == 1
    assert "M2CACHE_IO_URING=off" in said[0]


def test_a_command_that_opens_two_models_says_it_once(tale: Path) -> None:
    command = [sys.executable, "-m", "m2cache_rs", "eval", tale, "--text", __file__, "--tokens", "32"]
    run = subprocess.run(
        command,
        env=os.environ | {"M2CACHE_IO_URING": "off"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stderr.count("M2CACHE_IO_URING=off") == 1


@pytest.mark.parametrize("io", ["auto", "psync"])
@pytest.mark.parametrize("faults", ["short", "reverse", "slow=1ms", "slow=200us,short,reverse"])
def test_slow_short_and_disordered_reads_change_no_token(
    tale: Path, expected: list[int], io: str, faults: str
) -> None:
    result, said = generate(tale, io, faults=faults)
    assert result["tokens"] == expected
    assert [note for note in said if "faults are injected" in note] == said[-1:]


@pytest.mark.parametrize("io", ["auto", "psync"])
def test_a_read_that_fails_once_is_an_error_and_the_model_goes_on(
    tale: Path, expected: list[int], io: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2CACHE_FAULTS", "eio=40")
    with Model.open(tale, precision=8, cache=least_cache(tale), io=io) as model:
        with pytest.raises(StoreIOError, match=r"reading .*safetensors") as failed:
            list(model.generate(PROMPT, TOKENS))
        assert failed.value.errno in (None, errno.EIO)
        assert [token.id for token in model.generate(PROMPT, TOKENS)] == expected


def test_reads_that_fail_for_good_end_in_an_error_each_time(
    tale: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2CACHE_FAULTS", "eio=40..")
    with Model.open(tale, precision=8, cache=least_cache(tale)) as model:
        for _ in range(3):
            with pytest.raises(StoreIOError, match="os error 5"):
                list(model.generate(PROMPT, TOKENS))


@pytest.mark.parametrize(
    ("name", "value"), [("M2CACHE_FAULTS", "eio=x"), ("M2CACHE_FAULTS", "fast"), ("M2CACHE_IO_URING", "on")]
)
def test_bad_values_of_the_environment_are_refused_by_name(
    tale: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name) as refused:
        Model.open(tale)
    assert value in str(refused.value)


def test_a_forked_child_ends_in_peace(tale: Path, expected: list[int]) -> None:
    """It drops what it inherited: neither its threads nor its queue exist there."""
    code = (
        "import os, sys\n"
        "from m2cache_rs import Model\n"
        "for io in ('psync', 'auto'):\n"
        "    model = Model.open(sys.argv[1], precision=8, cache=int(sys.argv[2]), io=io)\n"
        f"    tokens = model.generate({PROMPT!r}, {TOKENS})\n"
        "    first = next(tokens).id\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        del tokens\n"
        "        model.close()\n"
        "        sys.exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    print(first, *(token.id for token in tokens))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tale), str(least_cache(tale))]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert [[int(word) for word in line.split()] for line in out.splitlines()] == [expected] * 2
