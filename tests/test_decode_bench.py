"""benches/decode.py and what it is made of: questions, answers, arithmetic, and the whole on a tiny shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.benches import BENCHES, LLAMA, SHAPE

ECHO = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    exec(asked.get("code", ""))
    print(json.dumps(asked), flush=True)
"""


SPIN = """
import threading
def spin():
    while True:
        pass
threading.Thread(target=spin, daemon=True).start()
"""


# ---- llama.cpp's files


@pytest.mark.parametrize(("name", "published"), [("llama-2-7b", 7.1611e9), ("llama-3-8b", 8.5408e9)])
def test_sizes_at_8_bits_are_those_of_published_files(limits: Any, name: str, published: float) -> None:
    size = limits("peer.gguf_shape").size(import_module("shape").Shape.of(name).architecture, "Q8_0")
    assert published - 12e6 < size < published


def test_a_token_touches_all_but_the_embedding(limits: Any) -> None:
    """32 layers of 218 million weights and a head of 131 million, at 4.5 and 6.5625 or 8.5 bits."""
    touched, spec = (
        limits("peer.gguf_shape").touched,
        import_module("shape").Shape.of("llama-2-7b").architecture,
    )
    layers, head, gains = 32 * (4 * 4096**2 + 3 * 4096 * 11008), 32000 * 4096, 65 * 4096 * 4
    row = 4096 * 18 // 32
    assert touched(spec, "Q4_0") == layers * 18 // 32 + head * 210 // 256 + gains + row
    assert touched(spec, "Q8_0") == (layers + head + 4096) * 34 // 32 + gains


# ---- questions and answers


class Fake:
    """A program whose calls are noted."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def about(self) -> dict[str, Any]:
        return {"fake": True}

    def generate(self, ids: Sequence[int], new: int) -> Sequence[float]:
        now = time.perf_counter()
        return [now + 1 + index for index in range(new)]

    @contextmanager
    def line(self, positions: int) -> Iterator[Fake]:
        self.calls.append(f"begin {positions}")
        yield self
        self.calls.append("end")

    def prompt(self, ids: Sequence[int]) -> None:
        self.calls.append(f"prompt {len(ids)}")

    def decode(self, count: int) -> None:
        self.calls.append(f"decode {count}")

    def cut(self, length: int) -> None:
        self.calls.append(f"cut {length}")


def test_a_run_is_timed_from_the_question_to_each_token(limits: Any) -> None:
    found = limits("inram.answering").Requests(Fake()).run(ids=[1, 2], new=4)
    assert (found["tokens"], found["decode"]) == (4, pytest.approx(3))
    assert found["first_token"] >= 1


def test_one_and_many_rows_take_turns_and_the_first_turn_does_not_count(limits: Any) -> None:
    fake = Fake()
    found = limits("inram.answering").Requests(fake).together(ids=[1] * 16, rows=8, calls=2)
    turn = ["decode 1", "decode 8"]
    assert fake.calls == ["begin 43", "prompt 16", *turn * 3, "end"]
    assert (len(found["one"]), len(found["many"])) == (2, 2)


def test_the_long_text_is_run_once_and_shortened_again(limits: Any) -> None:
    fake = Fake()
    requests = limits("inram.answering").Requests(fake)
    first = requests.depths(near=[1] * 4, far=[1] * 9, calls=2)
    again = requests.depths(near=[1] * 4, far=[1] * 9, calls=2)
    round_ = ["begin 6", "prompt 4", *["decode 1"] * 4, "end", "cut 9"]
    assert fake.calls == ["begin 11", "prompt 9", *round_, *round_]
    assert ("fill" in first, "fill" in again) == (True, False)
    assert len(again["near"]) == len(again["far"]) == 2


@pytest.fixture
def worker(limits: Any) -> Iterator[Any]:
    made = limits("inram.worker").Worker("echo", [sys.executable, "-c", ECHO])
    yield made
    made.close()


def test_a_worker_answers_until_it_is_closed(worker: Any) -> None:
    for what in ("this", "that"):
        found = worker.ask(what, more=1)
        assert found.pop("others") >= 0
        assert found == {"ask": what, "more": 1}
    assert worker.huge_bytes() >= 0
    worker.close()


def test_a_worker_that_waits_takes_no_time_and_one_that_spins_is_found_out(worker: Any) -> None:
    worker.ask("wait")
    time.sleep(1.1)
    assert worker.idle() <= 0.05
    worker.ask("spin", code=SPIN)
    time.sleep(1.1)
    assert worker.idle() > 0.05


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit('no such store')", "echo failed with 1: no such store"),
        ("import os; os.abort()", "signal 6"),
    ],
)
def test_the_end_of_a_worker_is_told(limits: Any, worker: Any, code: str, message: str) -> None:
    with pytest.raises(limits("inram.worker").WorkerError, match=message):
        worker.ask("end", code=code)
    with pytest.raises(limits("inram.worker").WorkerError):
        worker.ask("more")


# ---- arithmetic


def measured(limits: Any, *programs: str) -> Any:
    inram = limits("inram.summary")
    asked = inram.Asked(threads=2, new=65, prompts=[100], rows=8, context=1000)

    def answers(slow: float) -> dict[str, Any]:
        return {
            "decode": {"tokens": 65, "first_token": 1.0, "decode": 16 * slow, "others": 0.0},
            "prompt 100": {"tokens": 1, "first_token": 2 * slow, "decode": 0.0, "others": 0.25},
            "together": {"one": [1.0, 9.0, 1.0], "many": [2.0 * slow, 2 * slow, 50.0], "others": 0.0},
            "depths": {"near": [0.25] * 3, "far": [0.5 * slow] * 3, "others": 0.0},
        }

    speeds = {"m2cache": (1.0, 2.0, 4.0), "llama.cpp": (4.0, 4.0, 4.0)}
    rounds = [
        {"bandwidth": [1e10, 3e10]} | {name: answers(speeds[name][n]) for name in programs} for n in range(3)
    ]
    about = {
        "idle": 0.0,
        "huge_bytes": 1,
        "isa": "portable",
        "repacked": 0,
        "attention": [],
        "system": "SSE3",
    }
    weights = dict.fromkeys(programs, 10**9)
    return inram.Measured("tiny", asked, weights, 10**6, rounds, dict.fromkeys(programs, about))


def test_figures_are_medians_over_the_rounds(limits: Any) -> None:
    found = measured(limits, "m2cache", "llama.cpp").summary()
    ours = found["m2cache"]
    assert ours["decode tokens_per_second"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    # 1 GB of weights, and keys and values of 16 + 65 / 2 positions, at 2 tokens a second of 20 GB a second.
    assert ours["decode bytes_per_token"]["median"] == 1e9 + 48.5e6
    assert ours["decode share_of_bandwidth"]["median"] == pytest.approx(2 * 1.0485e9 / 2e10)
    assert ours["prompt 100 tokens_per_second"]["median"] == 25
    assert ours["together"]["median"] == 4
    assert (ours["far"]["median"], ours["far bytes_per_token"]["median"]) == (4, 2e9)
    assert found["ratio"]["decode tokens_per_second"] == 2
    assert found["bandwidth"] == {"median": 2e10, "min": 1e10, "max": 3e10}


def test_the_table_says_what_it_is_of_and_what_did_not_happen(limits: Any) -> None:
    text = "\n".join(measured(limits, "m2cache", "llama.cpp").lines())
    assert "synthetic weights" in text
    assert "2 (1..4)" in text
    assert "NOTHING repacked" in text
    assert "other work took 0 (0..0.25) cores" in text
    alone = "\n".join(measured(limits, "m2cache").lines())
    assert "ratio" not in alone


# ---- the whole


def decode(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tiny").mkdir(exist_ok=True)
    shape = tmp_path / "tiny/config.json"
    shape.write_text(json.dumps(SHAPE))
    words = (
        f"--shape {shape} --work {tmp_path / 'work'} --out {tmp_path / 'out.json'} --repeats 2 --new-tokens 4"
    )
    words += " --prompt-tokens 40 --rows 3"
    command = [sys.executable, str(BENCHES / "decode.py"), *words.split(), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_tiny_comparison_from_end_to_end(tmp_path: Path) -> None:
    python = os.environ.get(LLAMA)
    peer = ["--llama-python", python] if python else ["--no-peer"]
    done = decode(tmp_path, "--context", "128", "--threads", "2", *peer)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["label"] == "synthetic weights"
    four, eight = result["measured"]
    for one in (four, eight):
        assert len(one["rounds"]) == 2
        assert one["summary"]["m2cache"]["decode tokens_per_second"]["min"] > 0
        assert one["rounds"][0]["m2cache"]["decode"]["tokens"] == 4
        assert one["about"]["m2cache"]["threads"] == 2
    assert four["weights"]["m2cache"] < eight["weights"]["m2cache"]
    made = {path.name for path in (tmp_path / "work").iterdir()}
    assert made == {"tiny-mid.m2c"} | ({"tiny-Q4_0.gguf", "tiny-Q8_0.gguf"} if python else set())
    alone = decode(tmp_path, "--context", "0", "--level", "8", "--no-peer", "--discard")
    assert (alone.returncode, "making" in alone.stderr) == (0, False), alone.stderr
    assert "positions" not in alone.stdout
    assert not (tmp_path / "work/tiny-mid.m2c").exists()
    if python is None:
        pytest.skip(f"ours was compared with nothing: {LLAMA} names no Python that has llama_cpp and gguf")
    assert four["rounds"][1]["llama.cpp"]["decode"]["tokens"] == 4
    assert four["about"]["llama.cpp"]["system"]
    assert four["summary"]["ratio"]["decode tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--context", "64"], 2, "above 64"),
        (["--rows", "1"], 2, "at least 2"),
        (["--no-peer", "--context", "9000"], 1, "9000 positions are asked for, tiny has 1024"),
        (["--llama-python", "/nonexistent"], 1, "/nonexistent"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, options: list[str], code: int, message: str) -> None:
    done = decode(tmp_path, *options)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
