"""Channel equalisation: the f32 function stays the same to the bit, and outliers stop costing bits."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from m2cache_rs.convert import Calibration, convert
from m2cache_rs.convert.calibrate import measure
from m2cache_rs.convert.equalize import LIMIT, activation_size, column_rms, factors
from m2cache_rs.errors import UsageError
from numpy.typing import NDArray

from tests.reference import checkpoint, numbers, store, tiny
from tests.reference.decoder import forward
from tests.reference.weights import Plain
from tests.sources import EXAMPLE, contents, make, model
from tests.stores import Cli

__all__ = ["model"]

Array = NDArray[Any]
READERS = {"norm.attn": ("q", "k", "v"), "norm.ffn": ("gate", "up")}

sizes = hnp.arrays(np.float64, 48, elements=st.one_of(st.just(0.0), st.floats(1e-20, 1e20, allow_nan=False)))
normal = st.floats(2.0**-40, 2.0**40, width=32)
signed = st.builds(lambda x, minus: -x if minus else x, normal, st.booleans())


@settings(deadline=None)
@given(sizes, sizes)
def test_factors_are_powers_of_two_within_the_limit(activation: Array, weight: Array) -> None:
    found = factors(activation, weight)
    mantissa, exponent = np.frexp(found)
    assert found.dtype == np.float32
    assert (mantissa == 0.5).all()
    assert (abs(exponent - 1) <= LIMIT).all()


@settings(deadline=None)
@given(hnp.arrays(np.float64, 48, elements=st.floats(0.01, 100)), st.integers(-30, 30))
def test_only_the_proportions_of_channels_count(activation: Array, exponent: int) -> None:
    weight = activation[::-1].copy()
    np.testing.assert_array_equal(
        factors(activation, weight), factors(activation * 4.0**exponent, weight / 4.0**exponent)
    )


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, (2, 12), elements=signed),
    hnp.arrays(np.float32, 12, elements=signed),
    hnp.arrays(np.float32, (2, 12), elements=signed),
)
def test_every_product_and_every_sum_stays_the_same_number(weight: Array, gain: Array, x: Array) -> None:
    factor = factors(activation_size(gain, None), column_rms([weight], 12))
    plain = (x * gain)[:, None] * weight
    equalised = (x * (gain / factor))[:, None] * (weight * factor)
    np.testing.assert_array_equal(plain, equalised)
    np.testing.assert_array_equal(np.cumsum(plain, 2), np.cumsum(equalised, 2))
    np.testing.assert_array_equal((x * gain) @ weight.T, (x * (gain / factor)) @ (weight * factor).T)


def test_channels_that_are_always_zero_give_way() -> None:
    found = factors(np.array([0.0, 1, 0, 1]), np.array([1.0, 0, 0, 1]))
    assert found.tolist() == [2.0**-LIMIT, 2.0**LIMIT, 1, 1]


def test_a_channel_the_text_never_used_is_not_given_up() -> None:
    size = activation_size(np.array([1, 1, 0], np.float32), np.array([0.0, 4, 4]))
    assert size.tolist() == [4 * 2.0**-10, 4, 0]
    assert activation_size(np.array([1, -2], np.float32), np.zeros(2)).tolist() == [1, 2]


def equalised_source(source: Path, made: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """The source's weights with the store's factors moved, and the factors by norm."""
    _, spec, named = checkpoint.load(source)
    stored = store.weights(made)
    readers = {
        f"{layer}.{norm}": [f"{layer}.{matrix}" for matrix in matrices]
        for layer in range(spec.layers)
        for norm, matrices in READERS.items()
    }
    readers["norm.final"] = [] if spec.tied else ["head"]
    found = {norm: named[norm] / stored[norm] for norm in readers}
    moved = dict(named) | {norm: stored[norm] for norm in readers}
    for norm, matrices in readers.items():
        moved |= {matrix: named[matrix] * found[norm] for matrix in matrices}
    return moved, found


def uneven(source: Path, seed: int) -> dict[str, Array]:
    """Gives the model channels of very different size, the columns smaller where the gain is larger."""
    config, spec, named = checkpoint.load(source)
    random = np.random.RandomState(seed)
    for layer in range(spec.layers):
        for norm, matrices in READERS.items():
            factor = np.exp2(random.uniform(-5, 5, spec.hidden)).astype(np.float32)
            named[f"{layer}.{norm}"] = named[f"{layer}.{norm}"] * factor
            named |= {f"{layer}.{m}": named[f"{layer}.{m}"] / factor for m in matrices}
    checkpoint.save(source, config, named, "F32")
    return named


@settings(max_examples=12, deadline=None)
@given(tiny.configs(), st.integers(0, 99))
def test_the_stored_model_is_the_same_function(config: dict[str, Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "model", Path(folder) / "tiny.m2c"
        named = uneven(make(source, "F32", **config), seed)
        spec = checkpoint.load(source)[1]
        convert(source, made, equalize=True)
        moved, found = equalised_source(source, made)
        for name, values in store.weights(made).items():
            wanted = numbers.decode(numbers.encode(moved[name])) if values.ndim == 2 else moved[name]
            np.testing.assert_array_equal(values, wanted, err_msg=name)
    ids = tiny.tokens(spec, 9, seed)
    np.testing.assert_array_equal(forward(spec, Plain(named), ids), forward(spec, Plain(moved), ids))
    assert all((np.frexp(factor)[0] == 0.5).all() for factor in found.values())
    assert (found["0.norm.attn"] != 1).any()
    assert not spec.tied or (found["norm.final"] == 1).all()


def test_a_tied_head_is_left_alone(tmp_path: Path) -> None:
    source = make(tmp_path / "model", tie_word_embeddings=True)
    uneven(source, 0)
    convert(source, tmp_path / "plain.m2c", equalize=False)
    convert(source, tmp_path / "equal.m2c", equalize=True)
    plain, equal = contents(tmp_path / "plain.m2c"), contents(tmp_path / "equal.m2c")
    assert plain["embed.safetensors"] == equal["embed.safetensors"]
    assert plain["layer-00000.safetensors"] != equal["layer-00000.safetensors"]


def inject(named: dict[str, Array], layers: int) -> dict[str, Array]:
    """The same function with four outlier channels a norm: gain times 32, columns divided by it."""
    named, random = dict(named), np.random.RandomState(5)
    for layer in range(layers):
        for norm, matrices in READERS.items():
            factor = np.ones(256, np.float32)
            factor[random.permutation(256)[:4]] = 32
            named[f"{layer}.{norm}"] = named[f"{layer}.{norm}"] * factor
            named |= {f"{layer}.{m}": named[f"{layer}.{m}"] / factor for m in matrices}
    return named


def noise(source: Path, made: Path) -> float:
    """Error of gain times columns against their size, over what reads a norm, as a share of energy."""
    _, spec, named = checkpoint.load(source)
    stored, error, energy = store.weights(made), 0.0, 0.0
    for layer in range(spec.layers):
        for norm, matrices in READERS.items():
            for name in [f"{layer}.{matrix}" for matrix in matrices]:
                wanted = named[name].astype(np.float64) * named[f"{layer}.{norm}"]
                have = stored[name].astype(np.float64) * stored[f"{layer}.{norm}"]
                error, energy = error + ((have - wanted) ** 2).sum(), energy + (wanted**2).sum()
    return float(error / energy)


def test_injected_outliers_cost_nothing_once_equalised(tmp_path: Path) -> None:
    config, spec, named = checkpoint.load(EXAMPLE)
    outliers = tmp_path / "outliers"
    checkpoint.save(outliers, config, inject(named, spec.layers), "BF16")
    (outliers / "tokenizer.json").write_bytes((EXAMPLE / "tokenizer.json").read_bytes())
    convert(EXAMPLE, tmp_path / "plain.m2c", planes="base", equalize=False)
    convert(outliers, tmp_path / "outliers.m2c", planes="base", equalize=False)
    convert(outliers, tmp_path / "equal.m2c", planes="base", equalize=True)
    plain = noise(EXAMPLE, tmp_path / "plain.m2c")
    assert noise(outliers, tmp_path / "outliers.m2c") > 5 * plain
    assert noise(outliers, tmp_path / "equal.m2c") < 1.05 * plain


def statistics(source: Path) -> Calibration:
    """|gain| as if it had been measured, so that it calibrates to what the weights alone give."""
    _, spec, named = checkpoint.load(source)
    rms = {(i, n): abs(named[f"{i}.norm.{n}"]) for i in range(spec.layers) for n in ("attn", "ffn")}
    rms[spec.layers, "final"] = abs(named["norm.final"])
    return Calibration(rms, 100, "0" * 32)


def test_measured_activations_take_the_place_of_gains(model: Path, tmp_path: Path) -> None:
    calibration = statistics(model)
    convert(model, tmp_path / "weights.m2c", equalize=True)
    convert(model, tmp_path / "same.m2c", calibration=calibration)
    calibration.rms[1, "ffn"][7] *= 16  # type: ignore[index]
    convert(model, tmp_path / "loud.m2c", calibration=calibration)
    same, loud = store.weights(tmp_path / "same.m2c"), store.weights(tmp_path / "loud.m2c")
    np.testing.assert_array_equal(same["1.norm.ffn"], store.weights(tmp_path / "weights.m2c")["1.norm.ffn"])
    assert loud["1.norm.ffn"][7] == same["1.norm.ffn"][7] / 4
    assert set(np.log2(loud["1.norm.ffn"] / same["1.norm.ffn"])) <= {-2.0, 0.0, 1.0}  # the mean moved by 2/72


@pytest.mark.parametrize(
    "rms",
    [{}, {(0, "attn"): np.ones(5, np.float32)}, {(0, "attn"): np.full(72, np.nan, np.float32)}],
    ids=["missing", "short", "not finite"],
)
def test_statistics_that_do_not_fit_are_refused(rms: Any, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="72 finite values for the attn norm of layer 0"):
        convert(model, tmp_path / "tiny.m2c", calibration=Calibration(rms, 1, ""))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


class Recorder:
    """A model that says what it was asked to run."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def activation_rms(self, ids: Any) -> dict[tuple[int, str], Array]:
        self.ids = list(ids)
        return {}


def test_the_first_tokens_are_measured() -> None:
    recorder = Recorder()
    assert measure(recorder, "abc" * 1000).tokens == 2048
    assert recorder.ids[:4] == [97, 98, 99, 97]
    assert len(recorder.ids) == 2048
    with pytest.raises(UsageError, match="calibration text is empty"):
        measure(recorder, "")


def manifest(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((path / "m2cache.json").read_text())
    return values


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("It was the best of times, it was the worst of times. " * 20)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model without equalisation: what statistics are taken from."""
    path = tmp_path_factory.mktemp("plain") / "tale.m2c"
    convert(EXAMPLE, path, equalize=False)
    return path


def test_calibrating_needs_no_store_and_leaves_none(
    tmp_path: Path, plain: Path, text: Path, cli: Cli
) -> None:
    made = cli("convert", EXAMPLE, tmp_path / "a.m2c", "--calibrate", text)
    named = cli("convert", EXAMPLE, tmp_path / "b.m2c", "--calibrate", text, "--from", plain)
    assert (made.returncode, named.returncode) == (0, 0), made.stderr + named.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.m2c", "b.m2c", "text.txt"]
    assert contents(tmp_path / "a.m2c") == contents(tmp_path / "b.m2c")
    equalize = manifest(tmp_path / "a.m2c")["equalize"]
    assert equalize["by"] == "activations"
    assert 100 < equalize["tokens"] < 2048


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xfd", None])
def test_a_text_that_cannot_be_used_leaves_nothing(content: bytes | None, tmp_path: Path, cli: Cli) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    result = cli("convert", EXAMPLE, tmp_path / "a.m2c", "--calibrate", tmp_path / "text.txt")
    assert result.returncode == 2
    assert "the calibration text" in result.stderr.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} <= {"text.txt"}


def test_statistics_come_from_a_plain_store_of_the_same_source(
    tmp_path: Path, model: Path, plain: Path, text: Path, cli: Cli
) -> None:
    convert(EXAMPLE, tmp_path / "equal.m2c", equalize=True)
    for source, used, why in [
        (EXAMPLE, tmp_path / "equal.m2c", "is equalised"),
        (model, plain, "made from another source"),
        (EXAMPLE, tmp_path / "none.m2c", "none.m2c"),
    ]:
        result = cli("convert", source, tmp_path / "new.m2c", "--calibrate", text, "--from", used)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
        assert why in result.stderr
    alone = cli("convert", EXAMPLE, tmp_path / "new.m2c", "--from", plain)
    assert alone.returncode == 2
    assert "--calibrate" in alone.stderr


def test_a_calibration_does_not_touch_what_is_not_its_own(tmp_path: Path, text: Path, cli: Cli) -> None:
    other = tmp_path / "a.m2c.calibration"
    other.mkdir()
    (other / "diary.txt").write_text("mine")
    result = cli("convert", EXAMPLE, tmp_path / "a.m2c", "--calibrate", text)
    assert result.returncode == 2
    assert "a.m2c.calibration is no store" in result.stderr
    assert (other / "diary.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.m2c.calibration", "text.txt"]
