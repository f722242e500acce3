"""The split of a cap on memory: its arithmetic, and that a process keeps to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs import BudgetError, Model, UsageError, _core
from m2cache_rs.machine.machine import usable_cores
from m2cache_rs.models import architecture_of
from m2cache_rs.plan import budget
from m2cache_rs.plan.budget import Costs, Weights
from m2cache_rs.plan.wish import Wish, choose
from m2cache_rs.recipe.cut import Shares
from m2cache_rs.recipe.recipe import Dense, Recipe, Sparse
from m2cache_rs.runtime.opening import Opened

from tests.stores import SMALL

MIB = 1 << 20
BEST = Recipe.dense(16)
sizes = st.integers(0, 1 << 40)


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    least, fixed = draw(st.integers(1, 1 << 30)), draw(sizes)
    parts = {"attn": fixed, "ffn": 0, "head": 0, "embed": 0}
    return Weights(least + fixed, least, max(least, 64 * MIB), 1, parts, fixed, parts)


costs = st.builds(Costs, sizes, sizes, sizes, sizes)


@given(sizes, weights(), costs)
def test_a_split_never_exceeds_its_cap(dram: int, model: Weights, beside: Costs) -> None:
    least = budget.least_dram(model, beside)
    if dram < beside.total + model.least:
        with pytest.raises(BudgetError, match=f"the least that works is {least} bytes"):
            budget.split(dram, model, beside)
        dram = least
    found = budget.split(dram, model, beside)
    assert found.total <= dram
    assert model.least <= found.ring <= max(model.least, model.ring)
    assert found.fixed >= 0
    assert found.cache <= model.all
    assert found.total == dram or found.cache == model.all
    assert (found.base, found.kv, found.scratch) == (beside.base, beside.kv, beside.scratch)
    assert found.ahead == found.total - found.base - found.reserve


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 30), weights(), costs)
def test_more_memory_never_fixes_less(dram: int, more: int, model: Weights, beside: Costs) -> None:
    dram += beside.total + model.least
    assert budget.split(dram + more, model, beside).cache >= budget.split(dram, model, beside).cache


@given(st.integers(1, 1000), st.integers(1, 64), st.sampled_from([Recipe.dense(4), BEST]))
def test_scratch_grows_with_positions_and_threads(positions: int, threads: int, recipe: Recipe) -> None:
    spec = architecture_of(SMALL)[1]

    def of(positions: int, threads: int) -> int:
        return budget.scratch_bytes(spec, recipe, "auto", positions, threads)

    assert of(positions, threads) <= of(positions + 1, threads)
    assert of(positions, threads) < of(positions, threads + 1)


def test_scratch_has_room_for_what_a_scan_keeps() -> None:
    """Sixteen integers of 18 bits for every record of gate and up: records of 72 are one strip."""
    spec = architecture_of(SMALL)[1]

    def of(selector: Any, bands: tuple[float, float, float], act: str = "auto") -> int:
        recipe = Recipe(8, 8, 8, 8, Sparse(selector, (Shares(0.5, bands),)))
        return _core.scratch_bytes(spec.to_json(), recipe.core(spec), act, 1, 1, 1, 1)

    kept, none = (0.0, 0.5, 0.5), (0.0, 0.0, 1.0)
    assert of("plane", kept) - of("plane", none) == 2 * SMALL["intermediate_size"] * 36
    assert of("plane", kept, "f32") == of("plane", none, "f32")
    assert of("lowrank", kept) == of("lowrank", none)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999, 1])
def test_the_core_cuts_a_cache_as_the_budget_says(tale: Path, share: float) -> None:
    needs = Opened(tale).weights(BEST)
    with Model.open(tale, cache=needs.least + int(share * (needs.all - needs.least)), ctx=64) as model:
        stats, block = model.stats(), 300 << 10
        assert 0 <= model.budget.ring - stats["ring_bytes"] < 16 << 10
        assert 0 <= model.budget.fixed - stats["fixed_bytes"] < block


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dram": "1GiB", "cache": "1MiB"}, "drop cache"),
        ({"dram": "much"}, "dram 'much' is no size"),
        ({"dram": -1}, "dram is -1"),
        ({"reserve": -1}, "reserve is -1"),
        ({"ctx": 0}, "ctx is 0; the model's context takes 1 to 1024"),
        ({"ctx": 1025}, "ctx is 1025"),
        ({"ctx": True}, "ctx is True"),
    ],
)
def test_wrong_budgets_are_refused(tale: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model.open(tale, **options)  # type: ignore[arg-type]


def test_a_cap_below_what_the_process_has_taken_is_refused(tale: Path) -> None:
    with pytest.raises(BudgetError, match=r"this process has taken .* already; the least that works is"):
        Model.open(tale, dram="1MiB")


def test_ctx_is_the_end_of_every_sequence(tale: Path) -> None:
    with Model.open(tale, ctx=16) as model:
        assert len(list(model.generate([1] * 8, 8))) <= 8
        with pytest.raises(UsageError, match="exceed the room that --ctx makes of 16"):
            model.generate([1] * 8, 9)
        with pytest.raises(UsageError, match="the room that --ctx makes holds 16"):
            model.generate([1] * 16)
        with pytest.raises(UsageError, match="the room that --ctx makes takes 1 to 16"):
            model.logits([1] * 17)


def test_fewer_rows_of_logits_take_less_and_are_the_same(tale: Path) -> None:
    ids = list(range(2, 42))
    with Model.open(tale) as many, Model.open(tale, logit_rows=1) as one:
        assert np.array_equal(many.logits(ids), one.logits(ids))
        large = replace(many.architecture, vocab=128_256)
        few, all_of_them = (budget.scratch_bytes(large, BEST, "auto", 80, 2, rows) for rows in (1, 32))
        assert few < all_of_them - 40 * MIB
        assert one.budget.scratch <= many.budget.scratch
    for wrong in (0, 33):
        with pytest.raises(UsageError, match="logit_rows"):
            Model.open(tale, logit_rows=wrong)


def test_less_room_leaves_more_for_weights(tale: Path) -> None:
    opened = Opened(tale)
    model = opened.weights(BEST)
    assert opened.costs(BEST, "auto", 64, 2, "f32").kv == 2 * opened.costs(BEST, "auto", 64, 2, "f16").kv
    short, long = (opened.costs(BEST, "auto", positions, 2, "f16") for positions in (64, 1024))
    assert long.kv >= 8 * short.kv
    dram = long.total + model.least
    assert choose(Wish(dram=dram), model, short).fixed > 0


RUN = """
import sys
import numpy as np
from m2cache_rs import Model, BudgetError
from m2cache_rs.machine.memory import peak_rss

path, dram, precision, threads, select = sys.argv[1:]
sparse = {"select": select, "bands": "25/25/50"} if select else {}
try:
    model = Model.open(path, dram=dram, ctx=1024, precision=int(precision), threads=int(threads), **sparse)
except BudgetError as error:
    print("refused", error)
    sys.exit()
with model:
    ids = (np.arange(1000) * 37 % 4096).astype(np.uint32)
    count = len(list(model.generate(ids, 16)))
    for rows in model.logits_by_batch(ids[:500]):
        count += len(rows)
    list(model.generate("In the beginning", 20, temperature=0.8, top_p=0.9))
    print("ran", count, model.budget.total, peak_rss())
"""


def run(store: Path, dram: object, precision: int = 16, threads: int = 2, select: str = "") -> list[str]:
    command = [sys.executable, "-c", RUN, str(store), str(dram), str(precision), str(threads), select]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def least_of(store: Path, precision: int, threads: int, select: str = "") -> int:
    words = run(store, 1 << 20, precision, threads, select)
    assert words[0] == "refused"
    words = run(store, 42 << 20, precision, threads, select)
    assert words[0] == "refused"
    return int(words[words.index("works") + 2])


@pytest.mark.parametrize(
    ("precision", "threads", "select"),
    [(4, 1, ""), (8, 2, ""), (16, 6, ""), (8, 2, "plane"), (8, 2, "oracle")],
)
def test_a_process_keeps_to_its_cap(tale: Path, precision: int, threads: int, select: str) -> None:
    least = least_of(tale, precision, threads, select)
    for dram in (least, least + 3 * MIB, 512 * MIB):
        kind, count, total, peak = run(tale, dram, precision, threads, select)
        assert (kind, int(count)) == ("ran", 516)
        assert int(total) <= dram
        assert int(peak) <= int(total)


@pytest.mark.parametrize("precision", [4, 16])
def test_the_charge_holds_where_every_one_of_32_threads_has_an_arena(
    tale: Path, precision: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine of 32 cores: the allocator gives a thread no arena of its own on one of few."""
    if 16 * usable_cores() < 32:
        pytest.skip("32 threads want two cores at least")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "64")
    few, many = (run(tale, 512 * MIB, precision, threads) for threads in (2, 32))
    for kind, count, total, peak in (few, many):
        assert (kind, int(count)) == ("ran", 516)
        assert int(peak) <= int(total)


def test_threads_are_charged_what_their_levels_keep() -> None:
    tall = replace(architecture_of(SMALL)[1], hidden=4096)

    def each(recipe: Recipe, act: str, rows: int = 256, logits: int = 1) -> int:
        core = recipe.core(tall)
        less, more = (_core.scratch_bytes(tall.to_json(), core, act, rows, logits, 64, n) for n in (64, 65))
        return more - less

    coarse, fine, mixed = Recipe.dense(4), BEST, Recipe(4, 16, 16, 4, Dense(4))
    ffn = Recipe(4, 4, 4, 16, Dense(16))
    assert each(coarse, "f32") == each(fine, "f32") == each(fine, "auto")
    assert max(each(coarse, "auto"), each(fine, "auto")) < each(ffn, "auto")
    assert each(coarse, "auto") < each(mixed, "auto") <= each(ffn, "auto")
    assert each(coarse, "auto", 32) < each(coarse, "auto", 256)
    for threads in (0, 1025):
        with pytest.raises(UsageError, match=f"threads is {threads}"):
            _core.scratch_bytes(tall.to_json(), coarse.core(tall), "auto", 1, 1, 1, threads)


@pytest.fixture
def capped() -> Iterator[Path]:
    """A memory cgroup (v1) of our own."""
    parent = Path("/sys/fs/cgroup/memory")
    group = parent / f"m2cache-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made in {parent}: {error.strerror}")
    yield group
    group.rmdir()


def inside(group: Path, code: str, *arguments: object) -> str:
    """What a Python program prints that runs in a cgroup."""
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    command = ["sh", "-c", enter, "sh", sys.executable, "-c", code, *(str(one) for one in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_cgroup_of_the_cap_never_kills(tale: Path, capped: Path) -> None:
    least = least_of(tale, 16, 2)
    (capped / "memory.limit_in_bytes").write_text(str(least))
    assert inside(capped, RUN, tale, least, 16, 2, "").startswith("ran 516")


def test_the_default_budget_fits_a_cgroup(tale: Path, capped: Path) -> None:
    limit = 400 * MIB
    (capped / "memory.limit_in_bytes").write_text(str(limit))
    code = "import sys; from m2cache_rs import Model; print(Model.open(sys.argv[1]).budget.dram)"
    assert int(inside(capped, code, tale)) < limit


def test_eval_keeps_to_its_cap(tale: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("In the beginning God created the heaven and the earth.\n" * 400)
    code = (
        "import sys; from m2cache_rs.cli.program import main\n"
        "from m2cache_rs.machine.memory import peak_rss\n"
        "code = main(sys.argv[1:]); print(peak_rss(), file=sys.stderr); sys.exit(code)"
    )
    for dram in ("100MiB", "150MiB"):
        command = [sys.executable, "-c", code, "eval", tale, "--text", text, "--precision", "4", "--json"]
        done = subprocess.run([*command, "--dram", dram], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["mean_kl"] > 0
        assert int(done.stderr.split()[-1]) <= int(dram[:-3]) << 20
