"""Bad use: one clear line on stderr, exit code 2, no traceback, nothing on stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from m2cache_rs.cli import output
from m2cache_rs.cli.program import main
from m2cache_rs.machine.device_rates import DeviceRates, KernelRates, Rate
from m2cache_rs.plan import rates

from tests.stores import EXAMPLE, SMALL, Cli, but_denials, save_small

Refuses = Callable[..., None]

PROMPT = ("-p", "In the beginning")


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Refuses:
    """Runs a command line in this process (a process each would take a minute) and looks at its one line."""

    def check(*arguments: object, message: str) -> None:
        with pytest.raises(SystemExit) as ended:
            sys.exit(main([str(one) for one in arguments]))
        shown = capsys.readouterr()
        assert ended.value.code == 2
        assert shown.out == ""
        said = but_denials(shown.err)
        assert said.startswith("m2cache: error: ")
        assert said.count("\n") == 1
        assert message in said

    return check


@pytest.mark.parametrize(
    "command", [("generate", *PROMPT), ("inspect",), ("verify",), ("eval", "--text", __file__)]
)
def test_paths_that_are_no_store(refuses: Refuses, tmp_path: Path, command: tuple[str, ...]) -> None:
    name, *rest = command
    refuses(name, tmp_path / "none.m2c", *rest, message="does not exist")
    refuses(name, EXAMPLE, *rest, message="is a model, not a store; make a store with `m2cache convert")
    refuses(name, tmp_path, *rest, message="it has no m2cache.json")
    refuses(name, __file__, *rest, message="is a file, not a store")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one prompt: -p TEXT"),
        ((*PROMPT, "-f", __file__), "give one prompt"),
        (("-f", "/nowhere/prompt"), "the prompt cannot be read from /nowhere/prompt: No such file"),
        (("-f", "/"), "the prompt cannot be read from /: Is a directory"),
        ((*PROMPT, "--precision", "7"), "precision '7' is not known"),
        ((*PROMPT, "--precision", "nose=8"), "the part 'nose'"),
        ((*PROMPT, "--cache", "plenty"), "cache 'plenty' is no size"),
        ((*PROMPT, "--cache", "1K"), "the least that works is"),
        ((*PROMPT, "--dram", "plenty"), "dram 'plenty' is no size"),
        ((*PROMPT, "--dram", "1MiB"), "the least that works is"),
        ((*PROMPT, "--dram", "1GiB", "--cache", "1MiB"), "drop cache"),
        ((*PROMPT, "--ctx", "0"), "ctx is 0; the model's context takes 1 to 1024"),
        ((*PROMPT, "--ctx", "4096"), "ctx is 4096"),
        ((*PROMPT, "--ctx", "3"), "the prompt has 3 tokens, the room that --ctx makes holds 3"),
        ((*PROMPT, "--ctx", "8", "--max-new-tokens", "9"), "exceed the room that --ctx makes of 8"),
        ((*PROMPT, "--kv", "f8"), "kv is 'f8'"),
        ((*PROMPT, "--temperature", "-1"), "temperature is -1.0"),
        ((*PROMPT, "--max-new-tokens", "0"), "max_new_tokens is 0"),
        ((*PROMPT, "--max-new-tokens", "many"), "max-new-tokens"),
        ((*PROMPT, "--verify", "maybe"), "verify is 'maybe'"),
        ((*PROMPT, "--stop", ""), "stop string is empty"),
        ((*PROMPT, "--sead", "1"), "--sead"),
        (("-p", "word " * 1100), "the model's context holds 1024"),
    ],
)
def test_generate(refuses: Refuses, tale: Path, options: tuple[str, ...], message: str) -> None:
    refuses("generate", tale, *options, message=message)


def test_a_prompt_that_is_not_utf8(refuses: Refuses, tale: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"ab\xff")
    refuses("generate", tale, "-f", tmp_path / "prompt", message="is not UTF-8 (byte 2)")


def test_a_plane_that_is_not_stored(refuses: Refuses, tale_mid: Path) -> None:
    refuses("generate", tale_mid, *PROMPT, "--precision", "16", message="needs the plane 'low'")


def test_an_unfinished_conversion(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "x.m2c.partial").mkdir()
    refuses("inspect", tmp_path / "x.m2c.partial", message="unfinished conversion")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", "/nowhere/text"), "the text cannot be read from /nowhere/text"),
        (("--text", "/bin/ls"), "is not UTF-8"),
        (("--text", "/dev/null"), "no token to predict"),
        (("--text", __file__, "--tokens", "1"), "tokens is 1"),
        (("--text", __file__, "--ctx", "1"), "2 are the least"),
        (("--text", __file__, "--ctx", "0"), "ctx is 0"),
        (("--text", __file__, "--dram", "2GiB", "--cache", "1MiB"), "drop cache"),
        (("--text", __file__, "--dram", "1MiB"), "the least that works is"),
    ],
)
def test_eval(refuses: Refuses, tale: Path, options: tuple[str, ...], message: str) -> None:
    refuses("eval", tale, *options, message=message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dram", "plenty"), "dram 'plenty' is no size"),
        (("--dram", "1MiB"), "the least that works is"),
        (("--ctx", "0"), "ctx is 0"),
        (("--precision", "7"), "precision '7' is not known"),
        (("--disk-gbps", "0"), "disk-gbps is 0.0"),
        (("--disk-gbps", "nan"), "disk-gbps is nan"),
        (("--disk-gbps", "fast"), "disk-gbps"),
        (("--prompt", "0"), "prompt is 0"),
        (("--threads", "0"), "threads is 0"),
        (("--threads", str(2**70)), "threads"),
        (("--kv", "f8"), "f8"),
    ],
)
def test_plan(
    refuses: Refuses, tale: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    kernels = {level: KernelRates(1.0, 1.0) for level in (4, 8, 16)}
    known = DeviceRates("disk", "now", 1.0, (Rate(4096, 1, 1.0),), kernels, "scalar", 1, "psync", "store")
    monkeypatch.setattr(rates, "load", lambda directory: (known, ""))
    refuses("plan", tale, *options, message=message)


def test_plans_of_what_is_no_model(refuses: Refuses, tmp_path: Path) -> None:
    refuses("plan", tmp_path / "none", message="does not exist")
    refuses("plan", tmp_path, message="has neither a m2cache.json nor a config.json")
    (tmp_path / "config.json").write_text("{")
    refuses("plan", tmp_path, message="cannot be read as JSON")
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "architectures": ["BertModel"]}))
    refuses("plan", tmp_path / "config.json", message="'BertModel' is not supported")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["BertModel"], "model_type": "bert"},
            "'BertModel' is not supported; supported are: Llama",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantised with gptq"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
    ],
)
def test_models_that_cannot_be_converted(
    refuses: Refuses, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_small(tmp_path / "model")
    shutil.copy(EXAMPLE / "tokenizer.json", tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps({**SMALL, **change}))
    refuses("convert", tmp_path / "model", tmp_path / "x.m2c", message=message)
    assert not (tmp_path / "x.m2c").exists()


def test_convert_needs_a_model_and_a_free_target(refuses: Refuses, tmp_path: Path) -> None:
    refuses("convert", tmp_path / "none", tmp_path / "x.m2c", message=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    refuses("convert", tmp_path / "empty", tmp_path / "x.m2c", message="config.json")
    (tmp_path / "there.m2c").mkdir()
    refuses("convert", EXAMPLE, tmp_path / "there.m2c", message="--force")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "nonsense"),
        (("--nonsense",), "--nonsense"),
        (("generate",), "STORE"),
        (("eval", "x"), "--text"),
    ],
)
def test_command_lines_that_make_no_sense(refuses: Refuses, arguments: tuple[str, ...], message: str) -> None:
    refuses(*arguments, message=message)


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert "generate" in done.stdout
    assert done.stderr == ""


def test_a_hostile_name_cannot_steer_the_terminal(refuses: Refuses, tmp_path: Path) -> None:
    refuses("inspect", tmp_path / "a\x1b[31m\nb[bold]", message=r"a\x1b[31m\nb[bold] does not exist")
    assert output.one_line("é日\t") == r"é日\t"


def test_a_full_disk_is_one_line(cli: Cli, tale: Path) -> None:
    with open("/dev/full", "w") as full:
        done = cli("inspect", tale, capture_output=False, stdout=full, stderr=-1)
    assert done.returncode == 2
    assert done.stderr == "m2cache: error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "2>/dev/full", "<&-"])
def test_closed_streams_are_no_accident(tale: Path, closed: str) -> None:
    script = f'"{sys.executable}" -m m2cache_rs inspect "{tale}" {closed}'
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False)


def test_names_that_the_terminal_cannot_spell(tale: Path, tmp_path: Path) -> None:
    for name in ("日本.m2c", os.fsdecode(b"st\xff.m2c")):
        (tmp_path / name).symlink_to(tale)
        environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
        command = [sys.executable, "-m", "m2cache_rs"]
        arguments = ["generate", tmp_path / name, "-p", "日本語", "--max-new-tokens", "2"]
        for one in (["inspect", tmp_path / name], arguments):
            result = subprocess.run([*command, *one], capture_output=True, env=environment, check=False)
            assert (result.returncode, b"Traceback" in result.stderr) == (0, False), result.stderr


def test_numbers_beyond_any_machine(tale: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "text.txt").write_text("In the beginning God created the heaven and the earth.")
    for arguments in (
        ("generate", tale, "-p", "x", "--threads", 2**70),
        ("generate", tale, "-p", "x", "--threads", 100_000),
        ("generate", tale, "-p", b"\xff\xfe"),
    ):
        result = cli(*[one if isinstance(one, bytes) else str(one) for one in arguments])
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert cli("eval", tale, "--text", tmp_path / "text.txt", "--tokens", 10**24).returncode == 0


def test_a_model_does_not_cross_a_fork(tale: Path) -> None:
    code = (
        "import os, sys; from m2cache_rs import Model, errors\n"
        "model = Model.open(sys.argv[1]); next(model.generate('x'))\n"
        "if os.fork() == 0:\n"
        "    try: next(model.generate('x'))\n"
        "    except errors.UsageError: os._exit(7)\n"
        "    os._exit(1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tale)], timeout=60, check=False)
    assert result.returncode == 7
