"""llama.cpp through llama-cpp-python: quantise a GGUF file, and take logits from llama.cpp itself."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import llama_cpp
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Quantisation:
    """A file type; `pure`: one type for all matrices; `ends`: that of embedding and head, if chosen."""

    file_type: int
    pure: bool = False
    ends: int | None = None


_Q4_0, _Q4_K_M = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
QUANTISATIONS = {
    "Q4_0": Quantisation(_Q4_0),
    "Q4_K_M": Quantisation(_Q4_K_M),
    "Q8_0": Quantisation(llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0),
    # The same choice of ends as ours: all at 4 bits, and at 8.
    "Q4_0 pure": Quantisation(_Q4_0, pure=True),
    "Q4_K pure": Quantisation(_Q4_K_M, pure=True),
    "Q4_0, ends Q8_0": Quantisation(_Q4_0, ends=llama_cpp.GGML_TYPE_Q8_0),
    "Q4_K_M, ends Q8_0": Quantisation(_Q4_K_M, ends=llama_cpp.GGML_TYPE_Q8_0),
}


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp logs hundreds of lines a model; errors still surface as return codes."""


llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))


def quantise(source: Path, target: Path, name: str) -> Path:
    """Quantises a float32 GGUF file to one of QUANTISATIONS, without an importance matrix."""
    chosen = QUANTISATIONS[name]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure = chosen.file_type, chosen.pure
    if chosen.ends is not None:
        params.output_tensor_type = params.token_embedding_type = chosen.ends
    params.nthread = 1
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source} to {name}: code {code}")
    return target


class LlamaCpp:
    """A GGUF model run by llama.cpp on the CPU, with K and V kept in float32 as in our decoder."""

    def __init__(self, path: Path, context: int) -> None:
        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=context,
            n_batch=context,
            n_ubatch=context,
            n_gpu_layers=0,
            n_threads=1,  # its barriers spin: on a busy machine more threads are slower
            n_threads_batch=1,
            logits_all=True,
            flash_attn=False,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )

    def logits(self, ids: NDArray[np.uint32]) -> NDArray[np.float32]:
        """ids [T] -> float32 [T, vocab], each call from an empty context."""
        self._llama.reset()  # type: ignore[no-untyped-call]
        self._llama.eval(ids.tolist())
        return np.array(self._llama.scores[: len(ids)], np.float32)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llama.close()
