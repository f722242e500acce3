"""Sources that are broken, incomplete or of another kind: one line says what is wrong, nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from m2cache_rs.convert import convert
from m2cache_rs.errors import CheckpointError, M2CacheError, UnsupportedError

from tests.reference import checkpoint
from tests.sources import CONFIG, entries, model

__all__ = ["model"]


def _config(model: Path, **changes: Any) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | changes))


def _weights(model: Path, change: Callable[[dict[str, dict[str, Any]]], None]) -> None:
    found = entries(model)
    change(found)
    checkpoint.write(model / "model.safetensors", found)


Q = "model.layers.1.self_attn.q_proj.weight"
UP = "model.layers.2.mlp.up_proj.weight"


def _drop(count: int) -> Callable[[dict[str, Any]], None]:
    def drop(found: dict[str, Any]) -> None:
        for name in sorted(name for name in found if "layers.2" in name)[:count]:
            del found[name]

    return drop


def _retype(dtype: str, item: int) -> Callable[[dict[str, Any]], None]:
    def retype(found: dict[str, Any]) -> None:
        shape = found[Q]["shape"]
        found[Q] = {"dtype": dtype, "shape": shape, "data": bytes(item * shape[0] * shape[1])}

    return retype


def _reshape(found: dict[str, Any]) -> None:
    found[UP] = {"dtype": "BF16", "shape": [100, 71], "data": bytes(2 * 100 * 71)}


def _poison(value: float) -> Callable[[dict[str, Any]], None]:
    def poison(found: dict[str, Any]) -> None:
        values = np.frombuffer(found[UP]["data"], np.uint16).copy()
        values[70 * 72 + 65] = np.array([value], np.float32).view(np.uint32)[0] >> 16
        found[UP]["data"] = values.tobytes()

    return poison


def _pack(found: dict[str, Any]) -> None:
    found[UP.replace("weight", "qweight")] = {"dtype": "I32", "shape": [1], "data": bytes(4)}
    del found[UP]


def _truncate(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def _pickle(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _index(model: Path, text: str) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(text)


def _twice(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "a.safetensors").write_bytes(data)
    (model / "b.safetensors").write_bytes(data)
    _index(model, json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))


SOURCES: dict[str, tuple[Callable[[Path], object], type[M2CacheError], str]] = {
    "no config": (lambda m: (m / "config.json").unlink(), CheckpointError, "is no model directory"),
    "broken config": (
        lambda m: (m / "config.json").write_text("{"),
        CheckpointError,
        "config.json cannot be read",
    ),
    "config is a list": (
        lambda m: (m / "config.json").write_text("[]"),
        CheckpointError,
        "is not a JSON object",
    ),
    "other model": (
        lambda m: _config(m, architectures=["MambaForCausalLM"]),
        UnsupportedError,
        "'MambaForCausalLM' is not supported",
    ),
    "quantised": (
        lambda m: _config(m, quantization_config={"quant_method": "gptq"}),
        UnsupportedError,
        "already quantised with gptq",
    ),
    "quantised, not said": (
        lambda m: _weights(m, _pack),
        UnsupportedError,
        "up_proj.qweight belongs to an already quant",
    ),
    "int8 weights": (
        lambda m: _weights(m, _retype("I8", 1)),
        UnsupportedError,
        f"{Q} has dtype I8; only BF16, F16, F32",
    ),
    "f64 weights": (lambda m: _weights(m, _retype("F64", 8)), UnsupportedError, f"{Q} has dtype F64"),
    "one tensor missing": (
        lambda m: _weights(m, _drop(1)),
        CheckpointError,
        "lacks 1 tensor .*: model.layers.2.input_l",
    ),
    "many missing": (
        lambda m: _weights(m, _drop(8)),
        CheckpointError,
        r"lacks 8 tensors .*: (model\.\S+, ){4}\S+ and 3 more",
    ),
    "another shape": (
        lambda m: _weights(m, _reshape),
        CheckpointError,
        rf"{UP} has shape \[100, 71\].*asks for \[100, 72\]",
    ),
    "not a number": (
        lambda m: _weights(m, _poison(np.nan)),
        CheckpointError,
        "layer-00002: tensor up, row 70, group 1: a weight is not finite",
    ),
    "too large": (
        lambda m: _weights(m, _poison(1e6)),
        CheckpointError,
        "layer-00002: tensor up, row 70, group 1: .*65504",
    ),
    "truncated": (_truncate, CheckpointError, "model.safetensors"),
    "no weights": (
        lambda m: (m / "model.safetensors").unlink(),
        CheckpointError,
        "neither model.safetensors nor",
    ),
    "pickles": (_pickle, CheckpointError, r"pickles only \(pytorch_model.bin\).*safe_serialization"),
    "empty index": (lambda m: _index(m, "{}"), CheckpointError, "no readable weight_map"),
    "index of numbers": (
        lambda m: _index(m, '{"weight_map": {"a": 1}}'),
        CheckpointError,
        "1, which is no plain file name",
    ),
    "index elsewhere": (
        lambda m: _index(m, '{"weight_map": {"a": "../x.safetensors"}}'),
        CheckpointError,
        "'../x.safetensors', which is no plain",
    ),
    "shard missing": (
        lambda m: _index(m, '{"weight_map": {"a": "x.safetensors"}}'),
        CheckpointError,
        "lacks 1 of 1 files .* x.safetensors",
    ),
    "tensor twice": (_twice, CheckpointError, "b.safetensors: tensor .* is in another file as well"),
    "no tokenizer": (
        lambda m: (m / "tokenizer.json").unlink(),
        CheckpointError,
        "no tokenizer.json, nor a file to make one",
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_bad_source_is_named_and_leaves_nothing(case: str, model: Path, tmp_path: Path) -> None:
    breaks, error, message = SOURCES[case]
    breaks(model)
    with pytest.raises(error, match=message) as caught:
        convert(model, tmp_path / "tiny.m2c", equalize=False, notify=lambda _: None)
    assert "\n" not in str(caught.value)
    if "layer-00002" not in message:  # the layers before are kept
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_is_made_by_transformers_or_the_error_says_how(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "tokenizer.json").unlink()
    (model / "vocab.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match="pip install transformers"):
        convert(model, tmp_path / "tiny.m2c")

    class Made:
        @staticmethod
        def from_pretrained(path: Path, local_files_only: bool, trust_remote_code: bool) -> Any:
            assert (path, local_files_only, trust_remote_code) == (model, True, False)
            made = type("Tokenizer", (), {"to_str": lambda self, pretty: '{"made": true}'})()
            return type("Fast", (), {"backend_tokenizer": made})()

    monkeypatch.setitem(sys.modules, "transformers", type(sys)("transformers"))
    monkeypatch.setattr("transformers.AutoTokenizer", Made, raising=False)
    convert(model, tmp_path / "tiny.m2c")
    assert (tmp_path / "tiny.m2c/tokenizer.json").read_text() == '{"made": true}'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/model", "no file or directory /nowhere/model"),
        ("./nowhere", "no file or directory .*nowhere; a hub id would read OWNER/MODEL"),
        ("a/b/c", "no file or directory"),
        ("", "no file or directory|neither|no model directory"),
    ],
)
def test_a_missing_path_is_named(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(M2CacheError, match=message):
        convert(source, tmp_path / "tiny.m2c")


def test_without_a_network_both_tries_are_named(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    code = "from m2cache_rs.cli.main import run; run()"
    command = [sys.executable, "-c", code, "convert", "someone/model", str(tmp_path / "a.m2c")]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"there is no local directory {tmp_path}/someone/model" in result.stderr
    assert "the hub model 'someone/model' could not be fetched" in result.stderr


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("model.gguf", b"GGUF\x03", "is a GGUF file, which is not read yet"),
        ("model.safetensors", b"\x10", "is one file of a model; pass its directory"),
        ("model.bin", b"PK\x03\x04 torch", "is a pickle"),
        ("model.pth", b"\x80\x02}q", "is a pickle"),
    ],
)
def test_single_files_of_other_formats(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(M2CacheError, match=message):
        convert(tmp_path / name, tmp_path / "tiny.m2c")


def test_a_head_that_is_not_the_embedding_it_is_tied_to(model: Path, tmp_path: Path) -> None:
    """transformers compares the two and takes one that differs for a head of its own."""
    _config(model, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not model\.embed_tokens\.weight.*ties"):
        convert(model, tmp_path / "tiny.m2c")
    assert not (tmp_path / "tiny.m2c").exists()

    def tie(found: dict[str, dict[str, Any]]) -> None:
        found["lm_head.weight"] = found["model.embed_tokens.weight"]

    _weights(model, tie)
    assert convert(model, tmp_path / "tiny.m2c").weights > 0
