"""Bad use, bad targets, a full disk: one clear error before any harm, and nothing half-written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import _core
from m2cache_rs.convert import Progress, convert, partial, run, workplace
from m2cache_rs.convert.target import check_target
from m2cache_rs.errors import CheckpointError, StoreIOError, UsageError

from tests.held import let_go, started, wait_until
from tests.reference import checkpoint
from tests.sources import CONFIG, EXAMPLE, contents, make, model
from tests.stores import Cli

__all__ = ["model"]


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir())


# ---- options ----


@pytest.mark.parametrize(
    "option",
    [{"form": "nf4"}, {"group": 128}, {"planes": "low"}, {"sections": "mixed"}, {"tokenizer": "x.bin"}],
)
def test_unknown_options_are_refused(option: dict[str, Any], model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        convert(model, tmp_path / "tiny.m2c", **option)
    assert names(tmp_path) == ["model"]


# ---- targets ----


def _target_file(base: Path) -> Path:
    (base / "taken").write_text("mine")
    return base / "taken"


def _target_link(base: Path) -> Path:
    (base / "real").mkdir()
    (base / "link").symlink_to("real")
    return base / "link"


def _target_dangling(base: Path) -> Path:
    (base / "link").symlink_to("nowhere")
    return base / "link"


def _target_full(base: Path) -> Path:
    (base / "taken").mkdir()
    (base / "taken/diary.txt").write_text("mine")
    return base / "taken"


def _partial_file(base: Path) -> Path:
    (base / "new.m2c.partial").write_text("mine")
    return base / "new.m2c"


def _partial_link(base: Path) -> Path:
    (base / "real").mkdir()
    (base / "new.m2c.partial").symlink_to("real")
    return base / "new.m2c"


def _partial_full(base: Path) -> Path:
    (base / "new.m2c.partial").mkdir()
    (base / "new.m2c.partial/diary.txt").write_text("mine")
    return base / "new.m2c"


TARGETS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a file": (_target_file, "is a file"),
    "a link": (_target_link, "is a symbolic link"),
    "a dangling link": (_target_dangling, "is a symbolic link"),
    "a directory of something else": (_target_full, "is no store .*--force replaces stores only"),
    "the source": (lambda base: base / "model", "is no store"),
    "inside the source": (lambda base: base / "model/new.m2c", "lies inside the source"),
    "the parent of the source": (lambda base: base, "is no store"),
    "parent missing": (lambda base: base / "no/new.m2c", "does not exist; create it first"),
    "parent is a file": (lambda base: base / "model/config.json/new.m2c", "is not a directory"),
    "a name for unfinished ones": (lambda base: base / "x.partial", "cannot name a store"),
    "the root": (lambda base: Path("/"), "cannot name a store"),
    "partial is a file": (_partial_file, "partial is not a directory"),
    "partial is a link": (_partial_link, "partial is not a directory"),
    "partial is somebody else's": (_partial_full, "diary.txt is no part of an unfinished store"),
}


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("case", TARGETS)
def test_a_bad_target_is_refused_and_left_alone(case: str, model: Path, tmp_path: Path) -> None:
    prepare, message = TARGETS[case]
    target = prepare(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=message):
        convert(model, target, force=True)
    assert tree(tmp_path) == before


def test_an_existing_store_needs_force(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "tiny.m2c")
    before = contents(tmp_path / "tiny.m2c")
    with pytest.raises(UsageError, match="exists already; pass --force"):
        convert("no/such/model", tmp_path / "tiny.m2c")
    assert contents(tmp_path / "tiny.m2c") == before


def test_a_target_that_appears_meanwhile_is_kept(model: Path, tmp_path: Path) -> None:
    def occupy(progress: Progress) -> None:
        (tmp_path / "tiny.m2c").mkdir(exist_ok=True)

    with pytest.raises(UsageError, match="exists already"):
        convert(model, tmp_path / "tiny.m2c", progress=occupy)
    (tmp_path / "tiny.m2c").rmdir()
    report = convert(model, tmp_path / "tiny.m2c", notify=lambda _: None)
    assert report.resumed_files == 4


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere, so for a while this thread is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_a_read_only_parent_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0o555)
        with unprivileged(), pytest.raises(StoreIOError, match="closed cannot be written"):
            check_target(closed / "tiny.m2c", force=False)


def test_two_conversions_at_a_time_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.m2c.partial").mkdir()
    other = os.open(tmp_path / "tiny.m2c.partial", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another conversion is writing"):
        convert(model, tmp_path / "tiny.m2c")
    os.close(other)
    convert(model, tmp_path / "tiny.m2c")


def test_a_directory_renamed_before_the_lock_is_noticed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish_first(handle: int, flags: int) -> None:
        (tmp_path / "tiny.m2c.partial").rename(tmp_path / "moved")

    monkeypatch.setattr(workplace.fcntl, "flock", finish_first)
    with pytest.raises(UsageError, match="another conversion is writing"):
        convert(model, tmp_path / "tiny.m2c")


def test_a_source_that_changes_meanwhile_is_refused(model: Path, tmp_path: Path) -> None:
    def touch(progress: Progress) -> None:
        os.utime(model / "model.safetensors")

    with pytest.raises(CheckpointError, match="changed while it was converted"):
        convert(model, tmp_path / "tiny.m2c", progress=touch)
    assert not (tmp_path / "tiny.m2c").exists()


# ---- the disk ----


def test_too_little_space_is_said_before_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        StoreIOError, match=r"not enough space in .*: the store needs 2\.\d MiB more, 97\.7 KiB are free"
    ):
        convert(model, tmp_path / "tiny.m2c")
    assert names(tmp_path) == ["model"]


class FullDisk:
    """A writer whose disk is full when the third file begins."""

    def __init__(self, *arguments: str) -> None:
        self._writer = _core.StoreWriter(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def begin(self, name: str) -> None:
        if name == "layer-00002.safetensors":
            error = StoreIOError(f"reserving space for {name}: No space left on device")
            error.errno = errno.ENOSPC
            raise error
        self._writer.begin(name)


def test_a_disk_that_fills_up_leaves_what_is_finished(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = type("Core", (), {**vars(_core), "StoreWriter": FullDisk})
    with monkeypatch.context() as patch:
        patch.setattr(run, "_core", core)
        with pytest.raises(
            StoreIOError, match=r"No space left.*tiny\.m2c\.partial: free some space"
        ) as caught:
            convert(model, tmp_path / "tiny.m2c")
    assert caught.value.errno == errno.ENOSPC
    assert convert(model, tmp_path / "tiny.m2c", notify=lambda _: None).resumed_files == 2


FILLING = """
import sys
from pathlib import Path
from m2cache_rs.convert import convert
from m2cache_rs.errors import StoreIOError
disk, source = Path(sys.argv[1]), sys.argv[2]
def fill(progress):
    if progress.file == "layer-00003.safetensors" and not (disk / "other").exists():
        with (disk / "other").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
try:
    convert(source, disk / "tale.m2c", progress=fill)
except StoreIOError as err:
    print(err)
(disk / "other").unlink()
print(convert(source, disk / "tale.m2c", notify=print).resumed_files)
"""


def test_a_real_full_disk(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=24m none {tmp_path} && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here, so no small file system to fill")
    child = [sys.executable, "-c", FILLING, str(tmp_path), str(EXAMPLE)]
    result = subprocess.run([*command, *child], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    full, resuming, resumed = result.stdout.splitlines()
    assert "No space left on device" in full
    assert "tale.m2c.partial: free some space and run the same command again" in full
    assert resuming == "resuming: 3 of 7 files are finished already"
    assert resumed == "3"


# ---- the command ----


def test_the_command_says_what_it_made(tmp_path: Path, cli: Cli) -> None:
    result = cli("convert", EXAMPLE, tmp_path / "tale.m2c")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "12.7 MiB from 11.0 MiB" in result.stdout
    assert "4.5 at 4 bits, 8.5 at 8 bits, 16.5 at 16 bits" in result.stdout
    again = cli("convert", EXAMPLE, tmp_path / "tale.m2c")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"m2cache: error: {tmp_path}/tale.m2c exists already; pass --force to replace it\n"
    report = json.loads(cli("convert", EXAMPLE, tmp_path / "tale.m2c", "--force", "--json").stdout)
    assert report["id"] == json.loads((tmp_path / "tale.m2c/m2cache.json").read_text())["id"]


def test_the_command_warns_of_zeros(tmp_path: Path, cli: Cli) -> None:
    source = make(tmp_path / "model")
    named = checkpoint.load(source)[2]
    named["0.gate"][:, ::2] = 0
    checkpoint.save(source, CONFIG, named, "BF16")
    result = cli("convert", source, tmp_path / "tiny.m2c")
    assert result.returncode == 0
    assert "warning: 1.8% of the weights are exact zeros" in result.stderr


def test_ctrl_c_is_one_line_and_the_work_goes_on_later(tmp_path: Path) -> None:
    stuck = (
        "import time, m2cache_rs.convert.files as files; write = files.FileWriter.write\n"
        "def stay(self, name, layer, parts):\n"
        "    while layer == 1: time.sleep(0.01)\n"
        "    return write(self, name, layer, parts)\n"
        "files.FileWriter.write = stay\n"
        "from m2cache_rs.cli.main import run; run()"
    )
    journal = tmp_path / "tale.m2c.partial/convert.journal"
    with started([sys.executable, "-c", stuck, "convert", EXAMPLE, tmp_path / "tale.m2c"]) as child:
        wait_until(child, lambda: journal.exists() and "layer-00000" in journal.read_text())
        child.send_signal(signal.SIGINT)
        stderr = let_go(child)[1]
    assert (child.returncode, stderr) == (130, "m2cache: interrupted\n")
    assert names(tmp_path) == ["tale.m2c.partial"]
    assert convert(EXAMPLE, tmp_path / "tale.m2c", notify=lambda _: None).resumed_files == 1
