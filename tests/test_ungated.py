"""A model whose FFN has no gate, through the whole program: no family that is imported has one yet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.convert import convert, huggingface
from m2cache_rs.errors import UsageError
from m2cache_rs.models import Architecture, Family, architecture_of
from m2cache_rs.models.spec import ACTIVATIONS
from m2cache_rs.runtime.decoder import Kind

from tests.engines import FFN, dense, factors, noise, opened, predicting, recipe, sparse
from tests.reference import checkpoint, tiny
from tests.reference import sparse as sparse_reference
from tests.reference.decoder import forward, norm, sparse_ffn
from tests.reference.sums import Ordered
from tests.reference.weights import Plain, Quantised, uniform
from tests.stores import EXAMPLE, SMALL, Cli, needs
from tests.test_parity import ROUGH, SAME_NUMBERS, SIXTEEN_BITS, distance, logits, same_bits, stored

NAMES = {"gelu_tanh": "gelu_new"}
IDS = np.random.default_rng(7).integers(0, SMALL["vocab_size"], 40)
Named = dict[str, np.ndarray[Any, Any]]


def without_gate(config: Any, file: str = "config.json") -> tuple[Family, Architecture]:
    family, arch = architecture_of(config, file)
    return family, replace(arch, gated=False, biases=tuple(name for name in arch.biases if name != "gate"))


@pytest.fixture(autouse=True)
def ungated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations say nothing of a gate, so both who write and who read checkpoints are told."""
    for module in (huggingface, checkpoint):
        monkeypatch.setattr(module, "architecture_of", without_gate)


def model(activation: str, **changes: Any) -> tuple[dict[str, Any], Architecture, Named]:
    """A configuration with biases everywhere, two chunks of neurons in each of two layers, and weights."""
    name = NAMES.get(activation, activation)
    config = SMALL | {"hidden_act": name, "mlp_bias": True, "vocab_size": 259} | changes
    arch = without_gate(config)[1]
    return config, arch, tiny.weights(arch, 11)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_reference(activation: str, bits: int, tmp_path: Path) -> None:
    config, arch, named = model(activation)
    act = "f32" if activation in ROUGH else "auto"
    twin = Quantised(named, uniform(bits), act == "auto", sums=Ordered())
    expected = forward(arch, twin, IDS)
    with stored(tmp_path, config, named, equalize=False) as path:
        for kind in Kind:
            found = logits(path, IDS, bits, act=act, kind=kind)
            if activation in ROUGH:
                assert distance(found, expected) < SAME_NUMBERS
            else:
                same_bits(found, expected)


@pytest.mark.parametrize("sections", ["split", "bundled"])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_cache_threads_and_parts_change_no_bit(sections: str, bits: int, tmp_path: Path) -> None:
    config, _, named = model("relu", mlp_bias=False)
    with stored(tmp_path, config, named, sections=sections) as path:
        expected = logits(path, IDS, bits)
        need = needs(path, bits)
        for cache, threads in ((need.least, 1), ((need.least + need.all) // 2, 2), (need.all, 3)):
            with Model.open(path, precision=bits, kv="f32", cache=cache, threads=threads) as opened:
                for way in ("decode", "prompt"):
                    same_bits(opened.logits(IDS, path=way), expected)
                stats = opened.stats()
            assert stats["read_bytes"] > 0


def test_channels_are_equalised_for_up_alone(tmp_path: Path) -> None:
    config, arch, named = model("quick_gelu")
    with stored(tmp_path, config, named) as path:
        assert distance(logits(path, IDS, 16), forward(arch, Plain(named), IDS)) < SIXTEEN_BITS


def test_sections_for_a_gate_are_refused(tmp_path: Path) -> None:
    config, _, named = model("relu")
    with (
        pytest.raises(UsageError, match=r"'gated' needs an FFN with a gate.*split or bundled"),
        stored(tmp_path, config, named, sections="gated"),
    ):
        pass


@pytest.fixture
def store(tmp_path: Path) -> Path:
    config, _, named = model("relu")
    checkpoint.save(tmp_path / "model", config, named)
    (tmp_path / "model/tokenizer.json").write_bytes((EXAMPLE / "tokenizer.json").read_bytes())
    convert(tmp_path / "model", tmp_path / "ungated.m2c")
    return tmp_path / "ungated.m2c"


@pytest.mark.parametrize(
    "command",
    [
        ["inspect"],
        ["verify"],
        ["plan", "--dram", "1GiB"],
        ["generate", "-p", "a", "--max-new-tokens", "4", "--precision", "4", "--stats"],
    ],
)
def test_every_command_takes_it(command: list[str], store: Path, cli: Cli) -> None:
    done = cli(command[0], store, *command[1:], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_inspect_names_no_gate(store: Path, cli: Cli) -> None:
    assert "300 neurons, relu\n" in cli("inspect", store).stdout


@pytest.mark.parametrize("selector", ["plane", "oracle", "lowrank", {"cascade": [250]}])
@pytest.mark.parametrize("act", ["auto", "f32"])
def test_sparse_layers_are_the_reference(selector: Any, act: str, tmp_path: Path) -> None:
    config, arch, named = model("quick_gelu")
    cut, weights = {"top": [20, 90, 70]}, Quantised(named, uniform(16), act == "auto", sums=Ordered())
    chosen = sparse_reference.Recipe(selector, [cut], {0: factors(0)}, int8=act == "auto")
    with stored(tmp_path, config, named, equalize=False) as path:
        engine = predicting(opened(path, sparse(selector, cut), act))
        for rows in (1, 6):
            x = noise(rows, rows)
            normed = norm(arch, weights, x, "0.norm.ffn")
            same_bits(engine.ffn(0, x), sparse_ffn(chosen, arch, weights, 0, normed))


@pytest.mark.parametrize("bits", [8, 16])
def test_neurons_proven_off_are_skipped(bits: int, tmp_path: Path) -> None:
    config, _, named = model("relu")
    with stored(tmp_path, config, named) as path:
        x, proven = noise(5, 1), opened(path, recipe({"certified": bits}))
        same_bits(proven.ffn(1, x), opened(path, dense(bits)).ffn(1, x))
        assert sum(json.loads(proven.stats())["ffn"]["neurons"]) < 5 * FFN
