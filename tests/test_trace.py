"""Traces: what a file may hold, and what replays make of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs._core import Store, replay
from m2cache_rs.errors import StoreIOError, UsageError
from m2cache_rs.recipe.recipe import Recipe
from m2cache_rs.runtime.decoder import Batch, Kind

from tests.stores import Cli, needs

REPLAY = Path(__file__).parents[1] / "benches/replay.py"
# Three layers of four equal blocks of a page, swept once by a prompt and then by three tokens.
BLOCKS = [{"section": "gate.base", "layer": layer, "bytes": 4096, "count": 4} for layer in range(3)]
SWEEP = "".join(f"{block}*\n" for block in range(12))


def header(**changes: Any) -> str:
    fields = {"format": "m2cache-trace", "version": 1, "store": None, "levels": None, "synthetic": None}
    return json.dumps(fields | {"blocks": BLOCKS} | changes) + "\n"


def write(path: Path, body: str, **changes: Any) -> Path:
    path.write_text(header(**changes) + body)
    return path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return write(tmp_path / "dense.trace", f"prompt 5\n{SWEEP}" + f"decode 1\n{SWEEP}" * 3)


@pytest.mark.parametrize(("policy", "hits"), [("fixed", 18), ("lru", 0), ("fifo", 9), ("lfu", 18)])
def test_half_of_a_dense_model(dense: Path, policy: str, hits: int) -> None:
    outcome = json.loads(replay(dense, policy, 6 * 4096))
    assert outcome["all_bytes"] == 12 * 4096
    assert outcome["prompt"]["rows"] == 5
    assert outcome["decode"]["passes"] == 3
    assert outcome["decode"]["hits"] == hits
    assert outcome["decode"]["read_bytes"] == (36 - hits) * 4096
    assert outcome["decode"]["recorded_read_bytes"] == 36 * 4096


def test_broken_traces_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    with pytest.raises(StoreIOError, match=r"opening .*a\.trace"):
        replay(path, "lru", 0)
    for text, message in [
        ("", "line 1: the file is empty"),
        ("{}\n", "line 1: no header of a trace: missing field"),
        (header(version=9), "line 1: .* version 9; .* version 1 is read"),
        (header(blocks=[]), "line 1: declares no blocks"),
        (header() + "decode 1\n12\n", "line 3: names block 12 of 12"),
        (header() + "decode 1\n0 1", "line 3: has no end: .* remove this line"),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            replay(path, "lru", 0)
    with pytest.raises(UsageError, match=r"no policy \"arc\"; fixed, lru, fifo, lfu are known"):
        replay(path, "arc", 0)
    with pytest.raises(StoreIOError):
        replay(tmp_path, "lru", 0)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPLAY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_prints_a_table(dense: Path) -> None:
    done = run(dense, "--dram", "24KiB,48KiB", "--policies", "fixed,lru")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "| cache | share | fixed | lru |",
        "| --- | --- | --- | --- |",
        "| 24.0 KiB | 50% | 50.0% | 0.0% |",
        "| 48.0 KiB | 100% | 100.0% | 100.0% |",
    ]


def test_made_up_accesses_are_labelled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.trace", f"decode 1\n{SWEEP}", synthetic={"share": 0.2, "seed": 1})
    done = run(path)
    assert done.stdout.startswith('SYNTHETIC accesses, made up by {"share": 0.2, "seed": 1}')
    assert json.loads(run(path, "--json").stdout)["synthetic"] == {"share": 0.2, "seed": 1}


def test_the_program_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = run(write(tmp_path / "a.trace", "0\n"))
    assert done.returncode != 0
    assert (
        done.stderr == f"error: {tmp_path}/a.trace, line 2: comes before any pass (prompt, decode or draft)\n"
    )


def record(store: Path, path: Path, cache: int | None = None) -> dict[str, Any]:
    """Eleven prompt rows and four tokens, one at a time; the model's counters."""
    with Model.open(store, precision=8, cache=cache, trace=path) as model:
        with model.sequence(15) as sequence:
            ids = np.arange(15, dtype=np.uint32)
            model.forward(Batch.run(ids[:11], sequence, 0, Kind.PROMPT), np.arange(11) == 10)
            for at in range(11, 15):
                model.forward(Batch.run(ids[at : at + 1], sequence, at, Kind.DECODE))
        return model.stats()


def half(store: Path) -> int:
    weights = needs(store, 8)
    return (weights.all + weights.least) // 2


def test_a_recording_says_what_was_wanted(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    record(small, path)
    head, *lines = path.read_text().splitlines()
    assert json.loads(head)["store"] == json.loads(Store(str(small)).manifest())["id"]
    assert json.loads(head)["levels"] == {"attn": 8, "ffn": 8, "head": 8, "embed": 8}
    passes = [line for line in lines if line[0].isalpha()]
    assert passes == ["prompt 11", *["decode 1"] * 4]
    prompt, *tokens = "\n".join(lines).replace("prompt 11", "decode 1").split("decode 1\n")[1:]
    assert "*" not in "".join(tokens), "all of it is in the cache"
    assert tokens == [prompt.replace("*", "").strip() + "\n"] * 3 + [prompt.replace("*", "").strip()]
    steps = [line.split() for line in prompt.splitlines()]
    count = sum(run["count"] for run in json.loads(head)["blocks"])
    assert sorted(int(word.rstrip("*")) for step in steps for word in step) == list(range(count))


def test_recipes_of_several_levels_have_no_levels_in_common(small: Path, tmp_path: Path) -> None:
    path, coarse = tmp_path / "a.trace", Recipe.dense(4)

    def told() -> Any:
        return json.loads(path.read_text().splitlines()[0])["levels"]

    with Model.open(small, precision=8, trace=path, serves=[coarse, Recipe.dense(8)]) as model:
        model.logits([1, 2])
        model.serving(Recipe.dense(8)).logits([1, 2])
        assert told() == {"attn": 8, "ffn": 8, "head": 8, "embed": 8}
        model.serving(coarse).logits([1, 2])
        assert told() is None
        model.logits([1, 2])
    assert told() is None
    outcome = json.loads(replay(path, "lru", 0))
    assert outcome["decode"]["passes"] == 4


def test_a_replay_at_the_same_size_reads_what_the_engine_read(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    stats = record(small, path, half(small))
    outcome = json.loads(replay(path, "fixed", stats["fixed_bytes"]))
    kinds = [outcome[kind] for kind in ("prompt", "decode")]
    assert [one["read_bytes"] for one in kinds] == [one["recorded_read_bytes"] for one in kinds]
    assert (
        0 < outcome["decode"]["hit_bytes"] < outcome["decode"]["hit_bytes"] + outcome["decode"]["read_bytes"]
    )
    counted = [section for section in stats["sections"] if not section["section"].startswith("embed")]
    assert sum(one["hit_bytes"] for one in kinds) == sum(section["hit_bytes"] for section in counted)
    # The engine may have read ahead for a token that never came.
    assert sum(one["read_bytes"] for one in kinds) <= sum(section["read_bytes"] for section in counted)


def test_a_pass_that_fails_is_left_out(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    with Model.open(small, precision=4, trace=path) as model:

        def stop(layer: int, which: str, x: object) -> None:
            if layer == 1:
                raise KeyboardInterrupt

        with model.sequence(4) as sequence:
            batch = Batch.run(np.arange(2, dtype=np.uint32), sequence, 0, Kind.DECODE)
            with pytest.raises(KeyboardInterrupt):
                model.forward(batch, observer=stop)
            model.forward(batch)
    text = path.read_text()
    assert text.count("decode") == 1
    assert json.loads(replay(path, "lru", 0))["decode"]["accesses"] == sum(
        run["count"] for run in json.loads(text.splitlines()[0])["blocks"]
    )


def test_a_trace_that_cannot_be_written(small: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreIOError, match=r"writing the trace .*no/a\.trace: No such file"):
        Model.open(small, trace=tmp_path / "no/a.trace")
    with pytest.raises(StoreIOError, match="writing the trace /dev/full: No space left"):
        Model.open(small, trace="/dev/full")


def test_a_trace_replaces_traces_alone(small: Path, tmp_path: Path) -> None:
    store = tmp_path / "copy.m2c"
    shutil.copytree(small, store)
    manifest = store / "m2cache.json"
    before = manifest.read_bytes()
    with pytest.raises(UsageError, match=r"m2cache\.json is there and no trace"):
        Model.open(store, trace=manifest)
    assert manifest.read_bytes() == before
    for _ in range(2):
        with Model.open(store, trace=tmp_path / "run.trace") as model:
            model.logits([1])


def test_generate_records(tale: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "a.trace"
    done = cli("generate", tale, "-p", "Once", "--max-new-tokens", "3", "--trace", path)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(replay(path, "fixed", 1 << 40))
    assert outcome["decode"]["passes"] == 2
    assert outcome["decode"]["hit_bytes"] > 0
    assert outcome["decode"]["read_bytes"] == 0
    assert cli("generate", tale, "-p", "a", "--trace", tmp_path / "no" / "a.trace").stderr.startswith(
        "m2cache: error: writing the trace "
    )
