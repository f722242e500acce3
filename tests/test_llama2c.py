"""llama2.c files: the weights in half-split order, and a tokenizer that gives llama2.c's ids."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from m2cache_rs.convert import convert
from m2cache_rs.convert.llama2c_tokenizer import tokenizer_json
from m2cache_rs.convert.open import open_checkpoint
from m2cache_rs.errors import CheckpointError, M2CacheError, UnsupportedError
from m2cache_rs.models import Architecture, architecture_of
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.reference import checkpoint, llama2c, numbers, store, tiny
from tests.sources import CONFIG, contents

Array = NDArray[Any]
PLAIN = CONFIG | {"attention_bias": False, "mlp_bias": False, "head_dim": 12, "num_key_value_heads": 2}
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]


def interleaved(rows: Array, head_dim: int) -> Array:
    """Rows of q or k with rotary pairs side by side, as llama2.c has them."""
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def write_model(path: Path, spec: Architecture, named: dict[str, Array]) -> None:
    """The weights as a llama2.c file of the first format."""
    vocab = spec.vocab if spec.tied else -spec.vocab
    header = (spec.hidden, spec.ffn, spec.layers, spec.heads, spec.kv_heads, vocab, spec.context)
    named = dict(named)
    for layer in range(spec.layers):
        named |= {f"{layer}.{m}": interleaved(named[f"{layer}.{m}"], spec.head_dim) for m in "qk"}
        named |= {f"{layer}.{m}": named[f"{layer}.{m}"].T for m in ("o", "down")}
    order = ["norm.attn", "q", "k", "v", "o", "norm.ffn", "gate", "down", "up"]
    blocks = [named["embed"], *(named[f"{i}.{name}"] for name in order for i in range(spec.layers))]
    blocks += [named["norm.final"], np.full((spec.context, spec.head_dim), 0.5)]
    blocks += [] if spec.tied else [named["head"]]
    path.write_bytes(struct.pack("<7i", *header) + b"".join(b.astype("<f4").tobytes() for b in blocks))


def write_tokenizer(path: Path, pieces: list[tuple[str, float]]) -> None:
    coded = [(score, text.encode()) for text, score in pieces]
    longest = max(len(text) for _, text in coded)
    path.write_bytes(
        struct.pack("<i", longest)
        + b"".join(struct.pack("<fi", score, len(text)) + text for score, text in coded)
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path / "tiny.bin")


def make(path: Path, **config: Any) -> Path:
    """A tiny llama2.c model and its tokenizer beside it."""
    spec = architecture_of(PLAIN | config)[1]
    write_model(path, spec, tiny.weights(spec, seed=7))
    write_tokenizer(path.with_name("tok259.bin"), [(piece, 0.0) for piece in PIECES])
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_are_those_of_the_same_llama_checkpoint(tied: bool, tmp_path: Path) -> None:
    source = make(tmp_path / "tiny.bin", tie_word_embeddings=tied)
    spec = architecture_of(PLAIN | {"tie_word_embeddings": tied})[1]
    checkpoint.save(tmp_path / "hf", PLAIN | {"tie_word_embeddings": tied}, tiny.weights(spec, seed=7))
    (tmp_path / "hf/tokenizer.json").write_text("{}")
    convert(source, tmp_path / "a.m2c")
    convert(tmp_path / "hf", tmp_path / "b.m2c")
    ours, theirs = contents(tmp_path / "a.m2c"), contents(tmp_path / "b.m2c")
    for name in ("layer-00000", "layer-00001", "layer-00002", "embed"):
        assert ours[f"{name}.safetensors"] == theirs[f"{name}.safetensors"], name
    manifests = [json.loads(files["m2cache.json"])["architecture"] for files in (ours, theirs)]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize(("first", "last"), [(0, 72), (0, 1), (5, 6), (11, 25), (60, 72)])
def test_rows_are_reordered_whatever_the_tile(model: Path, first: int, last: int) -> None:
    opened = open_checkpoint(model)
    tensor = opened.layer(1)["q"].tensor
    wanted = tiny.weights(opened.architecture, seed=7)["1.q"]
    np.testing.assert_array_equal(tensor.rows(first, last), wanted[first:last])
    np.testing.assert_array_equal(tensor.columns(first, last), wanted.T[first:last])
    opened.close()


def test_stories260k_is_read_as_the_reference_reads_it(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/models/stories260K.bin"
    convert(source, tmp_path / "stories.m2c", equalize=False)
    _, named = llama2c.load(source)
    found = store.weights(tmp_path / "stories.m2c")
    assert found.keys() == named.keys()
    for name, values in named.items():
        wanted = numbers.decode(numbers.encode(values)) if values.ndim == 2 else values
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)


def llama2c_ids(pieces: list[tuple[str, float]], text: str) -> list[int]:
    """Encodes as the C source does: BOS, a space, letters or bytes, then the best pair again and again."""
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    found = [ids[" "]] if text else []
    for letter in text:
        found += [ids[letter]] if letter in ids else [byte + 3 for byte in letter.encode()]
    while True:
        best, place, joined = -1e10, -1, -1
        for at in range(len(found) - 1):
            both = ids.get(pieces[found[at]][0] + pieces[found[at + 1]][0], -1)
            if both >= 0 and pieces[both][1] > best:
                best, place, joined = pieces[both][1], at, both
        if place < 0:
            return [1, *found]
        found[place : place + 2] = [joined]


TAUGHT = "the cat and the hat, then the other cat; a cat can act: tata aba ab ba"


def learned(texts: str = TAUGHT) -> list[tuple[str, float]]:
    """Pieces in the order in which byte pair encoding would learn them, as sentencepiece scores them."""
    letters = sorted(set(texts))
    words, merged = list(texts), []
    for _ in range(24):
        pairs = [left + right for left, right in pairwise(words)]
        piece = max(sorted(set(pairs) - set(merged)), key=pairs.count)
        merged.append(piece)
        at = 0
        while at < len(words) - 1:
            if words[at] + words[at + 1] == piece:
                words[at : at + 2] = [piece]
            at += 1
    scored = [(piece, -float(rank)) for rank, piece in enumerate([*merged, *letters])]
    return [(piece, 0.0) for piece in PIECES] + scored


@pytest.fixture(scope="module")
def pieces() -> list[tuple[str, float]]:
    return learned()


@pytest.fixture(scope="module")
def tokenizer(pieces: list[tuple[str, float]], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tok.bin"
    write_tokenizer(path, pieces)
    return Tokenizer.from_str(json.dumps(tokenizer_json(path, len(pieces))))


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text("the cand;:b é\n€", max_size=40), st.text(max_size=12)))
def test_ids_and_text_are_llama2cs(text: str, pieces: list[tuple[str, float]], tokenizer: Tokenizer) -> None:
    assume(not any(special in text for special in ("<unk>", "<s>", "</s>")))  # read as what they name
    ids = tokenizer.encode(text).ids
    assert ids == llama2c_ids(pieces, text)
    assert tokenizer.decode(ids) == text


def test_bytes_that_are_no_text_are_shown_as_such(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([1, 3 + 0xE2, 3 + 0x82, 3 + 0xAC]) == "€"
    assert tokenizer.decode([1, 3 + 0xE2, 3 + 0x82]) == "��"


def test_stories260k_has_llama2cs_tokens(shared: Path) -> None:
    path = shared / "data/models/tok512.bin"
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(path, 512)))
    data, at, pieces = path.read_bytes(), 4, []
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + size].decode(), score))
        at += 8 + size
    text = (shared / "data/text/alice29.txt").read_text()
    for begin in range(0, 40000, 400):
        part = text[begin : begin + 400]
        assert tokenizer.encode(part).ids == llama2c_ids(pieces, part)
        assert tokenizer.decode(tokenizer.encode(part).ids) == part
    assert tokenizer.encode("").ids == [1]


def test_a_store_of_it_knows_where_texts_end(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "tiny.m2c")
    generation = json.loads((tmp_path / "tiny.m2c/generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [1, 2], "do_sample": False}
    assert Tokenizer.from_file(str(tmp_path / "tiny.m2c/tokenizer.json")).get_vocab_size() == 259


def _cut(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-4])


def _stub(model: Path) -> None:
    model.write_bytes(b"abc")


def _later_version(model: Path) -> None:
    model.write_bytes(struct.pack("<2i", 0x616B3432, 2) + bytes(300))


def _noise(model: Path) -> None:
    model.write_bytes(bytes(range(256)) * 8)


def _no_tokenizer(model: Path) -> None:
    model.with_name("tok259.bin").unlink()


def _short_tokenizer(model: Path) -> None:
    write_tokenizer(model.with_name("tok259.bin"), [(piece, 0.0) for piece in PIECES[:200]])


def _cut_tokenizer(model: Path) -> None:
    path = model.with_name("tok259.bin")
    path.write_bytes(path.read_bytes()[:-2])


def _long_tokenizer(model: Path) -> None:
    write_tokenizer(model.with_name("tok259.bin"), [(piece, 0.0) for piece in [*PIECES, "x"]])


def _twins(model: Path) -> None:
    write_tokenizer(model.with_name("tok259.bin"), [(piece, 0.0) for piece in [*PIECES[:-1], "<0x00>"]])


@pytest.mark.parametrize(
    ("breaks", "error", "message"),
    [
        (_cut, CheckpointError, "its llama2.c header asks for"),
        (_stub, CheckpointError, "nor a llama2.c file: it has 3 bytes"),
        (_later_version, UnsupportedError, "llama2.c file of version 2"),
        (_noise, CheckpointError, "nor a llama2.c file, whose first bytes would be sizes: here a width of"),
        (_no_tokenizer, CheckpointError, "tok259.bin or tokenizer.bin beside .* --tokenizer"),
        (_short_tokenizer, CheckpointError, "has 200 pieces; the model has 259"),
        (_cut_tokenizer, CheckpointError, "ends inside piece 258 of 259"),
        (_long_tokenizer, CheckpointError, "goes on behind the 259 pieces"),
        (_twins, CheckpointError, "the same piece twice"),
    ],
)
def test_broken_files_are_named(
    breaks: Callable[[Path], None], error: type[M2CacheError], message: str, model: Path, tmp_path: Path
) -> None:
    breaks(model)
    with pytest.raises(error, match=message):
        convert(model, tmp_path / "tiny.m2c")
    assert not list(tmp_path.glob("*.m2c*"))


def test_the_tokenizer_may_lie_elsewhere(model: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    elsewhere = model.with_name("tok259.bin").rename(tmp_path / "there/words.bin")
    convert(model, tmp_path / "tiny.m2c", tokenizer=elsewhere)
    with pytest.raises(CheckpointError, match=r"there is no tokenizer .*none\.bin"):
        convert(model, tmp_path / "other.m2c", tokenizer=tmp_path / "none.bin")
