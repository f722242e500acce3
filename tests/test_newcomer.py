"""What people who had never seen the program met in their first hour, kept mended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import Model
from m2cache_rs.cli import output
from m2cache_rs.convert import convert
from m2cache_rs.errors import CheckpointError, StoreError, UsageError
from m2cache_rs.runtime.machine import usable_cores

from tests.attacks import forge
from tests.stores import EXAMPLE, Cli

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lost(tale: Path, tmp_path: Path) -> Path:
    """A store whose manifest was lost."""
    store = forge.copy(tale, tmp_path / "lost.m2c")
    (store / "m2cache.json").unlink()
    return store


def test_a_store_without_its_manifest_is_damaged_and_no_model(cli: Cli, lost: Path) -> None:
    """It has a config.json, so it was taken for a model to be converted."""
    ended = cli("verify", lost)
    assert ended.returncode == 1
    message, count = ended.stdout.splitlines()
    assert message.startswith(f"{lost} is a store whose m2cache.json is missing")
    assert count == "1 damage"
    assert "convert" not in ended.stderr
    with pytest.raises(StoreError, match=r"m2cache\.json is missing"):
        Model.open(lost)


def test_a_file_of_a_store_leads_to_the_store(cli: Cli, tale: Path) -> None:
    for name in ("config.json", "m2cache.json", "embed.safetensors"):
        ended = cli("inspect", tale / name)
        assert ended.returncode == 2
        assert f"{tale / name} is a file of a store; name the store itself, {tale}" in ended.stderr


def test_a_quoted_tilde_is_home(cli: Cli, tale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tale.parent))
    (tale.parent / "text.txt").write_text("In the beginning God created the heaven.")
    commands = [
        ["inspect", f"~/{tale.name}"],
        ["verify", f"~/{tale.name}"],
        ["generate", f"~/{tale.name}", "-f", "~/text.txt", "--max-new-tokens", "1"],
        ["eval", f"~/{tale.name}", "--text", "~/text.txt"],
    ]
    for command in commands:
        ended = cli(*command)
        assert ended.returncode == 0, ended.stderr
    Model.open(f"~/{tale.name}").close()
    with pytest.raises(UsageError, match="~nobody-at-all/x does not exist"):
        Model.open("~nobody-at-all/x")


def test_a_hub_that_cannot_be_reached_is_told_in_whole_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> str:
        raise OSError("No network.\n" + "Please do something about it. " * 50)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(CheckpointError) as caught:
        convert("someone/model", tmp_path / "x.m2c")
    message = str(caught.value)
    assert message.endswith(" ...")
    assert message.removesuffix(" ...").split()[-1] in ("Please", "do", "something", "about", "it.")
    assert "could not be fetched: No network. Please do something about it." in message
    assert len(message) < 700


@pytest.mark.parametrize("prompt", [5, None, 1.5, b"abc", {"a": 1}, iter([1])])
def test_a_prompt_that_is_none(tale: Path, prompt: Any) -> None:
    with (
        Model.open(tale, precision=4) as model,
        pytest.raises(UsageError, match="a text or a list of token ids is needed"),
    ):
        model.generate(prompt)


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_is_worth_a_word(tale: Path, prompt: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Model.open(tale, precision=4) as model:
        list(model.generate("In", max_new_tokens=1))
        assert caplog.messages == []
        list(model.generate(prompt, max_new_tokens=1))
    assert caplog.messages == [
        f"the prompt is empty: the text begins with the model's own first token ({model.assets.bos})"
    ]


def test_more_threads_than_cores_is_worth_a_word(tale: Path, caplog: pytest.LogCaptureFixture) -> None:
    cores = usable_cores()
    Model.open(tale, precision=4, threads=cores).close()
    assert caplog.messages == []
    Model.open(tale, precision=4, threads=cores + 1).close()
    assert caplog.messages == [f"threads is {cores + 1}, but this process has {cores} cores: more only wait"]


@pytest.mark.parametrize(("option", "kind"), [("--seed", "integer"), ("--top-p", "number")])
def test_a_number_that_is_none(cli: Cli, option: str, kind: str) -> None:
    ended = cli("generate", "x.m2c", "-p", "x", option, "abc")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"'{option}'" in ended.stderr
    assert "unable to parse" not in ended.stderr
    assert kind in ended.stderr or "is not a valid" in ended.stderr


def test_counts_agree_with_their_nouns() -> None:
    assert [output.count(n, "damage") for n in (0, 1, 2)] == ["0 damages", "1 damage", "2 damages"]


def test_sizes_are_told_in_one_kind_of_unit(cli: Cli, tmp_path: Path) -> None:
    shown = cli("convert", EXAMPLE, tmp_path / "tale.m2c").stdout
    assert "12.7 MiB from 11.0 MiB" in shown
    assert " MB" not in shown
    assert " MB" not in cli("inspect", tmp_path / "tale.m2c").stdout


def test_a_demo_that_nobody_reads_to_the_end(tmp_path: Path) -> None:
    """As behind `| head`: no traceback, and what a shell knows as a broken pipe."""
    source = (ROOT / "examples/demo.py").read_text()
    body = source.replace("        main()\n", "        print('x' * 1_000_000)\n")
    assert body != source
    (tmp_path / "demo.py").write_text(body)
    with subprocess.Popen(
        [sys.executable, tmp_path / "demo.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) == 141
