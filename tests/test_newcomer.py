"""What people who had never seen the program met in their first hour, kept mended."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from m2cache_rs import Model
from m2cache_rs.cli import output, words
from m2cache_rs.cli.shapes import shape_of
from m2cache_rs.config import PARTS, parse_size
from m2cache_rs.convert import convert
from m2cache_rs.errors import CheckpointError, StoreError, UsageError
from m2cache_rs.machine.machine import usable_cores
from m2cache_rs.plan import shape
from m2cache_rs.plan.plan import Request, make
from m2cache_rs.plan.planner import Rates
from m2cache_rs.recipe.dial import Chosen
from m2cache_rs.recipe.recipe import Recipe

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
    assert caplog.messages == [
        f"threads is {cores + 1}, but this process has {cores} cores: the others only wait"
    ]


@pytest.mark.parametrize(("option", "kind"), [("--seed", "integer"), ("--top-p", "number")])
def test_a_number_that_is_none(cli: Cli, option: str, kind: str) -> None:
    ended = cli("generate", "x.m2c", "-p", "x", option, "abc")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"'{option}'" in ended.stderr
    assert "unable to parse" not in ended.stderr
    assert kind in ended.stderr or "is not a valid" in ended.stderr


def test_a_full_disk_behind_standard_output_is_named(cli: Cli, tale: Path) -> None:
    for command in (["inspect", tale], ["inspect", tale, "--json"], ["generate", tale, "-p", "a"]):
        with open("/dev/full", "w") as full:
            ended = cli(*command, capture_output=False, stdout=full, stderr=-1)
        assert ended.returncode == 2
        refused = "m2cache: error: standard output cannot be written: No space left on device"
        assert ended.stderr.splitlines()[-1] == refused


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1013.4, "1010"),
        (123456.0, "123000"),
        (178.6, "179"),
        (39.64, "39.6"),
        (0.6432, "0.643"),
        (0.0000123, "0.0000123"),
        (3.0, "3"),
        (0.0, "0"),
    ],
)
def test_figures_are_written_out(value: float, shown: str) -> None:
    assert words.figures(value) == shown
    assert "e" not in words.seconds(value)


def test_plan_needs_no_store(cli: Cli, tmp_path: Path) -> None:
    for path, what in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "has neither a m2cache.json nor a config.json"),
    ):
        ended = cli("plan", path)
        assert ended.returncode == 2
        assert f"{path} {what}; give a store, or a model's config.json" in ended.stderr
        assert "convert" not in ended.stderr


def test_plan_of_a_file_of_a_store_leads_to_the_store(cli: Cli, tale: Path) -> None:
    assert f"name the store itself, {tale}" in cli("plan", tale / "embed.safetensors").stderr


def test_a_prompt_that_does_not_fit_is_refused_and_not_cut(tale: Path) -> None:
    rates = Rates(lambda size: 1.0, 10.0, {4: (1.0, 1.0)}, "told")
    chosen = Chosen(Recipe.dense(4))

    def planned(prompt: int | None, ctx: int | None) -> int:
        return make(
            shape_of(tale), Request(dram=None, ctx=ctx, prompt=prompt, threads=2, kv="f16"), chosen, rates
        ).prompt

    assert [planned(None, None), planned(None, 64), planned(None, 1), planned(63, 64)] == [512, 63, 1, 63]
    with pytest.raises(
        UsageError, match=r"64 tokens and a new one exceed the room that --ctx makes \(64 pos"
    ):
        planned(64, 64)
    with pytest.raises(UsageError, match=r"5000 tokens .* exceed the model's context \(1024 positions\)"):
        planned(5000, None)


def test_generate_says_at_which_precision_it_computes(cli: Cli, tale: Path) -> None:
    for options, said in (
        ([], "16 bits, f32 activations, keys and values in f16; memory "),
        (["--precision", "4", "--kv", "f32"], "4 bits, int8 activations, keys and values in f32; memory "),
        (
            ["--precision", "ffn=8"],
            "attn 16, ffn 8, head 16, embed 16 bits, int8 activations below 16 bits, keys",
        ),
    ):
        ended = cli("generate", tale, "-p", "a", "--max-new-tokens", 1, *options)
        assert ended.stderr.startswith(f"m2cache: {said}")
    report = json.loads(cli("generate", tale, "-p", "a", "--max-new-tokens", 1, "--json").stdout)
    assert (report["precision"], report["act"]) == (dict.fromkeys(PARTS, 16), "auto")


def test_a_refused_budget_names_every_way_out(cli: Cli, tale: Path) -> None:
    refused = cli("generate", tale, "-p", "a", "--dram", "70MiB", "--threads", 32, "--max-new-tokens", 900)
    assert refused.returncode == 2
    for way in ("--precision", "--ctx", "--max-new-tokens"):
        assert way in refused.stderr


def test_far_too_many_threads_are_refused(tale: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "usable_cores", lambda: 3)
    shape.check_threads(48)
    with pytest.raises(UsageError, match=r"threads is 49; with 3 cores it must lie in 1\.\.48"):
        Model.open(tale, threads=49)
    monkeypatch.setattr(shape, "usable_cores", lambda: 500)
    shape.check_threads(1024)
    with pytest.raises(UsageError, match=r"1\.\.1024"):
        shape.check_threads(1025)


@pytest.mark.parametrize("size", ["9" * 400, "9" * 20 + "GiB", "8388608TiB", 1 << 63, "9" * 400 + ".5"])
def test_sizes_beyond_any_machine_are_told_so(size: str | int) -> None:
    with pytest.raises(UsageError, match=r"^dram is [89].*more than any machine has") as caught:
        parse_size(size, "dram")
    assert len(str(caught.value)) < 120
    assert parse_size("8388607TiB") == 8388607 << 40
    assert parse_size("9007199254740993") == 9007199254740993, "whole numbers are exact"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intermediate_size": 1 << 30}, "intermediate_size is 1073741824; it must be"),
        (
            {"num_hidden_layers": 1 << 20},
            "num_hidden_layers is 1048576; it must be an integer from 1 to 16384",
        ),
        ({"hidden_size": 1 << 24, "head_dim": 64}, "hidden_size is 16777216; it must be"),
        ({"vocab_size": 1 << 40}, "vocab_size is 1099511627776; it must be"),
        (
            {"num_attention_heads": 1 << 20, "num_key_value_heads": 1 << 20, "head_dim": 1 << 10},
            "num_attention_heads is 1048576, which times head_dim",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 1e-320}}, "rope of type 'linear' gives"),
    ],
)
def test_a_bad_config_is_told_in_its_own_words(
    cli: Cli, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads((EXAMPLE / "config.json").read_text()) | change))
    ended = cli("plan", path)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"m2cache: error: {path}: {message}")


def test_a_trace_goes_where_a_quoted_tilde_says(
    tale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Model.open(tale, precision=4, trace="~/run.trace") as model:
        list(model.generate("In", 1))
    assert (tmp_path / "run.trace").stat().st_size > 0


def test_a_store_that_lost_its_manifest_and_its_first_layer(cli: Cli, lost: Path) -> None:
    for name in ("embed.safetensors", "layer-00000.safetensors"):
        (lost / name).unlink()
    ended = cli("verify", lost)
    assert ended.returncode == 1
    assert "is a store whose m2cache.json is missing" in ended.stdout


def limited(limit: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of the package under a `ulimit`."""
    words = shlex.join([sys.executable, "-m", "m2cache_rs", *map(str, command)])
    script = f"ulimit {limit}; exec {words}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("files", [8, 10, 12, 14])
def test_too_few_open_files_are_told_with_the_way_out(tale: Path, files: int) -> None:
    ended = limited(f"-n {files}", "generate", tale, "-p", "a", "--max-new-tokens", "1", "--io", "psync")
    assert ended.returncode == 2
    error = ended.stderr.splitlines()[-1]
    assert error.startswith("m2cache: error: ")
    assert "Too many open files" in error
    assert error.endswith("; raise the limit of open files (ulimit -n)")


@pytest.mark.parametrize("kibibytes", [50_000, 100_000, 160_000, (256 << 10) - 1])
def test_an_address_space_too_small_for_the_libraries(tale: Path, kibibytes: int) -> None:
    """It crashed, or hung, wherever the limit fell into an import."""
    ended = limited(f"-v {kibibytes}", "generate", tale, "-p", "a", "--max-new-tokens", "1")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert f"ulimit -v leaves {kibibytes} KiB of address space" in ended.stderr
    assert "262144 at least" in ended.stderr


def test_counts_agree_with_their_nouns() -> None:
    assert [output.count(n, "damage") for n in (0, 1, 2)] == ["0 damages", "1 damage", "2 damages"]


def test_sizes_are_told_in_one_kind_of_unit(cli: Cli, tmp_path: Path) -> None:
    shown = cli("convert", EXAMPLE, tmp_path / "tale.m2c").stdout
    assert "12.7 MiB from 11.0 MiB" in shown
    assert " MB" not in shown
    assert " MB" not in cli("inspect", tmp_path / "tale.m2c").stdout


@pytest.mark.parametrize("characters", [10, 1_000_000])
@pytest.mark.parametrize("program", ["examples/demo.py", "benches/replay.py"])
def test_a_program_that_nobody_reads_to_the_end(tmp_path: Path, program: str, characters: int) -> None:
    """As behind `| head`: no traceback, and what a shell knows as a broken pipe, also at its last flush."""
    source = (ROOT / program).read_text()
    body = source.replace("        main()\n", f"        print('x' * {characters})\n")
    assert body != source
    (tmp_path / "program.py").write_text(body)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, tmp_path / "program.py"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
