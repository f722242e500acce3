"""Plans: the cost model by its definition, and `m2cache plan` with and without a store."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs import Model, UsageError
from m2cache_rs._core import isa
from m2cache_rs.cli.program import main
from m2cache_rs.cli.shapes import shape_of
from m2cache_rs.cli.words import speed_words
from m2cache_rs.machine import device_rates
from m2cache_rs.machine.device import device_of
from m2cache_rs.machine.device_rates import DeviceRates, KernelRates, Rate
from m2cache_rs.models import architecture_of
from m2cache_rs.plan import budget, planner
from m2cache_rs.plan import rates as module
from m2cache_rs.plan.budget import Budget, Weights
from m2cache_rs.plan.footprint import sections
from m2cache_rs.plan.plan import Request, make
from m2cache_rs.plan.planner import Rates, Subject, expect
from m2cache_rs.plan.rates import known_rates, rates_of
from m2cache_rs.plan.reads import Reads
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.dial import Chosen
from m2cache_rs.recipe.recipe import Dense, Recipe, Sparse
from m2cache_rs.recipe.work import Work
from m2cache_rs.runtime.opening import Opened

from tests.stores import EXAMPLE, SMALL, Cli, Shown

Printed = Callable[..., str]
PLANE = Recipe(8, 8, 8, 8, Sparse("plane", (Shares(0.5, (0.25, 0.25, 0.5)),)))
BITS4 = Chosen(Recipe.dense(4))


def asked(dram: int | None = None) -> Request:
    return Request(dram=dram, ctx=64, prompt=8, threads=2, kv="f16")


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], DeviceRates]:
    """Keeps the rates of a directory's disk, as doctor does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def keep(directory: Path) -> DeviceRates:
        found = DeviceRates(
            device=device_of(directory).key,
            made="2026-11-22T10:00:00+00:00",
            memory_gbps=20.0,
            read=(Rate(64 << 10, 32, 1.0), Rate(1 << 20, 32, 2.0)),
            kernels={level: KernelRates(10.0, 5.0) for level in (4, 8, 16)},
            isa=isa()[1],
            threads=2,
            io="psync",
            source="store",
        )
        device_rates.save(found, directory)
        return found

    return keep


def subject(level: int = 4) -> Subject:
    """40 MB of attention (a third of it o), 60 MB of FFN (a third down), 20 MB of head."""
    spec = architecture_of(SMALL | {"num_key_value_heads": 6})[1]
    parts = {"attn": 40_000_000, "ffn": 60_000_000, "head": 20_000_000, "embed": 0}
    weights = Weights(130_000_000, 10_000_000, 10_000_000, 120, parts, 120_000_000, parts)
    work = Work({level: 40_000_000}, {level: 20_000_000})
    return Subject(spec, Recipe.dense(level), weights, weights, work, work, 1000, evenly)


def evenly(cache: int) -> Reads:
    """What a cache does not hold of 120 MB, beside its ring of 10."""
    return Reads(max(0, 130_000_000 - cache), 0, 0)


def fixed(bytes_: int) -> Budget:
    return Budget(None, 0, 0, 0, 0, 10_000_000, bytes_)


def rates(read: float = 1.0, dot: float = 10.0) -> Rates:
    return Rates(lambda size: read, 100.0, {4: (dot, dot / 2)}, "told")


def test_a_token_takes_what_the_definition_says() -> None:
    found = expect(subject(), fixed(70_000_000), rates(), 1, 1)
    added, spec = 10_000_000 + 20_000_000, subject().architecture
    assert (spec.layers, spec.hidden, spec.ffn, spec.vocab) == (2, 72, 300, 259)
    chunks = 2 * (1 + 1 + 1 + 1 + 2) + 2
    assert (found.traffic.dram, found.traffic.ssd) == (70_000_000, 50_000_000)
    assert math.isclose(found.io, 0.05)
    arithmetic = (120_000_000 - added) / 10e9 + added / 5e9 + 1000 / 100e9
    assert math.isclose(found.compute, arithmetic + chunks * planner._CHUNK)
    assert math.isclose(found.token, max(found.io, found.compute) + found.serial)
    chosen = replace(subject(), reads=lambda cache: Reads(20_000_000, 30_000_000, 1000))
    waited = expect(chosen, fixed(70_000_000), replace(rates(), read=lambda size: size / 60_000), 1, 1)
    assert math.isclose(waited.waits, 0.06), "at the rate of reads of 30,000 bytes"
    assert math.isclose(waited.token, waited.waits + waited.compute + waited.serial)
    assert (found.bound, found.tokens_per_second) == ("ssd", 1 / found.token)
    # The first token finds the cache empty.
    assert math.isclose(found.first_token, max(0.12, found.compute) + found.serial, rel_tol=1e-3)


def test_nothing_is_read_of_what_is_all_in_memory() -> None:
    found = expect(subject(), fixed(120_000_000), rates(read=1e-3), 10, 10)
    assert (found.io, found.traffic.ssd, found.bound) == (0, 0, "compute")


def test_a_prompt_sweeps_the_model_once_a_chunk() -> None:
    slow = rates(read=0.001)
    one, two = (expect(subject(), fixed(0), slow, prompt, 1).first_token for prompt in (256, 257))
    assert math.isclose(one, 120.0, rel_tol=0.01)
    assert math.isclose(two, 240.0, rel_tol=0.01)


@given(st.integers(0, 120_000_000), st.integers(0, 1 << 26), st.floats(0.01, 50), st.integers(1, 5000))
def test_more_memory_and_a_faster_disk_never_slow_down(
    held: int, more: int, read: float, prompt: int
) -> None:
    here = expect(subject(), fixed(held), rates(read), prompt, 10)
    for better in (
        expect(subject(), fixed(held + more), rates(read), prompt, 10),
        expect(subject(), fixed(held), rates(read * 2), prompt, 10),
        expect(subject(), fixed(held), rates(read, 20.0), prompt, 10),
    ):
        assert better.token <= here.token
        assert better.first_token <= here.first_token
    assert here.traffic.total == 120_000_000
    assert here.first_token >= here.io


def test_a_config_plans_like_the_store_that_is_made_of_it(tale: Path) -> None:
    stored = shape_of(tale)
    for path in (EXAMPLE, EXAMPLE / "config.json"):
        foreseen = shape_of(path)
        assert foreseen.architecture == stored.architecture
        for recipe in (Recipe.dense(4), Recipe(16, 8, 16, 4, Dense(4)), PLANE):
            assert foreseen.weights(recipe) == stored.weights(recipe)


def test_a_pass_leases_what_a_sweep_reads(tale: Path) -> None:
    opened = Opened(tale)
    with Model.open(tale, precision=8) as model:
        list(model.generate([1, 2, 3], 2))
        found = model.stats()
    embedding = (one for one in sections(json.loads(opened.store.layout())) if one.read_by("embed", 8))
    rows = (3 + 1) * sum(section.stride for section in embedding)
    assert found["hit_bytes"] + found["read_bytes"] == 2 * opened.weights(Recipe.dense(8)).swept + rows


def test_rates_come_from_doctor(tale: Path, measured: Callable[[Path], DeviceRates]) -> None:
    assert known_rates(tale)[0] is None
    assert "m2cache doctor" in known_rates(tale)[1]
    kept = measured(tale)
    found, why = known_rates(tale)
    assert found is not None
    assert why == ""
    assert found.read(1 << 20) == kept.read_gbps(1 << 20) == 2.0
    assert found.kernels[4] == (10.0, 5.0)
    half, _ = known_rates(tale, threads=1)
    assert half is not None
    assert half.kernels[4] == (5.0, 2.5)
    told = rates_of(tale, 7.5)
    assert (told.read(4096), told.kernels, told.memory) == (7.5, found.kernels, found.memory)


def test_what_is_different_now_is_said(
    cli: Cli, tale: Path, measured: Callable[[Path], DeviceRates], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured(tale).io == "psync"
    assert [known_rates(tale, io=io)[0].caveat for io in (None, "psync")] == ["", ""]  # type: ignore[union-attr]
    assert known_rates(tale, io="uring")[0].caveat == "measured with psync, not uring"  # type: ignore[union-attr]
    monkeypatch.setattr(module, "_reader", lambda: "uring")
    command = ["generate", tale, "-p", "a", "--max-new-tokens", 1, "--io", "psync"]
    assert "measured with" not in cli(*command).stderr
    plan = make(shape_of(tale), asked(), BITS4, rates_of(tale))
    assert " tokens/s (measured with psync, not uring), bound by" in speed_words(plan.expected)
    monkeypatch.setenv("M2CACHE_ISA", "portable")
    assert "those in use are for portable" in cli(*command).stderr or isa()[1] == "portable"


@pytest.mark.parametrize("gbps", [0, -1, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(tale: Path, gbps: float) -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        rates_of(tale, gbps)


@pytest.fixture
def printed(shown: Shown) -> Printed:
    """Runs a command line that succeeds; what it prints."""

    def run(*arguments: object) -> str:
        code, out, _ = shown(*arguments)
        assert code == 0
        return out

    return run


def test_plan_shows_memory_bytes_speed_and_levels(
    printed: Printed, tale: Path, measured: Callable[[Path], DeviceRates]
) -> None:
    measured(tale)
    plain = printed("plan", tale, "--ctx", 128, "--dram", "1GiB")
    for words in (
        "memory",
        "keys and values (128 positions)",
        "100% of every part",
        "tokens/s",
        "least budget",
    ):
        assert words in plain
    levels, comparison = plain.split("\n\n")[1:]
    for table in (levels.splitlines()[1:], comparison.splitlines()[1:4]):
        assert [line.split()[0] for line in table] == ["4", "8", "16"]
    assert "plane 50 %" in comparison
    assert "the fastest: at 4 bits " in comparison
    report = json.loads(
        printed("plan", tale, "--ctx", 128, "--dram", "1GiB", "--precision", "ffn=4", "--json")
    )
    assert report["precision"] == {"attn": 16, "ffn": 4, "head": 16, "embed": 16}
    budget = report["budget"]
    assert budget["total"] == sum(
        budget[name] for name in ("base", "kv", "scratch", "reserve", "ring", "fixed")
    )
    assert budget["total"] <= budget["dram"] == 1 << 30
    assert set(report["levels"]) == {"4", "8", "16"}
    assert (
        report["levels"]["4"]["expected"]["tokens_per_second"] > report["expected"]["tokens_per_second"] > 0
    )
    assert report["least_dram"] < 1 << 30


def test_what_plan_says_is_least_is_enough(tale: Path, measured: Callable[[Path], DeviceRates]) -> None:
    kept = measured(tale)
    found = rates_of(tale)
    least = make(shape_of(tale), asked(), BITS4, found).least
    plan = make(shape_of(tale), asked(least), BITS4, found)
    assert plan.budget.fixed < (1 << 20) + budget.JITTER, "what rounding to whole MiB leaves"
    assert plan.expected.rates.read(1 << 20) == kept.read_gbps(1 << 20)


def test_levels_that_do_not_fit_are_told_in_their_line(
    printed: Printed, tmp_path: Path, measured: Callable[[Path], DeviceRates]
) -> None:
    """A budget between what a wide model needs at least at 4 and at 16 bits."""
    measured(tmp_path)
    wide = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096}
    config = {**SMALL, **wide, **heads, "head_dim": 128, "attention_bias": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    request = Request(dram="64GiB", ctx=512, prompt=8, threads=2, kv="f16")
    dram = make(shape_of(tmp_path), request, BITS4, rates_of(tmp_path)).least + (2 << 20)
    command = ["plan", tmp_path, "--dram", dram, "--ctx", 512, "--precision", 4, "--threads", 2]
    plain = printed(*command)
    four, eight, sixteen = plain.split("\n\n")[1].splitlines()[1:]
    assert "at 16 bits nothing fits" in plain.splitlines()[-1]
    assert "reads from the SSD" in plain
    assert four.split()[0] == "4"
    assert "the least that works is" in sixteen
    assert eight.split()[0] == "8"
    report = json.loads(printed(*command, "--json"))
    assert "least" in report["levels"]["16"]["error"]
    assert report["levels"]["4"]["fixed_share"] < 0.01


def test_generate_tells_before_and_after(
    tale: Path, measured: Callable[[Path], DeviceRates], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(tale), "-p", "In the beginning", "--max-new-tokens", "4", "--dram", "2GiB"]
    command += ["--io", "psync"]
    with pytest.raises(SystemExit):
        sys.exit(main(command))
    before, after = capsys.readouterr().err.splitlines()
    assert "no speed foreseen" in before
    assert "m2cache doctor" in before
    assert "foreseen" not in after
    measured(tale)
    with pytest.raises(SystemExit):
        sys.exit(main([*command, "--stats"]))
    before, after, *table = capsys.readouterr().err.splitlines()
    assert "tokens/s, bound by arithmetic; first token after" in before
    assert after.count("foreseen") == 2
    assert table[0].startswith("a new token touched ")
    names = [line.split("  ")[0] for line in table[3:]]
    assert names == [
        "attention",
        "feed-forward",
        "head and embedding",
        *(f"layer {i}" for i in range(6)),
        "ends",
        "all",
    ]
    assert len({len(line) for line in table[2:]}) == 1


def test_the_table_of_stats_adds_up(tale: Path) -> None:
    from m2cache_rs.runtime.accounting import PARTS, accounts

    with Model.open(tale, precision=8, cache="1MiB") as model:
        list(model.generate([1, 2, 3], 5))
        stats = model.stats()
    found = {one.name: one for one in accounts(stats)}
    assert stats["passes"] == 5
    for name in ("hit_bytes", "read_bytes", "aligned_bytes", "gap_bytes", "unused_bytes", "reads"):
        whole = getattr(found["all"], name)
        assert sum(getattr(found[part], name) for part in PARTS) == whole
        assert sum(getattr(one, name) for key, one in found.items() if key[:5] in ("layer", "ends")) == whole
    assert found["all"].bound_share(lambda size: 1e9) is not None
    assert found["attention"].bound_share(lambda size: 1.0) is None
    assert 0 < found["all"].bound_share(lambda size: 1e-3) <= 1  # type: ignore[operator]


def test_a_machine_without_rates_is_measured(
    printed: Printed, tale: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    asked = []
    kept = DeviceRates(
        "d",
        "now",
        20.0,
        (Rate(1 << 20, 32, 2.0),),
        {b: KernelRates(1.0, 1.0) for b in (4, 8, 16)},
        "x",
        2,
        "y",
        "store",
    )
    monkeypatch.setattr(module, "quick", lambda directory: asked.append(directory) or kept)
    plain = printed("plan", tale, "--ctx", 64)
    assert asked == [tale]
    assert "measured just now, roughly" in plain
    monkeypatch.setattr(module, "quick", lambda directory: None)
    with pytest.raises(UsageError, match="nothing could be measured"):
        rates_of(tale)


def test_the_further_row_is_a_share() -> None:
    assert 0 < planner._FURTHER_ROW <= 1


def test_plan_is_a_command(cli: Cli) -> None:
    assert "plan" in cli("--help").stdout
