"""`m2cache profile` as a user runs it: reports, refusals, Ctrl-C, memory, and no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sources import contents, is_sound
from tests.stores import EXAMPLE, Cli

TEXT = EXAMPLE / "README.md"


@pytest.fixture
def store(tale: Path, tmp_path: Path) -> Path:
    """The demo store, to have a profile of its own."""
    copy = tmp_path / "tale.m2c"
    copy.mkdir()
    for one in tale.iterdir():
        if one.is_file():
            (copy / one.name).hardlink_to(one)
    return copy


def test_a_profile_its_table_and_a_store_hot_first(store: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "profile", store, "--text", TEXT, "--tokens", "120", "--force", "--reorder", tmp_path / "hot.m2c"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "120 tokens, dense at 16 bits" in done.stdout
    assert "rank 64, of gate and up, 20.2% of the FFN's bytes at 4 bits; 96 tokens" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()[-5:]]
    assert [row[0] for row in rows] == ["0.700", "0.500", "0.350", "0.250", "0.100"]
    assert {len(row) for row in rows} == {10}
    assert is_sound(tmp_path / "hot.m2c")
    again = cli("profile", store, "--reorder", tmp_path / "again.m2c", "--json")
    assert (again.returncode, again.stderr) == (0, "")
    ids = [json.loads((tmp_path / f"{name}.m2c/m2cache.json").read_text())["id"] for name in ("hot", "again")]
    assert ids == [json.loads(again.stdout)["reordered"]["id"]] * 2


def test_the_process_stays_within_its_cap(store: Path, cli: Cli) -> None:
    done = cli("profile", store, "--text", TEXT, "--tokens", "100", "--force", "--dram", "200MiB", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["peak_rss_bytes"] < 200 << 20
    assert len(report["svd"]["recall"]) == len(report["plane_held_out"]) == len(report["shares"]) == 5
    refused = cli("profile", store, "--text", TEXT, "--dram", "80MiB")
    assert refused.returncode == 2
    assert "the least that works is" in refused.stderr


def test_without_predictors_there_are_none(store: Path, cli: Cli) -> None:
    done = cli("profile", store, "--text", TEXT, "--tokens", "50", "--force", "--no-predictors", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout).keys().isdisjoint({"svd", "rank", "plane_held_out"})
    assert [one.name for one in (store / "profiles").iterdir()] == ["neurons.json"]


def test_a_store_of_fewer_planes_is_exact_at_its_highest(tale_mid: Path, cli: Cli) -> None:
    done = cli("profile", tale_mid, "--text", TEXT, "--tokens", "40", "--force", "--no-predictors", "--json")
    assert json.loads(done.stdout)["bits"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "there is nothing to do: name a --text"),
        (("--text", "none.txt"), "the text cannot be read from none.txt"),
        (("--text", "/dev/null"), "the text has fewer than two tokens"),
        (("--text", sys.executable), "is not UTF-8"),
        (("--text", TEXT, "--tokens", "1"), "at least 2 are needed"),
        (("--text", TEXT, "--tokens", "-5"), "at least 2 are needed"),
        (("--text", TEXT, "--tokens", "255"), "255 tokens of text are too few to tell anything: 256 are"),
        (("--text", TEXT, "--rank", "0"), "rank is 0; the matrices of this model have 1 to 256"),
        (("--text", TEXT, "--rank", "257"), "rank is 257"),
        (("--text", TEXT, "--rank", "8", "--no-predictors"), "leaves nothing for --trained or --rank"),
        (("--text", TEXT, "--trained"), r"pip install 'm2cache-rs[train]'"),
        (("--reorder", "new.m2c"), "has no profile of its neurons"),
        (("--text", TEXT, "--reorder", "/"), "exists already"),
    ],
)
def test_bad_use_is_said_in_a_line(
    store: Path, cli: Cli, options: tuple[str | Path, ...], message: str
) -> None:
    done = cli("profile", store, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("m2cache: error: ")
    assert done.stderr.count("\n") == 1
    assert not list(store.glob("profiles/*"))


def test_a_profile_of_another_store_is_refused(store: Path, cli: Cli, tmp_path: Path) -> None:
    assert (
        cli("profile", store, "--text", TEXT, "--tokens", "40", "--force", "--no-predictors").returncode == 0
    )
    path = store / "profiles/neurons.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store": "f" * 32}))
    done = cli("profile", store, "--reorder", tmp_path / "hot.m2c")
    assert done.returncode == 2
    assert f"{path} was made for another store" in done.stderr
    assert not (tmp_path / "hot.m2c").exists()


def test_less_text_replaces_what_was_made_from_more_if_that_is_asked_for(store: Path, cli: Cli) -> None:
    def profile(tokens: int, *options: str) -> tuple[int, str]:
        done = cli("profile", store, "--text", TEXT, "--tokens", str(tokens), *options)
        return done.returncode, done.stderr

    assert profile(300) == (0, "")
    kept = contents(store / "profiles")
    code, err = profile(260)
    assert code == 2
    assert f"{store}/profiles/neurons.json was made from 300 tokens, and 260 would replace it" in err
    (store / "profiles/neurons.json").unlink()
    code, err = profile(260)
    assert "predictor-svd.safetensors was made from 300 tokens, and 260 would replace it" in err
    assert profile(260, "--no-predictors", "--query-heads") == (0, "")
    code, err = profile(257, "--no-predictors", "--query-heads", "--force")
    assert (code, err) == (0, "")
    code, err = profile(256, "--no-predictors")
    assert f"{store}/profiles/neurons.json was made from 257 tokens" in err
    (store / "profiles/neurons.json").write_text("damaged")
    code, err = profile(256, "--no-predictors", "--query-heads")
    assert "query-heads.safetensors was made from 257 tokens" in err
    assert profile(300) == (0, "")
    assert contents(store / "profiles").items() >= kept.items()


def test_an_interrupt_leaves_nothing(store: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text(TEXT.read_text() * 300)
    command = [sys.executable, "-m", "m2cache_rs", "profile", store, "--text", text, "--tokens", "40000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not is_keeping(process.pid, store) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert err.endswith("m2cache: interrupted\n")
    assert list((store / "profiles").iterdir()) == []


def is_keeping(process: int, store: Path) -> bool:
    """Whether it has its nameless file of activations open."""
    try:
        links = [os.readlink(handle) for handle in Path(f"/proc/{process}/fd").iterdir()]
    except FileNotFoundError:  # closed, or ended, since
        return False
    return any(str(store / "profiles") in link for link in links)
