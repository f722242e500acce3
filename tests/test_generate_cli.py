"""The commands that run a store, as a user runs them: what is on stdout, on stderr, and the exit code."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from m2cache_rs import Model, __version__
from m2cache_rs.cli import output
from m2cache_rs.cli.program import main
from m2cache_rs.plan import wish

from tests.held import ROOM, held, let_go, wait_for_output
from tests.stores import Cli, but_denials

PROMPT = "In the beginning"
JSON_KEYS = {"text", "tokens", "prompt_tokens", "tokens_per_second", "first_token_seconds", "peak_rss_bytes"}
JSON_KEYS |= {"stats", "budget", "expected", "precision", "recipe", "act"}


def texts(store: Path, count: int, **options: object) -> str:
    with Model.open(store) as model:
        return "".join(token.text for token in model.generate(PROMPT, count, **options))  # type: ignore[arg-type]


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"m2cache {__version__}\n", "")


def test_help_names_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("convert", "inspect", "verify", "generate", "eval"))


def test_the_text_goes_to_stdout_and_two_lines_to_stderr(cli: Cli, tale: Path) -> None:
    done = cli("generate", tale, "-p", PROMPT, "--max-new-tokens", 10)
    assert done.returncode == 0
    assert done.stdout == texts(tale, 10) + "\n"
    assert done.stderr.count("\n") == 2
    assert "; memory " in done.stderr.splitlines()[0]
    assert "10 tokens after a prompt of 3" in done.stderr


def test_with_json_there_is_one_object(cli: Cli, tale: Path) -> None:
    done = cli(
        "generate", tale, "-p", PROMPT, "--max-new-tokens", 10, "--json", "--temperature", 0.9, "--top-k", 50,
        "--top-p", 0.95, "--min-p", 0.01, "--repetition-penalty", 1.1, "--seed", 5, "--cache", "2MiB",
        "--verify", "always", "--stop", "zebra", "--stop", "quagga", "--precision", "16", "--threads", 1,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert done.stderr == ""
    assert set(report) == JSON_KEYS
    flags = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1}
    assert report["text"] == texts(tale, 10, seed=5, **flags)
    assert (report["tokens"], report["prompt_tokens"]) == (10, 3)
    assert report["tokens_per_second"] > 0
    assert report["peak_rss_bytes"] > 10 << 20
    assert report["stats"]["read_bytes"] > report["stats"]["fixed_bytes"]


def test_prompts_from_stdin_and_from_a_file(cli: Cli, tale: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text(PROMPT)
    given = cli("generate", tale, "-p", "-", "--max-new-tokens", 4, input=PROMPT)
    read = cli("generate", tale, "-f", tmp_path / "prompt", "--max-new-tokens", 4)
    assert given.stdout == read.stdout == texts(tale, 4) + "\n"


def test_model_text_is_not_markup(cli: Cli, tale: Path) -> None:
    done = cli("generate", tale, "-p", "[bold]x[/bold] [link=", "--max-new-tokens", 3)
    assert done.returncode == 0


def test_text_that_the_terminal_cannot_spell_is_replaced(cli: Cli, tale: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code = "from m2cache_rs import Token; from m2cache_rs.cli.generate import _take; "
    code += "from m2cache_rs.cli.output import make_streams_safe; make_streams_safe(); "
    code += "_take([Token(1, 'né')], True)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"n?\n")


def generating(store: Path, count: int) -> list[str]:
    code = "from m2cache_rs.cli.main import run; run()"
    options = ["-p", PROMPT, "--max-new-tokens", str(count)]
    return [sys.executable, "-c", code, "generate", str(store), *options]


def test_words_come_one_by_one(tale: Path) -> None:
    """The first word is there while the last cannot be: the text is longer than the room that it has."""
    whole = texts(tale, 200)
    assert len(whole.encode()) > 4 * ROOM
    with held(generating(tale, 200)) as process:
        wait_for_output(process)
        process.send_signal(signal.SIGINT)
        out, errors = let_go(process)
    assert process.returncode == 130
    assert but_denials(errors).splitlines()[1:] == ["m2cache: interrupted"]
    assert out.endswith("\n")
    assert 1 < len(out) < len(whole) // 2
    assert whole.startswith(out[:-1])


def test_a_reader_that_goes_away_ends_it_quietly(tale: Path) -> None:
    with held(generating(tale, 200)) as process:
        wait_for_output(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read().decode()
        assert process.wait(60) == 141
    assert but_denials(errors).count("\n") == 1


def test_inspect_shows_what_the_store_holds(cli: Cli, tale: Path) -> None:
    plain, report = cli("inspect", tale), json.loads(cli("inspect", tale, "--json").stdout)
    assert plain.returncode == 0
    assert report["id"] in plain.stdout
    assert "4.50 at 4 (padded 6.00), 8.50 at 8 (padded 10.00), 16.50 at 16" in plain.stdout
    assert report["architecture"]["layers"] == 6
    assert report["encoding"]["coding"] == {"form": "affine", "group": 64, "cells": [1, 1, 1]}
    assert report["bits_per_weight"]["ffn"] == {"4": 4.5, "8": 8.5, "16": 16.5}
    assert report["bytes"] == sum(
        file.stat().st_size for file in tale.iterdir() if file.name != "m2cache.json"
    )
    gate = next(one for one in report["sections"] if one["name"] == "gate.base+up.base")
    assert gate == {
        "name": "gate.base+up.base",
        "files": 6,
        "records": 4608,
        "stride": 320,
        "bytes": 4608 * 320,
    }
    assert report["cache"]["4"]["least"] < report["cache"]["4"]["all"] < report["cache"]["16"]["all"]


def test_verify_finds_a_sound_store_sound(cli: Cli, tale: Path) -> None:
    done = cli("verify", tale)
    assert done.returncode == 0
    assert done.stdout.startswith("sound: ")
    assert json.loads(cli("verify", tale, "--json").stdout)["sound"] is True


def test_verify_names_every_damage(cli: Cli, tale: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tale, tmp_path / "damaged.m2c")
    for name, at in (("layer-00002.safetensors", -5), ("embed.safetensors", -900), ("tokenizer.json", 100)):
        data = bytearray((store / name).read_bytes())
        data[at] ^= 1
        (store / name).write_bytes(data)
    plain, done = cli("verify", store), cli("verify", store, "--json")
    report = json.loads(done.stdout)
    assert plain.returncode == done.returncode == 1
    assert report["sound"] is False
    found = [(one["file"], one["layer"]) for one in report["damages"]]
    assert found == [("layer-00002.safetensors", 2), ("embed.safetensors", None), ("tokenizer.json", None)]
    assert "section down.low, record 767" in report["damages"][0]["message"]
    assert "section embed.low, record 4092" in report["damages"][1]["message"]
    lines = plain.stdout.splitlines()
    assert lines[0] == f"layer 2: {report['damages'][0]['message']}"
    assert lines[-1] == "3 damages"


def test_warnings_are_one_line(
    tale: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wish, "_margin", lambda free: wish._MARGIN)
    monkeypatch.setattr(wish, "free_memory", lambda: wish._MARGIN + (16 << 20))
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["generate", str(tale), "-p", PROMPT, "--max-new-tokens", "1", "--json"]))
    lines = but_denials(capsys.readouterr().err).splitlines()
    assert ended.value.code == 0
    assert len(lines) == 1
    assert lines[0].startswith("m2cache: warning: the weights at this precision take 12.")


@pytest.mark.parametrize("name", ["layer-00001.safetensors", "m2cache.json"])
def test_verify_reports_a_missing_file(cli: Cli, tale: Path, tmp_path: Path, name: str) -> None:
    store = shutil.copytree(tale, tmp_path / "less.m2c")
    (store / name).unlink()
    done = cli("verify", store)
    assert done.returncode == 1
    assert name in done.stdout


def test_verify_reports_a_store_that_cannot_be_opened_as_damaged(
    cli: Cli, tale: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(tale, tmp_path / "cut.m2c")
    os.truncate(store / "layer-00001.safetensors", 5000)
    done = cli("verify", store)
    assert done.returncode == 1
    assert "layer-00001.safetensors" in done.stdout


def test_verify_goes_on_behind_files_that_are_broken(cli: Cli, tale: Path, tmp_path: Path) -> None:
    """Missing, cut, of another store, damaged: all of them are named, whatever comes first."""
    store = shutil.copytree(tale, tmp_path / "broken.m2c")
    (store / "layer-00000.safetensors").unlink()
    os.truncate(store / "layer-00001.safetensors", 5000)
    shutil.copy(store / "layer-00005.safetensors", store / "layer-00002.safetensors")
    with (store / "layer-00003.safetensors").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\xff")
    (store / "tokenizer.json").unlink()
    done = cli("verify", store, "--json")
    damages = {one["file"]: one for one in json.loads(done.stdout)["damages"]}
    assert done.returncode == 1
    assert {name: words in damages[name]["message"] for name, words in (
        ("layer-00000.safetensors", f"{store}/layer-00000.safetensors: the file is missing; put it back"),
        ("layer-00001.safetensors", "ends at byte 5000"),
        ("layer-00002.safetensors", "the file is damaged or from another store"),
        ("layer-00003.safetensors", "record 767"),
        ("tokenizer.json", "the file is missing"),
    )} == dict.fromkeys(damages, True)  # fmt: skip
    assert [one["layer"] for one in damages.values()] == [0, 1, 2, 3, None]
    assert cli("verify", store).stdout.splitlines()[-1] == "5 damages"


def test_verify_needs_one_file_at_a_time(cli: Cli, tale: Path) -> None:
    few = "ulimit -n 24; exec " + shlex.join([sys.executable, "-m", "m2cache_rs", "verify", str(tale)])
    done = subprocess.run(["bash", "-c", few], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_eval_prints_the_scores(cli: Cli, tale: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("And God said, Let there be light: and there was light. " * 20)
    plain = cli("eval", tale, "--text", text, "--precision", "ffn=4", "--tokens", 100)
    report = json.loads(cli("eval", tale, "--text", text, "--precision", "4", "--json").stdout)
    assert plain.returncode == 0
    assert plain.stderr == ""
    assert "attn 16, ffn 4, head 16, embed 16 bits" in plain.stdout
    assert "the same store dense at 16 bits" in plain.stdout
    assert report["mean_kl"] > 0
    assert report["needed_bytes_per_token"] > 0


def test_eval_says_what_it_compares_with(cli: Cli, tale: Path, tale_mid: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("And God said, Let there be light.")
    without = cli("eval", tale_mid, "--text", text)
    assert "the store leaves out the plane 'low'" in without.stdout
    assert "mean KL" not in without.stdout
    assert "itself" in cli("eval", tale, "--text", text, "--kv", "f32").stdout


def test_eval_measures_what_f16_keys_and_values_cost(cli: Cli, tale: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("And God said, Let there be light: and there was light. " * 8)
    report = json.loads(cli("eval", tale, "--text", text, "--json").stdout)
    assert report["kv"] == "f16"
    assert report["reference"] == "the same store dense at 16 bits, keys and values in f32"
    assert 0 < report["mean_kl"] < 1e-5
    exact = json.loads(cli("eval", tale, "--text", text, "--json", "--kv", "f32").stdout)
    assert (exact["kv"], exact["mean_kl"]) == ("f32", 0)


def test_generate_says_what_keys_and_values_are_kept_as(cli: Cli, tale: Path) -> None:
    for kv in ("f16", "f32"):
        done = cli("generate", tale, "-p", PROMPT, "--max-new-tokens", 2, "--kv", kv, "--json")
        stats = json.loads(done.stdout)["stats"]
        assert stats["kv"] == kv
    wrong = cli("generate", tale, "-p", PROMPT, "--kv", "q8")
    assert wrong.returncode == 2
    assert "kv is 'q8'; it must be one of f16, f32" in wrong.stderr


def test_commands_run_without_torch(cli: Cli, tale: Path) -> None:
    """The `cli` fixture hides torch, transformers and cupy; this proves that hiding them works."""
    code = "import sys; sys.modules['torch'] = None; import torch"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 1
    assert cli("generate", tale, "-p", PROMPT, "--max-new-tokens", 1).returncode == 0


@pytest.mark.parametrize(
    "name", ["torch", "transformers", "cupy", "rich", "typer", "huggingface_hub", "jinja2"]
)
def test_using_a_model_in_python_imports_no_more_than_it_needs(tale: Path, name: str) -> None:
    code = (
        "import sys; from m2cache_rs import Model\n"
        f"with Model.open({str(tale)!r}) as m: list(m.generate('a', 1))\n"
        f"assert {name!r} not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_almost_nothing() -> None:
    code = "import sys, m2cache_rs; assert not {'numpy', 'tokenizers', 'json', 'logging'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_progress_is_shown_on_a_terminal_only(tale: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("verifying", 10) as done:
        done(5)
    assert capsys.readouterr().err == ""
    main, child = pty.openpty()
    code = "from m2cache_rs.cli.main import run; run()"
    subprocess.run(
        [sys.executable, "-c", code, "verify", str(tale)], stdout=subprocess.DEVNULL, stderr=child, check=True
    )
    os.close(child)
    with io.FileIO(main) as terminal:
        assert b"verifying" in terminal.read(1 << 16)


def test_a_prompt_tells_how_far_it_is(tale: Path) -> None:
    told: list[float] = []
    with Model.open(tale, precision=4) as model:
        layers = model.architecture.layers
        list(model.generate([1] * 300, 3, progress=told.append))
    assert told[0] == 0
    assert told[-1] == 1
    assert told == sorted(told)
    # 256 rows take a call a layer, the 44 behind them as well.
    assert len(told) == 1 + 2 * layers


def test_the_ticker_leaves_the_terminal_as_it_was(tale: Path) -> None:
    with output.ticker("prompt") as progress:
        assert progress is None
    main, child = pty.openpty()
    code = (
        "import time; from m2cache_rs.cli.output import ticker\n"
        "with ticker('prompt') as told:\n"
        "    told(0.0); time.sleep(0.2); told(0.5); told(1.0)\n"
    )
    subprocess.run([sys.executable, "-c", code], stderr=child, check=True)
    os.close(child)
    with io.FileIO(main) as terminal:
        shown = terminal.read(1 << 16)
    assert b"prompt   0%" in shown
    assert b"prompt  50%" in shown
    assert shown.endswith(b"\r\x1b[K")
