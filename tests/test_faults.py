"""Faults while a model runs: no wrong token, an error that names file and records, a Model that goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model, _core
from m2cache_rs.errors import DamageError, M2CacheError, StoreError, StoreIOError
from numpy.typing import NDArray

from tests.attacks import forge
from tests.held import held, let_go, wait_for_output
from tests.stores import Cli, needs

Rows = NDArray[np.float32]
IDS = [11, 7, 1999, 3, 42]
FAULTS = "M2CACHE_FAULTS"
LAYER = "layer-00003.safetensors"
IS_RECORDS = r"(layer-\d{5}|embed)\.safetensors.*\(wanted were section [a-z.+]+, record \d+( to \d+)?\)$"


@cache
def least(store: Path) -> int:
    """A cache that holds next to nothing: the model streams."""
    return needs(store, 8).least


def opened(store: Path, io: str = "auto", **options: Any) -> Model:
    """A model that reads nearly all of its weights for every call."""
    return Model.open(store, precision=8, cache=least(store), threads=2, io=io, **options)


@pytest.fixture(scope="module")
def truth(tale: Path) -> Rows:
    with Model.open(tale, precision=8) as model:
        return model.logits(IDS)


@pytest.fixture
def store(tale: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return forge.copy(tale, tmp_path / "spoilt.m2c")


@pytest.fixture(params=["psync", "uring"])
def io(request: pytest.FixtureRequest, tale: Path) -> str:
    name: str = request.param
    if name == "uring":
        try:
            opened(tale, "uring").close()
        except M2CacheError as error:
            pytest.skip(f"not run with io_uring: {error}")
    return name


# ---- reads that fail ----


@pytest.mark.parametrize("nth", [1, 2, 3, 9, 40, 41, 64, 100, 150])
def test_one_read_fails(tale: Path, truth: Rows, io: str, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that needs it fails by name, or did not need it; the next one is right."""
    monkeypatch.setenv(FAULTS, f"eio={nth}")
    with opened(tale, io) as model:
        failed = 0
        for _ in range(4):
            try:
                rows = model.logits(IDS)
            except StoreIOError as error:
                failed += 1
                check_io_error(error)
            else:
                np.testing.assert_array_equal(rows, truth)
        assert failed == 1


def check_io_error(error: StoreIOError) -> None:
    assert error.errno == errno.EIO
    assert "Input/output error" in str(error)
    assert "\n" not in str(error)
    assert re.search(IS_RECORDS, str(error))


def test_no_read_succeeds_any_more(tale: Path, io: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "eio=5..")
    with opened(tale, io) as model:
        for _ in range(3):
            with pytest.raises(StoreIOError, match=IS_RECORDS) as caught:
                model.logits(IDS)
            assert caught.value.errno == errno.EIO
        assert model.stats()["kv_bytes"] == 0, "failed calls leave no sequence behind"
    with pytest.raises(M2CacheError, match="the model is closed"):
        model.logits(IDS)


def test_a_generation_that_fails_can_be_repeated(tale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tale) as model:
        wanted = [token.id for token in model.generate(IDS, max_new_tokens=8)]
    # Behind the prompt's reads, inside the tokens'.
    monkeypatch.setenv(FAULTS, "eio=300")
    with opened(tale) as model:
        began: list[int] = []
        with pytest.raises(StoreIOError):
            began.extend(token.id for token in model.generate(IDS, max_new_tokens=8))
        assert 0 < len(began) < 8
        assert began == wanted[: len(began)]
        assert [token.id for token in model.generate(IDS, max_new_tokens=8)] == wanted


@pytest.mark.parametrize("faults", ["short", "slow=1ms", "reverse", "short,slow=500us,reverse"])
def test_reads_that_come_short_late_or_out_of_order(
    tale: Path,
    truth: Rows,
    io: str,
    faults: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(FAULTS, faults)
    with opened(tale, io) as model:
        np.testing.assert_array_equal(model.logits(IDS), truth)
    assert any("faults are injected into reads" in record.getMessage() for record in caplog.records)


def test_rows_of_a_call_are_waited_for_together(tale: Path, io: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.arange(48, dtype=np.uint32)[::-1].copy()
    with opened(tale, io) as model, model.turn() as backend:
        alone = [backend.engine.embed(tokens[at : at + 1])[0] for at in range(len(tokens))]
    monkeypatch.setenv(FAULTS, "slow=50ms")
    with opened(tale, io) as model, model.turn() as backend:
        np.testing.assert_array_equal(backend.engine.embed(tokens), np.stack(alone))
        stalls = json.loads(backend.engine.stats())["stalls"]
    assert 0 < stalls < 16, "sixteen rows at a time: three waits, and few more if the machine is busy"


# ---- files that change ----


def test_a_file_is_cut_short(store: Path, truth: Rows, io: str) -> None:
    whole = (store / LAYER).read_bytes()
    with opened(store, io) as model:
        np.testing.assert_array_equal(model.logits(IDS), truth)
        os.truncate(store / LAYER, len(whole) // 3)
        for _ in range(2):
            with pytest.raises(StoreError, match=r"the file is truncated.*\(wanted were section") as caught:
                model.logits(IDS)
            assert str(store / LAYER) in str(caught.value)
        with (store / LAYER).open("r+b") as file:
            file.write(whole)
        np.testing.assert_array_equal(model.logits(IDS), truth)


def test_a_file_is_emptied_before_its_first_read(store: Path) -> None:
    with opened(store) as model:
        os.truncate(store / LAYER, 0)
        with pytest.raises(StoreError, match=rf"{LAYER} ends at byte 0, .*: the file is truncated"):
            model.logits(IDS)


def test_a_file_is_replaced(store: Path, truth: Rows, io: str, tmp_path: Path) -> None:
    """The open file stays what it was, whatever is now behind its name; opening again sees the other one."""
    with opened(store, io) as model:
        (tmp_path / "other").write_bytes(bytes((store / LAYER).stat().st_size))
        (tmp_path / "other").rename(store / LAYER)
        np.testing.assert_array_equal(model.logits(IDS), truth)
        (store / LAYER).unlink()
        np.testing.assert_array_equal(model.logits(IDS), truth)
    with pytest.raises(StoreIOError, match=LAYER):
        opened(store)


def test_the_store_is_removed(store: Path, truth: Rows) -> None:
    with opened(store) as model:
        shutil.rmtree(store)
        np.testing.assert_array_equal(model.logits(IDS), truth)


# ---- bytes that change ----


@pytest.fixture
def record(store: Path) -> tuple[str, int]:
    """A section that every call reads, and the place of its record 0 in the file."""
    layout = json.loads(_core.Store(str(store)).layout())
    (file,) = (file for file in layout["files"] if file["name"] == LAYER)
    section = next(one for one in file["sections"] if one["name"] == "down.base")
    return section["name"], section["offset"]


@pytest.mark.parametrize("verify", ["first", "always"])
def test_damage_before_the_first_read(
    store: Path, truth: Rows, io: str, record: tuple[str, int], verify: str
) -> None:
    name, offset = record
    with opened(store, io, verify=verify) as model:
        forge.flip(store / LAYER, offset + 5)
        for _ in range(2):
            with pytest.raises(DamageError, match=f"{LAYER}: section {name}, record 0: checksum mismatch"):
                model.logits(IDS)
        forge.flip(store / LAYER, offset + 5)
        np.testing.assert_array_equal(model.logits(IDS), truth)


def test_damage_behind_the_first_read(store: Path, truth: Rows, io: str, record: tuple[str, int]) -> None:
    """What `first` cannot see, `always` does."""
    name, offset = record
    with opened(store, io, verify="always") as sure, opened(store, io) as trusting:
        for model in (sure, trusting):
            np.testing.assert_array_equal(model.logits(IDS), truth)
        forge.flip(store / LAYER, offset + 5)
        with pytest.raises(DamageError, match=f"{LAYER}: section {name}, record 0: checksum mismatch"):
            sure.logits(IDS)
        assert (trusting.logits(IDS) != truth).any(), "documented in docs/format.md, section 7"
        forge.flip(store / LAYER, offset + 5)
        np.testing.assert_array_equal(sure.logits(IDS), truth)


def test_what_the_cache_holds_cannot_change(store: Path, truth: Rows, record: tuple[str, int]) -> None:
    with Model.open(store, precision=8) as model:
        np.testing.assert_array_equal(model.logits(IDS), truth)
        for file in store.glob("*.safetensors"):
            os.truncate(file, 0)
        rows = model.logits(IDS)
    np.testing.assert_array_equal(rows, truth)


# ---- the command line ----


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    """The error of a program that failed as promised."""
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    *notes, error = ended.stderr.splitlines()
    assert all(line.startswith("m2cache: ") and "error" not in line for line in notes)
    assert error.startswith("m2cache: error: ")
    return error


@pytest.mark.parametrize("command", [["generate", "-p", "In the"], ["eval", "--text"]])
@pytest.mark.parametrize("faults", ["eio=1", "eio=30", "eio=5.."])
def test_a_command_whose_reads_fail(
    cli: Cli, tale: Path, command: list[str], faults: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAULTS, faults)
    (tmp_path / "text").write_text("In the beginning God created the heaven and the earth.")
    extra = [tmp_path / "text"] if command[0] == "eval" else []
    error = last_line(cli(command[0], tale, *command[1:], *extra, "--precision", "8", "--cache", least(tale)))
    assert "Input/output error" in error
    assert "(wanted were section " in error


@pytest.fixture
def running(store: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`m2cache generate` that reads nearly all weights for every token, held behind its first words."""
    command = [sys.executable, "-m", "m2cache_rs", "generate", store, "-p", "In the beginning"]
    options = ["--precision", "8", "--cache", str(least(store)), "--max-new-tokens", "200"]
    with held([*command, *options, "--verify", "always"]) as process:
        wait_for_output(process)
        yield process


def _cut(path: Path) -> None:
    os.truncate(path, 8192)


def _damage(path: Path) -> None:
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(byte ^ 1 for byte in whole))


@pytest.mark.parametrize(
    ("spoil", "message"), [(_cut, "the file is truncated"), (_damage, "checksum mismatch|digest")]
)
def test_a_command_whose_file_changes(
    running: subprocess.Popen[bytes], store: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(store / LAYER)
    output, errors = let_go(running)
    ended = subprocess.CompletedProcess(running.args, running.returncode, output, errors)
    error = last_line(ended)
    assert str(store / LAYER) in error
    assert any(part in error for part in message.split("|"))


def test_always_sees_records_that_came_with_their_own_table(store: Path, truth: Rows) -> None:
    with opened(store, verify="always") as model:
        assert np.array_equal(model.logits(IDS), truth)
        # In place, so that the open handle sees it: a file that is sound by itself.
        (store / LAYER).write_bytes((store / "layer-00002.safetensors").read_bytes())
        with pytest.raises(StoreError, match="layer-00003"):
            model.logits(IDS)
