"""GGUF files beside a store's recipes: what is counted of them, and how llama.cpp is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from m2cache_rs import Model
from m2cache_rs.errors import UsageError
from m2cache_rs.eval.gguf import GgufModel, size_of
from m2cache_rs.runtime.opening import Opened

from tests.stores import EXAMPLE, Shown

TEXT = "In the beginning God created the heaven and the earth.\n" * 40
VOCAB = 4096


def tensor(name: str, size: int, *shape: int) -> Any:
    return SimpleNamespace(name=name, n_bytes=size, shape=np.asarray(shape, np.uint32))


TENSORS = [
    tensor("token_embd.weight", 1000, 64, VOCAB),
    tensor("output_norm.weight", 256, 64),
    tensor("blk.0.ffn_norm.weight", 256, 64),
    tensor("blk.0.attn_q.weight", 50, 64, 64),
    tensor("blk.0.ffn_up.weight", 72, 64, 2),
    tensor("blk.0.ffn_down.weight", 72, 2, 64),
]


class Reader:
    """As gguf's: tensors, and fields by name."""

    def __init__(self, tensors: list[Any], header: dict[str, Any]) -> None:
        self.tensors = tensors
        self.fields = {
            name: SimpleNamespace(contents=lambda value=value: value) for name, value in header.items()
        }


def header(store: Path) -> dict[str, Any]:
    """What a file of a store's model says of itself; rounded as a file has it."""
    spec = Opened(store).architecture
    return {
        "general.architecture": "llama",
        "general.name": "a tale",
        "llama.block_count": spec.layers,
        "llama.embedding_length": spec.hidden,
        "llama.feed_forward_length": spec.ffn,
        "llama.attention.head_count": spec.heads,
        "llama.attention.head_count_kv": spec.kv_heads,
        "llama.rope.freq_base": float(np.float32(spec.rope["theta"])),
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(spec.norm_eps)),
    }


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch, tale: Path) -> Any:
    """The extra's packages in name: a reader that lists TENSORS, the store dense at 4 bits as llama.cpp."""
    found = SimpleNamespace(tensors=TENSORS, windows=[], vocab=VOCAB, closed=0, header=header(tale))

    class Llama:
        def __init__(self, path: str, **options: Any) -> None:
            if not Path(path).exists():
                raise ValueError(f"Model path does not exist: {path}")
            found.options = options
            self.scores = np.zeros((options["n_ctx"], VOCAB), np.float32)
            self._model = Model.open(tale, precision=4, kv="f32", ctx=options["n_ctx"])

        def n_vocab(self) -> int:
            return int(found.vocab)

        def reset(self) -> None:
            found.windows.append(0)

        def eval(self, ids: list[int]) -> None:
            found.windows[-1] = len(ids)
            self.scores[: len(ids)] = self._model.logits(ids)

        def close(self) -> None:
            found.closed += 1
            self._model.close()

    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=Llama, GGML_TYPE_F32=0))
    monkeypatch.setitem(
        sys.modules, "gguf", SimpleNamespace(GGUFReader=lambda path: Reader(found.tensors, found.header))
    )
    return found


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A text and a file that is there."""
    text, file = tmp_path / "text.txt", tmp_path / "quantised.gguf"
    text.write_text(TEXT)
    file.write_bytes(b"GGUF")
    return text, file


def test_matrices_are_counted_and_a_tied_embedding_is(
    llama: Any, tale: Path, files: tuple[Path, Path]
) -> None:
    spec = Opened(tale).architecture
    size = size_of(files[1], spec)
    assert (size.bytes, size.ffn_bytes, size.ffn_bits) == (1194.0, 144.0, 4.5)
    llama.tensors = [*TENSORS, tensor("output.weight", 700, 64, VOCAB)]
    assert size_of(files[1], spec).bytes == 894.0
    llama.tensors = TENSORS[:2]
    with pytest.raises(UsageError, match="no FFN: it is no language model"):
        size_of(files[1], spec)


def test_it_is_scored_like_a_recipe_on_the_same_ids(
    llama: Any, shown: Shown, tale: Path, files: tuple[Path, Path]
) -> None:
    text, file = files
    command = ["eval", tale, "--text", text, "--tokens", 320, "--ctx", 64, "--precision", 4, "--kv", "f32"]
    code, out, err = shown(*command, "--gguf", file, "--json")
    assert code == 0, err
    ours, theirs = json.loads(out)["recipes"]
    assert (theirs["label"], theirs["group"], theirs["kv"]) == ("quantised", "llama.cpp", "f32")
    assert theirs["needed_bytes_per_token"] == 1194.0
    for name in ("tokens", "perplexity", "mean_kl", "kl_interval", "top1_agreement"):
        assert theirs[name] == pytest.approx(ours[name], rel=1e-9), name
    assert ours["mean_kl"] > 0
    assert len(llama.windows) == 5
    assert max(llama.windows) <= llama.options["n_ctx"] == 64
    assert llama.closed == 1

    code, out, err = shown(*command, "--gguf", file)
    assert code == 0, err
    assert [line for line in out.splitlines() if line.startswith("quantised ") and "run by llama.cpp" in line]


def _without(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)


def _other(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    llama.vocab = 32000


def _saying(**changes: Any) -> Callable[..., None]:
    def change(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        llama.header |= {name.replace("__", "."): value for name, value in changes.items()}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "pip install 'm2cache-rs[peers]'"),
        (_other, "vocabulary of 32000, the store of 4096"),
        (_saying(llama__vocab_size=4000), "a vocabulary of 4000, not 4096"),
        (
            _saying(llama__block_count=7),
            "quantised.gguf (a tale) is another model than the store's: layers 7, not 6",
        ),
        (
            _saying(llama__feed_forward_length=512, llama__attention__head_count=8),
            "FFN neurons 512, not 768; query",
        ),
        (_saying(llama__rope__freq_base=5e5), "a rope base of 500000.0, not 10000.0"),
        (_saying(general__architecture="qwen2"), "architecture qwen2, not llama"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(
    llama: Any, monkeypatch: pytest.MonkeyPatch, shown: Shown, tale: Path, files: tuple[Path, Path],
    change: Callable[..., None], message: str,
) -> None:  # fmt: skip
    change(llama, monkeypatch)
    code, out, err = shown("eval", tale, "--text", files[0], "--gguf", files[1])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_cap_or_a_file_that_is_not_there_is_refused(
    llama: Any, shown: Shown, tale: Path, files: tuple[Path, Path]
) -> None:
    command = ["eval", tale, "--text", files[0], "--gguf"]
    code, _, err = shown(*command, files[1], "--dram", "1GiB")
    assert code == 2
    assert "dram caps this process, and llama.cpp runs in it" in err
    code, _, err = shown(*command, "/nowhere/x.gguf")
    assert code == 2
    assert "llama.cpp does not run /nowhere/x.gguf" in err


def test_a_real_file_is_llama_cpps(tale: Path, tmp_path: Path) -> None:
    """Where the extra is installed: the example model, written by benches/quality, gives its own logits."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (the `peers` extra)")
    pytest.importorskip("gguf", reason="gguf is not installed (the `peers` extra)")
    quality = Path(__file__).resolve().parents[1] / "benches/quality"
    code = (
        "import sys; from pathlib import Path; import checkpoints, ggufs\n"
        "source, target = map(Path, sys.argv[1:])\n"
        "ggufs.write(checkpoints.read(source), source / 'tokenizer.json', target)"
    )
    path = tmp_path / "whole.gguf"
    subprocess.run([sys.executable, "-c", code, str(EXAMPLE), str(path)], cwd=quality, check=True)
    ids = np.arange(5, 45, dtype=np.uint32)
    with GgufModel(path, 64, Opened(tale).architecture) as model, Model.open(tale, kv="f32", ctx=64) as ours:
        found = np.concatenate(list(model.logits_by_batch(ids)))
        assert np.abs(found - ours.logits(ids)).max() < 0.05
        assert model.size.ffn_bits == 32
