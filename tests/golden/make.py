"""Makes the golden files: python -m tests.golden.make at the repository's root, with torch and transformers.

Files that need the shared models and texts are left as they are where ../shared ($M2CACHE_SHARED) is missing.
Every file records the versions that made it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from m2cache_rs.models import architecture_of
from numpy.typing import NDArray
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.golden.cases import MODELS, ROPES, SHORT, TOKENS
from tests.reference import llama2c, text, tiny
from tests.reference.checkpoint import to_stored
from tests.reference.shared import shared_folder

Array = NDArray[Any]
HERE = Path(__file__).parent
SEED = 20241
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}


def main() -> None:
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    transformers.logging.set_verbosity_error()
    tiny_models()
    ropes()
    shared = shared_folder()
    if shared is None:
        print("no shared folder: stories260K.json and tale-*.npz are left as they are")
        return
    stories(shared)
    for name in ("tale-silu", "tale-relu"):
        tale(shared, name)


def tiny_models() -> None:
    """Logits of every tiny model for TOKENS tokens, and for the first SHORT of them alone."""
    arrays: dict[str, Array] = {}
    for i, (name, config) in enumerate(MODELS.items()):
        arch = architecture_of(config)[1]
        model = build(config, tiny.weights(arch, SEED + i))
        ids = tiny.tokens(arch, TOKENS, SEED + i)
        arrays |= {f"{name}.ids": np.array(ids, np.uint16), f"{name}.logits": logits(model, ids)}
        arrays[f"{name}.short"] = logits(model, ids[:SHORT])[-1:]
    np.savez_compressed(HERE / "tiny.npz", **arrays)
    cases = {name: {"seed": SEED + i, "config": config} for i, (name, config) in enumerate(MODELS.items())}
    write("tiny.json", {"cases": cases})


def ropes() -> None:
    """Inverse frequencies and attention factors of rotary embeddings at real sizes."""
    cases = {}
    for name, (rope, head_dim, context, length) in ROPES.items():
        config = tiny.CONFIG | {
            "head_dim": head_dim,
            "max_position_embeddings": context,
            "rope_parameters": rope,
        }
        embedding = LlamaRotaryEmbedding(transformers.LlamaConfig.from_dict(json.loads(json.dumps(config))))
        embedding(torch.zeros(1), torch.arange(length)[None])
        frequencies = [float(x) for x in embedding.inv_freq]
        factor = float(embedding.attention_scaling)
        cases[name] = {
            "config": config,
            "length": length,
            "attention_factor": factor,
            "frequencies": frequencies,
        }
    write("rope.json", {"cases": cases})


def stories(shared: Path) -> None:
    """200 greedy tokens of stories260K from BOS, and their text."""
    config, named = llama2c.load(shared / "data/models/stories260K.bin")
    model, ids = build(config, named), [1]
    while len(ids) < 201:
        ids.append(int(logits(model, ids)[-1].argmax()))
    pieces = llama2c.vocabulary(shared / "data/models/tok512.bin")
    write("stories260K.json", {"prompt": ids[:1], "tokens": ids[1:], "text": llama2c.text(pieces, ids[1:])})


def tale(shared: Path, name: str) -> None:
    """Top token, its lead over the second, and how logits spread, for two windows of 300 held-out tokens."""
    folder = shared / "data/models" / name
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    windows = list(text.windows(shared, folder / "tokenizer.json", 300, ("alice29", "world192")))
    rows = np.concatenate([logits(model, ids) for ids in windows]).astype(np.float64)
    first, second = np.sort(rows, axis=1)[:, :-3:-1].T
    shifted = np.exp(rows - first[:, None])
    np.savez_compressed(
        HERE / f"{name}.npz",
        ids=np.array(windows, np.uint16),
        top=rows.argmax(1).astype(np.uint16),
        gap=(first - second).astype(np.float32),
        peak=first.astype(np.float32),
        log_sum=(np.log(shifted.sum(1)) + first).astype(np.float32),
        deviation=rows.std(1).astype(np.float32),
        versions=np.array(json.dumps(VERSIONS)),
    )


def build(config: dict[str, Any], named: dict[str, Array]) -> Any:
    """transformers' model with these weights, in float32."""
    config = json.loads(json.dumps(config))
    kind = getattr(transformers, config["architectures"][0])
    model = kind(kind.config_class.from_dict(config)).float().eval()
    stored = {
        name: torch.tensor(values) for name, values in to_stored(architecture_of(config)[1], named).items()
    }
    if config["tie_word_embeddings"]:
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    model.load_state_dict(stored, strict=True)
    return model


def logits(model: Any, ids: list[int]) -> Array:
    """float32 [len(ids), vocab] of one pass over the ids, without a cache."""
    with torch.no_grad():
        rows: Array = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return rows


def write(name: str, values: dict[str, Any]) -> None:
    (HERE / name).write_text(json.dumps({"versions": VERSIONS} | values, indent=1) + "\n")


if __name__ == "__main__":
    main()
