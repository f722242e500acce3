"""The public Model: what it yields, what it refuses, and that it stays usable."""

from __future__ import annotations

import gc
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs import (
    BudgetError,
    DamageError,
    M2CacheError,
    Model,
    NumericsError,
    StoreError,
    Token,
    UnsupportedError,
    UsageError,
)
from m2cache_rs.convert import convert
from m2cache_rs.models import architecture_of
from m2cache_rs.plan import wish
from m2cache_rs.runtime import generation
from m2cache_rs.runtime.decoder import Batch, Kind

from tests.reference import checkpoint, tiny
from tests.stores import EXAMPLE, SMALL

PROMPT = "In the beginning God created"
# The largest block of the demo model: slots take whole ones.
BLOCK = 200 << 10


@pytest.fixture(scope="module")
def model(tale: Path) -> Iterator[Model]:
    with Model.open(tale, precision=8) as opened:
        yield opened


def edited(store: Path, target: Path, name: str, **values: Any) -> Path:
    """A copy of a store whose JSON asset has other values (only `verify` checks assets)."""
    shutil.copytree(store, target)
    path = target / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return target


def test_tokens_are_the_argmax_of_the_logits(model: Model) -> None:
    tokens = list(model.generate(PROMPT, 12))
    ids = model.encode(PROMPT)
    whole = ids + [token.id for token in tokens]
    best = model.logits(whole).argmax(axis=1)[len(ids) - 1 : -1]
    assert [token.id for token in tokens] == best.tolist()
    assert "".join(token.text for token in tokens) == model.decode(whole)[len(PROMPT) :]


def test_ids_and_text_are_the_same_prompt(model: Model) -> None:
    assert list(model.generate(PROMPT, 5)) == list(model.generate(model.encode(PROMPT), 5))
    assert list(model.generate(PROMPT, 5)) == list(model.generate(np.array(model.encode(PROMPT)), 5))  # type: ignore[arg-type]


def test_a_stop_string_never_shows(model: Model) -> None:
    whole = "".join(token.text for token in model.generate(PROMPT, 40))
    stop = whole[20:26]
    shown = "".join(token.text for token in model.generate(PROMPT, 40, stop=["never seen", stop]))
    assert shown == whole[: whole.index(stop)]
    assert "".join(token.text for token in model.generate(PROMPT, 40, stop="never seen")) == whole


def test_an_end_of_text_id_is_the_last_token_and_shows_nothing(
    tale: Path, model: Model, tmp_path: Path
) -> None:
    tokens = list(model.generate(PROMPT, 12))
    ids = [token.id for token in tokens]
    end = next(i for i in range(3, 12) if ids[i] not in ids[:i])
    store = edited(tale, tmp_path / "ends.m2c", "generation_config.json", eos_token_id=[ids[end], 1])
    with Model.open(store, precision=8) as other:
        ended = list(other.generate(PROMPT, 12))
    assert ended[:-1] == tokens[:end]
    assert ended[-1] == Token(ids[end], "")


def test_the_generation_config_is_honoured_until_a_flag_says_otherwise(
    tale: Path, model: Model, tmp_path: Path
) -> None:
    values = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}
    store = edited(tale, tmp_path / "samples.m2c", "generation_config.json", **values)
    with Model.open(store, precision=8) as other:
        sampled = list(other.generate(PROMPT, 12, seed=3))
        greedy = list(other.generate(PROMPT, 12, temperature=0.0, repetition_penalty=1.0))
    flags = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}
    assert sampled == list(model.generate(PROMPT, 12, seed=3, **flags))  # type: ignore[arg-type]
    assert greedy == list(model.generate(PROMPT, 12)) != sampled


def test_other_seeds_give_other_texts(model: Model) -> None:
    texts = {tuple(model.generate(PROMPT, 8, temperature=1.5, seed=seed)) for seed in range(4)}
    assert len(texts) == 4


def test_an_empty_prompt_begins_with_the_models_own_token(model: Model) -> None:
    assert list(model.generate("", 4)) == list(model.generate([], 4)) == list(model.generate([0], 4))


def test_an_empty_prompt_without_such_a_token_is_refused(tale: Path, tmp_path: Path) -> None:
    store = edited(tale, tmp_path / "nobos.m2c", "generation_config.json", bos_token_id=None)
    edit = store / "config.json"
    edit.write_text(edit.read_text().replace('"bos_token_id": 0', '"bos_token_id": null'))
    with Model.open(store) as other, pytest.raises(UsageError, match="prompt is empty"):
        other.generate("")


def test_the_default_length_is_what_the_context_leaves(model: Model) -> None:
    context = model.architecture.context
    assert generation.new_tokens(None, 5, context) == 256
    assert generation.new_tokens(None, context - 3, context) == 3
    assert len(list(model.generate([5] * (context - 2)))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": [5] * 1024}, "1024 tokens, the model's context holds 1024"),
        ({"prompt": [5] * 1000, "max_new_tokens": 25}, "at most 24 new tokens"),
        ({"prompt": [1, 4096]}, "token id 4096 is not in the model's vocabulary of 4096"),
        ({"prompt": [1, -1]}, "token id -1"),
        ({"prompt": [1.5]}, "list of integers"),
        ({"prompt": [[1]]}, "list of integers"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5; an integer"),
        ({"seed": None}, "seed is None; an integer"),
        ({"max_new_tokens": "3"}, "max_new_tokens is '3'; an integer"),
        ({"stop": 5}, "stop is 5; a text or several"),
        ({"stop": [b"x"]}, "stop is .*; a text or several"),
        ({"progress": 5}, "progress is 5; it must be callable"),
        ({"prompt": [[1], [2, 3]]}, "a flat list of integers"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [""]}, "stop string is empty"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"top_p": 7.0}, "top_p is 7.0"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_token(
    model: Model, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate(**{"prompt": PROMPT, **arguments})


@pytest.mark.parametrize("ids", [[-1], [1.5], ["a"], 5])
def test_what_is_no_ids_or_no_text_is_refused(model: Model, ids: Any) -> None:
    with pytest.raises(UsageError, match="integers from 0 on"):
        model.decode(ids)
    with pytest.raises(UsageError, match="a str is needed"):
        model.encode(ids)


@pytest.mark.parametrize("ids", [[], [5] * 1025, [9999]])
def test_logits_refuse_what_does_not_fit(model: Model, ids: list[int]) -> None:
    with pytest.raises(UsageError):
        model.logits(ids)
    with pytest.raises(UsageError, match="path is 'draft'"):
        model.logits([1], path="draft")


def test_logits_by_batch_are_the_logits(model: Model) -> None:
    ids = model.encode(PROMPT * 12)
    batches = list(model.logits_by_batch(ids))
    assert {len(rows) for rows in batches[:-1]} == {32}
    assert np.concatenate(batches).tobytes() == model.logits(ids, path="prompt").tobytes()


def test_a_generation_that_is_dropped_frees_its_keys_and_values(model: Model) -> None:
    before = model.stats()["kv_bytes"]
    tokens = model.generate(PROMPT, 20)
    next(tokens)
    assert model.stats()["kv_bytes"] > before
    tokens.close()
    assert model.stats()["kv_bytes"] == before
    for _ in range(3):
        next(model.generate(PROMPT, 20))
    gc.collect()
    assert model.stats()["kv_bytes"] == before


def test_stats_count_bytes_and_tokens(tale: Path) -> None:
    with Model.open(tale, precision=4) as model:
        list(model.generate(PROMPT, 3))
        stats = model.stats()
        prompt = len(model.encode(PROMPT))
    assert stats["tokens"] == {"prompt": prompt, "decode": 2, "draft": 0}
    assert stats["read_bytes"] == sum(one["read_bytes"] for one in stats["sections"]) > 0
    assert stats["hit_bytes"] == sum(one["hit_bytes"] for one in stats["sections"]) > 0
    assert all(one["read_bytes"] == 0 for one in stats["sections"] if ".low" in one["section"])
    assert stats["peak_rss_bytes"] > 1 << 20


def test_a_closed_model_says_so(tale: Path) -> None:
    model = Model.open(tale)
    tokens = model.generate(PROMPT, 5)
    next(tokens)
    model.close()
    model.close()
    for use in (lambda: next(tokens), lambda: model.logits([1]), model.stats):
        with pytest.raises(UsageError, match="closed"):
            use()
    tokens.close()


def test_precision_per_part_and_the_default(tale: Path, tale_mid: Path) -> None:
    with Model.open(tale, precision={"attn": 8, "ffn": 4}) as model:
        assert (model.precision.attn, model.precision.ffn, model.precision.head) == (8, 4, 16)
    with Model.open(tale_mid) as model:
        assert model.precision.head == 8
    with pytest.raises(UsageError, match="needs the plane 'low'"):
        Model.open(tale_mid, precision=16)


def test_more_bits_are_nearer_to_the_best(tale: Path) -> None:
    ids = list(range(100, 164))
    rows = {}
    for bits in (4, 8, 16):
        with Model.open(tale, precision=bits) as model:
            rows[bits] = model.logits(ids)
    distance = {bits: np.abs(rows[bits] - rows[16]).mean() for bits in (4, 8)}
    assert 0 < distance[8] < distance[4] / 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.m2c", "does not exist"),
        ("half.m2c.partial", "unfinished conversion"),
        ("file", "is a file, not a store"),
        ("model", "m2cache convert .*model model.m2c"),
        ("empty", "it has no m2cache.json"),
    ],
)
def test_what_is_no_store_is_told_apart(tmp_path: Path, name: str, message: str) -> None:
    for folder in ("half.m2c.partial", "model", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match=message):
        Model.open(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify": "sometimes"}, "verify is 'sometimes'"),
        ({"act": "int4"}, "act is 'int4'"),
        ({"threads": 0}, "threads is 0"),
        ({"cache": "lots"}, "cache 'lots' is no size"),
        ({"precision": 5}, "precision 5"),
    ],
)
def test_wrong_options_are_refused(tale: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model.open(tale, **options)


def test_a_cache_below_the_least_names_the_least(tale: Path) -> None:
    with pytest.raises(BudgetError, match=r"the least that works is (\d+) bytes") as caught:
        Model.open(tale, cache=1000)
    least = int(str(caught.value).split("works is ")[1].split()[0])
    Model.open(tale, cache=least).close()


def test_little_free_memory_caps_the_default_cache_and_says_so(
    tale: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Model.open(tale) as model:
        kept = wish._MARGIN + model.budget.kv + model.budget.scratch
    monkeypatch.setattr(wish, "_margin", lambda free: wish._MARGIN)
    monkeypatch.setattr(wish, "free_memory", lambda: kept + (2 << 20))
    with caplog.at_level(logging.WARNING), Model.open(tale) as model:
        assert model.stats()["fixed_bytes"] + model.stats()["ring_bytes"] <= 2 << 20
        list(model.generate(PROMPT, 2))
    assert "the cache holds 2.0 MiB" in caplog.text
    monkeypatch.setattr(wish, "free_memory", lambda: kept + 1)
    with pytest.raises(BudgetError, match="1 B of memory is free"):
        Model.open(tale)


def test_a_reserve_is_left_to_others(
    tale: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Model.open(tale) as model:
        kept, ahead = wish._MARGIN + model.budget.kv + model.budget.scratch, model.budget.ahead
        monkeypatch.setattr(wish, "_margin", lambda free: wish._MARGIN)
        monkeypatch.setattr(wish, "free_memory", lambda: kept + ahead + (1 << 20))
        with Model.open(tale) as alone, Model.open(tale, reserve=ahead) as other:
            assert alone.cache == model.cache
            assert 0 <= (1 << 20) - other.cache < BLOCK
        with caplog.at_level(logging.WARNING), Model.open(tale, cache="12MiB", reserve=ahead) as asked:
            assert 0 <= (12 << 20) - asked.cache < BLOCK
        assert "a cache of 12.0 MiB is more than the free memory holds" in caplog.text
        assert Model.open(tale, cache="1TB").cache == model.cache


def test_a_store_without_tokenizer_takes_ids(tale: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tale, tmp_path / "plain.m2c")
    (store / "tokenizer.json").unlink()
    with Model.open(store) as model:
        tokens = list(model.generate([1, 2, 3], 3))
        assert [token.text for token in tokens] == ["", "", ""]
        for use in (lambda: model.generate("text"), lambda: model.generate([1], stop="x")):
            with pytest.raises(UnsupportedError, match=r"no tokenizer\.json"):
                use()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json"])
def test_a_broken_asset_is_named(tale: Path, tmp_path: Path, name: str) -> None:
    store = shutil.copytree(tale, tmp_path / "broken.m2c")
    if name == "config.json":  # it is the second to be asked
        (store / "generation_config.json").unlink()
    (store / name).write_text("{")
    with Model.open(store) as model, pytest.raises(StoreError, match=name):
        list(model.generate("", 1))


def test_damage_is_named_and_the_rest_of_the_model_still_runs(tale: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tale, tmp_path / "damaged.m2c")
    path = store / "layer-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with Model.open(store) as model:
        with pytest.raises(DamageError, match=r"layer-00003.*low.*record"):
            model.logits([1, 2, 3])
        assert model.stats()["kv_bytes"] == 0
    with Model.open(store, precision=8) as model, Model.open(tale, precision=8) as sound:
        assert model.logits([1, 2, 3]).tobytes() == sound.logits([1, 2, 3]).tobytes()


def test_a_read_that_fails_half_way_leaves_the_sequence_as_it_was(tale: Path, tmp_path: Path) -> None:
    store = shutil.copytree(tale, tmp_path / "torn.m2c")
    path = store / "layer-00004.safetensors"
    data = path.read_bytes()
    with pytest.raises(BudgetError) as caught:
        Model.open(store, cache=0)
    least = int(str(caught.value).split("works is ")[1].split()[0])
    ids = np.arange(50, 90, dtype=np.uint32)
    with Model.open(store, cache=least) as model, model.sequence(40) as sequence:
        whole = model.logits(ids)
        model.forward(Batch.run(ids[:20], sequence, 0, Kind.DECODE))
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(M2CacheError, match="layer-00004"):
            model.forward(Batch.run(ids[20:], sequence, 20, Kind.DECODE))
        path.write_bytes(data)
        rest = model.forward(Batch.run(ids[20:], sequence, 20, Kind.DECODE))
    assert rest.tobytes() == whole[20:].tobytes()


def test_weights_that_overflow_are_an_error_not_a_text(tmp_path: Path) -> None:
    weights = tiny.weights(architecture_of(SMALL)[1], seed=3)
    weights["norm.final"] = np.full_like(weights["norm.final"], 3e38)
    checkpoint.save(tmp_path / "model", SMALL, weights, "F32")
    shutil.copy(EXAMPLE / "tokenizer.json", tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "wild.m2c")
    with Model.open(tmp_path / "wild.m2c") as model:
        with pytest.raises(NumericsError, match="position 2"):
            next(model.generate([1, 2], 1))
        assert model.stats()["kv_bytes"] == 0


def test_activation_rms_is_that_of_the_norms_outputs(small: Path) -> None:
    ids = [int(one) for one in np.random.default_rng(1).integers(0, 259, 40)]
    with Model.open(small) as model:
        found = model.activation_rms(ids)
        spec = model.architecture
        seen: dict[tuple[int, str], np.ndarray[Any, Any]] = {}
        with model.sequence(40) as sequence:
            batch = Batch.run(np.array(ids, np.uint32), sequence, 0, Kind.PROMPT)
            model.forward(batch, observer=lambda layer, which, x: seen.update({(layer, which): x.copy()}))
        norms = [(layer, which) for layer in range(spec.layers) for which in ("attn", "ffn")]
        assert list(found) == list(seen) == [*norms, (spec.layers, "final")]
        with model.turn() as backend:
            gains = {key: backend.norm(*key) for key in seen}
        for (layer, which), x in seen.items():
            scale = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + spec.norm_eps)
            normed = x * scale * gains[layer, which]
            np.testing.assert_allclose(found[layer, which], np.sqrt((normed**2).mean(axis=0)), rtol=1e-5)
            assert found[layer, which].dtype == np.float32


def test_activation_rms_of_a_long_text_weighs_its_windows_by_tokens(small: Path) -> None:
    ids = [int(one) for one in np.random.default_rng(1).integers(0, 259, 700)]
    with Model.open(small) as model:
        whole, first, rest = (model.activation_rms(part) for part in (ids, ids[:512], ids[512:]))
    for key, values in whole.items():
        mean = (512 * first[key].astype(np.float64) ** 2 + 188 * rest[key].astype(np.float64) ** 2) / 700
        np.testing.assert_allclose(values, np.sqrt(mean), rtol=1e-5)
