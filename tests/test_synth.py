"""benches/synth.py: stores of random weights that are valid, usable, repeatable and never half there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs.models import architecture_of
from m2cache_rs.runtime.session import Model

from tests.held import started, wait_until
from tests.reference.format import Store
from tests.reference.tiny import CONFIG
from tests.sources import contents, is_sound
from tests.stores import Cli

SYNTH = Path(__file__).resolve().parents[1] / "benches/synth.py"
DEEP = CONFIG | {"num_hidden_layers": 60, "eos_token_id": 1}
QWEN = CONFIG | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "sliding_window": 32768,
    "use_sliding_window": False,
}


def command(shape: Path | str, target: Path, *options: str) -> list[str]:
    return [sys.executable, str(SYNTH), str(shape), str(target), *options]


def synth(shape: Path | str, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(shape, target, *options), capture_output=True, text=True, check=False, timeout=120
    )


def shape(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**DEEP, **config}))
    return path


@pytest.fixture(scope="module", params=["silu", "relu"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All planes of an odd width, in two partitions of the FFN."""
    folder = tmp_path_factory.mktemp("synth")
    made = synth(shape(folder / "deep", hidden_act=request.param), folder / "deep.m2c", "--planes", "all")
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["synthetic"]
    assert report["bytes"] == sum(map(len, contents(folder / "deep.m2c").values()))
    return folder / "deep.m2c"


def test_the_store_keeps_every_rule_of_the_format(store: Path) -> None:
    assert is_sound(store)
    read = Store(store)
    assert read.manifest["synthetic"] is True
    assert read.manifest["source"] == {"kind": "synthetic", "shape": "deep", "seed": 0}


@pytest.mark.parametrize("matrix", ["0.q", "7.o", "59.down", "3.gate", "embed", "head"])
def test_weights_fill_their_range_evenly(store: Path, matrix: str) -> None:
    """Uniform within ±√(3 / inputs): a variance of 1 / inputs, and no two matrices alike."""
    read = Store(store)
    inputs = 100 if matrix.endswith("down") else 72
    for bits in (4, 8, 16):
        values = read.values(matrix, bits) * np.sqrt(inputs)
        assert abs(values).max() <= np.sqrt(3) * 1.001
        assert values.std() == pytest.approx(1, abs=0.05)
        assert values.mean() == pytest.approx(0, abs=0.05)
    other = read.values("1.q", 16)
    rows = min(len(other), len(values))
    assert abs(np.corrcoef(other[:rows].ravel(), values[:rows].ravel())[0, 1]) < 0.1


def test_activations_stay_of_one_size_through_sixty_layers(store: Path) -> None:
    for precision in (4, 16):
        with Model.open(store, precision=precision) as model:
            logits = model.logits(range(8))
    assert np.isfinite(logits).all()
    assert 0.3 < logits.std() < 3


def test_any_text_goes_in_and_text_comes_out(store: Path, cli: Cli) -> None:
    made = cli("generate", store, "-p", "Größe\n\x01", "--max-new-tokens", 30, "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    assert (result["prompt_tokens"], result["tokens"]) == (9, 30)
    assert result["text"]
    assert [line for line in made.stderr.splitlines() if "random weights" in line]


def test_commands_say_that_it_is_synthetic_once(store: Path, cli: Cli) -> None:
    for arguments in (["generate", store, "-p", "a"], ["eval", store, "--text", store / "config.json"]):
        assert cli(*arguments).stderr.count("random weights") == 1
    assert "yes: random weights" in cli("inspect", store).stdout
    assert cli("verify", store).stdout.startswith("sound")


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    config = shape(tmp_path / "deep", num_hidden_layers=2, attention_bias=True)
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert synth(config, tmp_path / name, "--seed", seed).returncode == 0
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {name for name in a if "safetensors" in name} | {
        "m2cache.json"
    }


def test_stripes_hold_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SYNTH.parent)
    made = import_module("shape").Shape.of(str(shape(tmp_path / "deep", num_hidden_layers=3)))
    synthesize = import_module("synth").synthesize
    (tmp_path / "other").mkdir()
    plain = synthesize(made, tmp_path / "a.m2c")
    assert synthesize(made, tmp_path / "b.m2c", stripe=[tmp_path / "other"]) == plain
    assert any((tmp_path / "other").rglob("*.safetensors"))
    with Model.open(tmp_path / "a.m2c") as one, Model.open(tmp_path / "b.m2c") as two:
        assert np.array_equal(one.logits(range(8)), two.logits(range(8)))


def test_qwen2_has_biases_in_q_k_and_v(tmp_path: Path) -> None:
    assert synth(shape(tmp_path / "qwen", **QWEN), tmp_path / "qwen.m2c").returncode == 0
    read = Store(tmp_path / "qwen.m2c")
    assert read.architecture["biases"] == ["q", "k", "v"]
    bias = read.vectors["0.bias.q"]
    assert 0.04 < bias.std() < 0.08
    assert abs(bias).max() <= 0.1
    with Model.open(tmp_path / "qwen.m2c") as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


def test_a_vocabulary_smaller_than_the_bytes_still_takes_any_text(tmp_path: Path) -> None:
    assert synth(shape(tmp_path / "few", vocab_size=50), tmp_path / "few.m2c").returncode == 0
    with Model.open(tmp_path / "few.m2c") as model:
        assert model.encode("!zÿ") == [1, 0, 0, 0]
        assert len(list(model.generate("!", 5))) == 5


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3-8b", "qwen-7b"])
def test_named_shapes_are_the_published_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SYNTH.parent)
    spec = import_module("shape").Shape.of(name).architecture
    layer = sum(spec.records(matrix) for matrix in spec.layer_matrices) + 2
    weights = spec.hidden * (spec.layers * layer + 2 * spec.vocab + 1)
    biases = spec.layers * sum(spec.bias_length(matrix) for matrix in spec.biases)
    published = {"llama-2-7b": 6738415616, "llama-3-8b": 8030261248, "qwen-7b": 7721324544}
    assert weights + biases == published[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
        ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "MixtralForCausalLM"),
        ({"vocab_size": 1 << 25}, "vocab"),
        (QWEN | {"use_sliding_window": True, "max_window_layers": 0}, "sliding_window"),
    ],
)
def test_bad_shapes_are_refused_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made = synth(shape(tmp_path / "bad", **change), tmp_path / "bad.m2c")
    assert refused(made, message)
    assert not (tmp_path / "bad.m2c").exists()


def refused(made: subprocess.CompletedProcess[str], *words: str) -> bool:
    lines = made.stderr.splitlines()
    return made.returncode == 1 and len(lines) == 1 and all(word in lines[0] for word in words)


def test_other_mistakes_are_refused_in_one_line(tmp_path: Path) -> None:
    config = shape(tmp_path / "deep", num_hidden_layers=1)
    assert refused(synth("llama-9", tmp_path / "a.m2c"), "llama-9", "llama-2-7b")
    (tmp_path / "no.json").write_text("{")
    assert refused(synth(tmp_path / "no.json", tmp_path / "a.m2c"), "no.json", "JSON")
    assert refused(synth(config, tmp_path / "a.m2c", "--seed", "-1"), "seed")
    assert refused(synth(config, tmp_path / "none/a.m2c"), "does not exist")
    huge = shape(tmp_path / "huge", num_hidden_layers=16384, hidden_size=65536, intermediate_size=1 << 20)
    assert refused(synth(huge, tmp_path / "a.m2c"), "not enough space")
    assert not (tmp_path / "a.m2c").exists()
    assert not (tmp_path / "a.m2c.partial").exists()


def test_an_existing_store_stays_unless_force_is_given(tmp_path: Path) -> None:
    config, target = shape(tmp_path / "deep", num_hidden_layers=1), tmp_path / "a.m2c"
    assert synth(config, target).returncode == 0
    before = contents(target)
    assert refused(synth(config, target, "--seed", "1"), "exists already", "--force")
    assert contents(target) == before
    assert synth(config, target, "--seed", "1", "--force").returncode == 0
    assert contents(target) != before


STUCK = """
import os, runpy, sys, time
from m2cache_rs.convert.partial import Partial
finished = Partial.finished
def stay(self, entry):
    finished(self, entry)
    while len(self.journal.entries) == 21: time.sleep(1)
Partial.finished = stay
sys.argv[0] = sys.argv.pop(1)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_kill_leaves_no_store_and_the_same_command_resumes(tmp_path: Path) -> None:
    config, target = shape(tmp_path / "deep"), tmp_path / "a.m2c"
    journal = tmp_path / "a.m2c.partial/convert.journal"
    with started([sys.executable, "-c", STUCK, *command(config, target)[1:]]) as child:
        wait_until(child, lambda: journal.exists() and "layer-00020" in journal.read_text())
    assert child.returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(Exception, match="unfinished"):
        Model.open(journal.parent)
    finished = journal.parent / "layer-00000.safetensors"
    written = finished.stat().st_mtime_ns
    assert synth(config, target).returncode == 0
    assert (target / finished.name).stat().st_mtime_ns == written
    assert is_sound(target)
    assert architecture_of(json.loads((target / "config.json").read_text()))[1].layers == 60
