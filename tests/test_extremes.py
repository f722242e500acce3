"""Numbers at the ends of float32 through the whole engine: the twin's bits on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model, NumericsError
from m2cache_rs._core import isa
from m2cache_rs.convert import convert
from m2cache_rs.models import architecture_of
from m2cache_rs.runtime.decoder import Kind

from tests.reference import checkpoint, tiny
from tests.reference.decoder import forward
from tests.reference.sums import Ordered
from tests.reference.weights import Quantised, uniform
from tests.stores import EXAMPLE
from tests.test_parity import logits, stored

Array = np.ndarray[Any, Any]
Change = Callable[[dict[str, Array]], None]

CONFIG = tiny.CONFIG | {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 300,
    "vocab_size": 40,
    "attention_bias": True,
    "mlp_bias": True,
}
ARCH = architecture_of(CONFIG)[1]
# Token 0 is where a model may do something that it does not do elsewhere.
IDS = [0, 0, 5, *range(1, 20), 0, 0, *range(20, 36)]


def times(factor: float, *names: str) -> Change:
    """Multiplies tensors whose name ends so; no name means all matrices."""

    def change(named: dict[str, Array]) -> None:
        for name, values in named.items():
            if name.endswith(names) if names else values.ndim == 2:
                named[name] = values * np.float32(factor)

    return change


def still_token(named: dict[str, Array]) -> None:
    """Token 0 is a row of zeros, in a model without biases that overflows behind the last norm elsewhere."""
    times(0, "q", "k", "v", "o", "gate", "up", "down")(named)
    named["embed"][0] = 0
    named["norm.final"][:] = 3e38


CHANGES: dict[str, Change] = {
    "zeros": times(0),
    "zeros-without-biases": times(0, "q", "k", "v", "o", "gate", "up", "down", "embed"),
    "subnormal-matrices": times(1e-42),
    "subnormal-gains": times(1e-40, "norm.attn", "norm.ffn"),
    "subnormal-activations": times(1e-38, "embed", "bias.o", "bias.down"),
    "largest-weights": times(2e4, "gate", "up", "o", "down"),
    "large-gains": times(1e16, "norm.attn", "norm.ffn", "norm.final"),
    "overflowing-gains": times(1e30, "norm.ffn"),
    "overflowing-scores": times(1e30, "bias.q", "bias.k"),
    "large-values": times(1e30, "bias.v"),
    "overflowing-squares": times(1e25, "bias.down"),
    "still-token": still_token,
}
NOT_FINITE = {
    "large-gains": ("f16",),
    "overflowing-gains": ("f16", "f32"),
    "overflowing-scores": ("f16", "f32"),
    "large-values": ("f16",),
    "still-token": ("f16", "f32"),
}
"""Where logits are no numbers, by the type of keys and values; elsewhere they must be."""


@pytest.fixture(scope="module", params=CHANGES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A changed model: its name, its weights and its store."""
    named = tiny.weights(ARCH, 5)
    CHANGES[request.param](named)
    folder = tmp_path_factory.mktemp("extreme")
    with stored(folder, CONFIG, named, equalize=False) as path:
        yield request.param, named, path


def bits(rows: Array) -> Array:
    """One for everything that is no number."""
    return np.where(np.isnan(rows), np.float32(np.nan), rows).view(np.uint32)


@pytest.mark.parametrize("kv", ["f16", "f32"])
@pytest.mark.parametrize("precision", [4, 8, 16])
def test_every_set_has_the_bits_of_the_twin(
    model: tuple[str, dict[str, Array], Path], precision: int, kv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, named, path = model
    with np.errstate(all="ignore"):
        twin = Quantised(named, uniform(precision), sums=Ordered())
        expected = forward(ARCH, twin, IDS, kv=kv)
    finite = np.isfinite(expected).all(axis=1)
    assert finite.all() == (kv not in NOT_FINITE.get(name, ())), finite
    for one in isa()[0]:
        monkeypatch.setenv("M2CACHE_ISA", one)
        found = partial(logits, path, np.array(IDS), precision, kv=kv)
        for kind in (Kind.DECODE, Kind.PROMPT):
            np.testing.assert_array_equal(bits(found(kind=kind)), bits(expected), f"{one}, {kind}")


def test_values_beyond_f16_end_in_an_error(tmp_path: Path) -> None:
    named = tiny.weights(ARCH, 5)
    CHANGES["large-values"](named)
    checkpoint.save(tmp_path / "model", CONFIG, named)
    (tmp_path / "model/tokenizer.json").write_bytes((EXAMPLE / "tokenizer.json").read_bytes())
    convert(tmp_path / "model", tmp_path / "model.m2c", equalize=False)
    with Model.open(tmp_path / "model.m2c", kv="f16") as model, pytest.raises(NumericsError, match="finite"):
        list(model.generate(IDS, 2))
    with Model.open(tmp_path / "model.m2c", kv="f32") as model:
        assert np.isfinite(model.logits(IDS)).all()


def test_a_row_without_numbers_keeps_to_itself(tmp_path: Path) -> None:
    """Tokens in front of the first that overflows, and other sequences of its batch, are what they were."""
    named = tiny.weights(ARCH, 5)
    still_token(named)
    with stored(tmp_path, CONFIG, named, equalize=False) as path:
        rows = logits(path, np.array(IDS), 4)
    assert [bool(np.isfinite(row).all()) for row in rows] == [token == 0 for token in IDS]
