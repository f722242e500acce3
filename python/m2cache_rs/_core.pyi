"""
The Rust core of m2cache_rs.
"""

from _typeshed import SupportsGetItem
from numpy import float32, uint32
from numpy.typing import NDArray
from os import PathLike
from pathlib import Path
from typing import Any, Final, SupportsFloat, SupportsIndex, final

__all__ = ["__version__", "DiskProbe", "Engine", "KvCache", "MemoryProbe", "Store", "StoreWriter", "Survey", "forecast", "isa", "isa_refused", "needs", "publish", "read_header", "remove_roots", "replay", "ring_bytes", "scratch_bytes", "trace_memory"]

__version__: Final[str]
"""
Version of the package.
"""

@final
class DiskProbe:
    """
    Files whose reads are measured, by the engine that reads a store. The GIL is released; an interrupt is answered
    between calls.
    """
    @property
    def alignment(self, /) -> tuple[int, int] | None:
        """
        What O_DIRECT needs: alignment of (memory, offsets) in bytes, zeros where it is refused, None if the kernel does
        not tell.
        """
    @property
    def bytes(self, /) -> int:
        """
        Bytes there are to read.
        """
    @staticmethod
    def depth(bytes: SupportsIndex) -> int:
        """
        Reads of `bytes` that the engine has in flight while a model streams.
        """
    @staticmethod
    def files(paths: SupportsGetItem[int, str | PathLike[str]], io: str = "auto") -> DiskProbe:
        """
        Takes files that are there. Raises StoreIOError naming one that cannot be opened.
        """
    @property
    def io(self, /) -> str:
        """
        The engine that reads: uring or psync.
        """
    @property
    def notes(self, /) -> list[str]:
        """
        What the engine could not have, a sentence each.
        """
    def rate(self, /, bytes: SupportsIndex, depth: SupportsIndex, seconds: SupportsFloat | SupportsIndex) -> float | None:
        """
        GB a second of reading blocks of `bytes` (whole pages up to 1 MiB), `depth` at a time (up to 64, and 32 MiB), far apart, for
        some seconds and until the last has come; None if no file holds such a block.
        """
    @staticmethod
    def scratch(directory: str | PathLike[str], bytes: SupportsIndex, seconds: SupportsFloat | SupportsIndex, io: str = "auto") -> DiskProbe:
        """
        Writes up to `bytes` into a file in a directory, for some seconds at most. The file has no name, so nothing is left
        of it. io is auto, uring or psync.

        Raises StoreIOError if nothing can be written there.
        """

@final
class Engine:
    """
    An open model: its parts take and return whole arrays of N rows. One call at a time; the GIL is released. What a signal
    handler raises (KeyboardInterrupt) ends a call that waits for reads: keys and values may be half-written then.
    """
    def __new__(cls, /, store: Store, recipe: str, act: str = "auto", cache: SupportsIndex | None = None, verify: str = "first", threads: SupportsIndex | None = None, io: str = "auto", lookahead: SupportsIndex | None = None, request: SupportsIndex | None = None, serves: SupportsGetItem[int, str] = ...) -> Engine:
        """
        recipe is what is computed, as JSON: {"attn", "head", "embed": bits, "prompt": bits of the FFN of prompt tokens, "ffn": that of decode tokens,
        {"dense": bits} or another (src/config/recipe.rs)}; act is what 4 and 8 bits are computed in: auto (integers) or f32; cache is bytes of weights
        kept in memory, None for all; verify is first, always or never; io is auto, uring or psync; lookahead is bytes read
        ahead and the size of the ring, request what a read costs beside its bytes, in bytes (gaps up to that between wanted
        records are read too), None for the usual. cache, verify, threads, io, lookahead and request never change a result.

        serves are other recipes that `serve` may be asked for: the cache has room for what all of them read.

        Raises BudgetError naming the least cache, UsageError for a recipe that is none for the model and for planes that are not stored.
        """
    def abandon(self, /) -> None:
        """
        Says that the pass which follow announced ended half-way: what its tokens touched is not counted.
        """
    def attention(self, /, layer: SupportsIndex, x: NDArray[float32], kv: KvCache, sequences: NDArray[uint32], positions: NDArray[uint32], groups: tuple[SupportsIndex, SupportsIndex] | None = None, prompt: bool = False) -> NDArray[float32]:
        """
        Attention of x, float32 [N, hidden] before the norm, to be added to x; appends K and V. sequences and positions are
        uint32 [N]; all tokens are a prompt's, or none. With groups=(a, b): partial sums of those KV-head groups,
        [b - a, N, hidden], without bias.
        """
    def blocks(self, /) -> str:
        """
        What the blocks are, as JSON: [{"layer" (null: head), "section", "bytes", "fixed"}] by number; fixed ones have a
        slot of their own in the cache.
        """
    def embed(self, /, tokens: NDArray[uint32]) -> NDArray[float32]:
        """
        Embedding rows, float32 [N, hidden], of tokens, uint32 [N].
        """
    def ffn(self, /, layer: SupportsIndex, x: NDArray[float32], chunks: tuple[SupportsIndex, SupportsIndex] | None = None, prompt: bool = False) -> NDArray[float32]:
        """
        FFN of x, float32 [N, hidden] before the norm, of prompt or decode tokens, to be added to x. With chunks=(a, b):
        partial sums of those runs of 256 neurons, [b - a, N, hidden], without bias.
        """
    def follow(self, /, layers: tuple[SupportsIndex, SupportsIndex], head: bool = True, prompt: bool = False) -> None:
        """
        Says what the next calls are: the layers (a, b) in order with prompt or decode tokens, then the head or not, and the
        same again. Reading ahead follows it; results do not depend on it.
        """
    def head(self, /, x: NDArray[float32]) -> NDArray[float32]:
        """
        Logits, float32 [N, vocab], of x, float32 [N, hidden] before the final norm.
        """
    def layers(self, /, layers: tuple[SupportsIndex, SupportsIndex], x: NDArray[float32], kv: KvCache, sequences: NDArray[uint32], positions: NDArray[uint32], prompt: bool = False) -> None:
        """
        Takes x, float32 [N, hidden], through layers (a, b), in place; appends K and V. sequences and positions are uint32
        [N]; all tokens are a prompt's, or none. The bits of attention and ffn added layer by layer. Behind an error
        x may be of any layer.
        """
    def mixed(self, /, layer: SupportsIndex, x: NDArray[float32], kv: KvCache, sequences: NDArray[uint32], positions: NDArray[uint32]) -> NDArray[float32]:
        """
        What every query head gives for x, float32 [N, hidden] before the norm: float32 [N, heads * head_dim], what o is
        multiplied with; appends K and V. sequences and positions are uint32 [N].
        """
    def neurons(self, /, layer: SupportsIndex, x: NDArray[float32], bits: SupportsIndex) -> NDArray[float32]:
        """
        What every neuron of a layer gives for x, float32 [N, hidden] before the norm: float32 [N, ffn], what down is
        multiplied with, at 4, 8 or 16 bits.

        Raises UsageError for bits above those that the FFN is open at.
        """
    def norm(self, /, layer: SupportsIndex, which: str) -> NDArray[float32]:
        """
        A norm's gain, float32 [hidden]: attn or ffn of a layer, or final.
        """
    def record(self, /, on: bool) -> None:
        """
        Begins or ends to note every access to a block.
        """
    def scores(self, /, layer: SupportsIndex, x: NDArray[float32]) -> NDArray[float32]:
        """
        Scores of every neuron of a layer by the recipe's selector for x, float32 [N, hidden] before the norm: float32
        [N, ffn], larger is more important.

        Raises UsageError for a recipe without selector.
        """
    def serve(self, /, recipe: str) -> None:
        """
        Computes by another recipe (JSON as above) from here on: the bits of an engine that was opened for it. The cache
        keeps what it holds, counters go on, and so may sequences, whose keys and values are what they were computed as.

        Raises UsageError for a recipe that is none for the model, and for one that needs what no recipe needed that it was
        opened for; nothing has changed then.
        """
    def set_head_predictor(self, /, layer: SupportsIndex, weights: NDArray[float32], bias: NDArray[float32]) -> None:
        """
        Sets what chooses a layer's query heads where the recipe leaves some out: a head's score is weights . x + bias of
        the normed row x; float32, weights [heads, hidden] (coded at 8 bits), bias [heads].

        Raises UsageError for shapes that do not fit and numbers that are not finite.
        """
    def set_predictor(self, /, layer: SupportsIndex, down: NDArray[float32], up: NDArray[float32], bias: NDArray[float32], weight: NDArray[float32], bits: SupportsIndex) -> None:
        """
        Sets the low-rank factors that rank a layer's neurons, float32: down [r, hidden], up [ffn, r], bias and weight
        [ffn]; coded at 4 or 8 bits. A score is |activation(up . (down . x) + bias)| * weight of the normed row x. With up
        [2 ffn, r], rows for the gate and then for up, it is |activation(gate + bias) * up| * weight.

        Raises UsageError for shapes that do not fit and numbers that are not finite.
        """
    def stats(self, /) -> str:
        """
        What the tiers did so far, as JSON: {"io", "notes", "isa", "threads", "fixed_bytes", "ring_bytes",
        "compute_seconds", "ffn": {"tokens" (decoded), "touched_bytes" (of FFN records, as if each token were alone, padding
        left out), "neurons": [at 16, at 8, at 4 bits], "selector_bytes" (of the touched), "trace_seconds"
        (spent generating the rankings of a trace)}, "attention": {"tokens", "touched_bytes", "selector_bytes" (the same of
        q, k, v and o), "heads" (query heads that the tokens had)}, MOVED, "sections": [{"section", "stored_bytes", MOVED}],
        "layers": [{"layer" (null: embedding and head), "compute_seconds", MOVED}]} with MOVED = "hit_bytes", "read_bytes" (used),
        "aligned_bytes" (read beside them), "gap_bytes" (between them), "unused_bytes" (read ahead in vain, or not asked for
        yet), "reads", "stalls", "wait_seconds".
        """
    def take_trace(self, /) -> NDArray[uint32]:
        """
        The accesses noted since the last call, uint32 [n, 2]: the block, and 1 where it was in the cache plus 2 where it
        is the first of the blocks that were leased together.
        """

@final
class KvCache:
    """
    K and V of sequences, in blocks of 64 positions per layer and KV head.
    """
    def __new__(cls, /, layers: SupportsIndex, kv_heads: SupportsIndex, head_dim: SupportsIndex, kind: str = "f16", capacity: SupportsIndex | None = None) -> KvCache:
        """
        An empty cache; head_dim is even. kind is f16 (values are rounded to nearest even; beyond 65504 they become infinite
        and end in NumericsError) or f32. capacity: positions over all sequences, each taking whole blocks of 64; attention
        beyond it raises BudgetError. None is bound by memory alone.
        """
    def bytes(self, /) -> int:
        """
        Bytes of keys and values in memory, shared blocks once.
        """
    @staticmethod
    def bytes_for(layers: SupportsIndex, kv_heads: SupportsIndex, head_dim: SupportsIndex, kind: str, positions: SupportsIndex) -> int:
        """
        Bytes that positions of one sequence take, exactly: whole blocks of 64. For a capacity, what the cache takes at most.
        """
    def create(self, /, inv_freq: NDArray[float32], attention_factor: SupportsFloat | SupportsIndex) -> int:
        """
        A new empty sequence: inv_freq float32 [head_dim / 2], attention_factor multiplies cos and sin. Returns its id.
        """
    def fork(self, /, sequence: SupportsIndex) -> int:
        """
        A new sequence that shares the blocks of this one (copied when one side writes). Returns its id.
        """
    def free(self, /, sequence: SupportsIndex) -> None:
        """
        Removes a sequence.
        """
    def length(self, /, sequence: SupportsIndex, layers: tuple[SupportsIndex, SupportsIndex] | None = None) -> int:
        """
        Positions that the layers (a, b) of a sequence all hold; None means every layer.
        """
    def truncate(self, /, sequence: SupportsIndex, length: SupportsIndex, layers: tuple[SupportsIndex, SupportsIndex] | None = None) -> None:
        """
        Forgets positions from length on in the layers (a, b), None meaning every layer; also repairs a forward that
        failed half-way.
        """

@final
class MemoryProbe:
    """
    Random weights in memory: rates of reading them and of computing with them. The GIL is released; an interrupt is
    answered between calls.
    """
    def __new__(cls, /, bytes: SupportsIndex, threads: SupportsIndex | None = None) -> MemoryProbe:
        """
        Takes 4 MiB to 1 GiB of memory, which should be several times the caches; threads=None takes one per core.
        """
    def bandwidth(self, /, all_threads: bool, seconds: SupportsFloat | SupportsIndex) -> float:
        """
        GB of memory read a second, by all threads or by one.
        """
    def kernel(self, /, kernel: str, bits: SupportsIndex, seconds: SupportsFloat | SupportsIndex) -> float:
        """
        GB of stored weights a second at 4, 8 or 16 bits, one token, all threads; kernel is dot or accumulate.
        """
    @property
    def threads(self, /) -> int:
        """
        Threads in use.
        """

@final
class Store:
    """
    An open store; its manifest and every header were checked.
    """
    def __new__(cls, /, path: str | PathLike[str]) -> Store:
        """
        Opens a store directory. Raises StoreError, StoreIOError or UnsupportedError, naming the file.
        """
    def layout(self, /) -> str:
        """
        Files, sections and vectors as JSON: {"files": [{"name", "layer", "root", "bytes", "sections": [...], "vectors": [...]}]}.
        """
    def manifest(self, /) -> str:
        """
        The manifest as JSON.
        """
    def roots(self, /) -> list[Path]:
        """
        The directories that hold its files, the store itself first.
        """
    def rows(self, /, layer: SupportsIndex | None, matrix: str, first: SupportsIndex, count: SupportsIndex, bits: SupportsIndex) -> NDArray[float32]:
        """
        Weights of records first..first + count of a matrix at 4, 8 or 16 bits, float32 [count, hidden], checked; layer is
        None for embed and head.
        """
    def vector(self, /, layer: SupportsIndex | None, name: str) -> NDArray[float32]:
        """
        A norm gain or bias, float32 [n], checked; layer is None for norm.final.
        """
    def verify(self, /, name: str, progress: Any | None = None) -> list[tuple[str, tuple[str, int, int] | None]]:
        """
        Checks one file (of weights, or an asset) whole: per damage a message and, where it lies in records, the section,
        the first record under the broken checksum and the records under it; none if it is sound. progress is told the
        bytes done; what it raises (KeyboardInterrupt) ends the check.
        """

@final
class StoreWriter:
    """
    Writes the files of one store into an existing directory, or spread over several, tile by tile.
    """
    def __new__(cls, /, directory: str | PathLike[str], architecture: str, encoding: str, stripes: SupportsGetItem[int, str | PathLike[str]] = ...) -> StoreWriter:
        """
        architecture and encoding are JSON texts; stripes are directories of further roots. Raises UsageError when they
        break a rule.
        """
    def adopt(self, /, entry: str) -> bool:
        """
        Takes over a file that an interrupted run finished; false when it is not there as the entry says.
        """
    def begin(self, /, name: str) -> None:
        """
        Starts one file; its disk space is taken now.
        """
    def copy(self, /, source: Store, order: NDArray[uint32] | None = None) -> None:
        """
        Fills the open file with that of an open store of the same architecture and encoding, codes as they are; with an
        order, uint32 [ffn], neuron order[i] of the layer becomes neuron i.

        Raises DamageError naming broken records of the source.
        """
    def end(self, /) -> str:
        """
        Completes the open file: tables, header, fsync. Returns its entry as JSON, for adopt.
        """
    def files(self, /) -> list[tuple[str, int]]:
        """
        (name, exact bytes) of every file, layers first.
        """
    def finish(self, /, extra: str) -> str:
        """
        Writes the manifest, which makes the directory a store, and returns its id. extra is JSON: {"generator", "source",
        "equalize", "synthetic", "assets": [names of files already copied there], "roots": [where the stripes will lie,
        seen from the store; may be left out without any]}.
        """
    def records(self, /, first: SupportsIndex, dtype: str, matrices: "dict[str, NDArray[Any]]", column_scale: NDArray[float32] | None = None) -> int:
        """
        Codes and writes records first.. of matrices that share records, each [T, hidden] with records as rows; dtype is
        BF16 or F16 (uint16 bit patterns) or F32 (float32). column_scale, float32 [hidden], multiplies every row but those
        of down. Tiles are cut at multiples of 64 records. Returns the exact zeros in groups that are not all zero.

        Raises CheckpointError naming tensor, row and group of a weight that cannot be coded.
        """
    def roots(self, /) -> list[int]:
        """
        The root of every file: 0 is the store itself, k the stripe k - 1.
        """
    def synthesize(self, /, seed: SupportsIndex) -> None:
        """
        Fills the open file with random weights, without coding any: they depend on seed, file and shape alone.
        """
    def vector(self, /, name: str, values: NDArray[float32]) -> None:
        """
        Writes a norm gain or bias of the open file: float32 [n].
        """

@final
class Survey:
    """
    A store to be checked: its manifest is sound, its files may be missing or broken.
    """
    def __new__(cls, /, path: str | PathLike[str]) -> Survey:
        """
        Reads the manifest of a store directory. Raises StoreError, StoreIOError or UnsupportedError, naming the file.
        """
    def manifest(self, /) -> str:
        """
        The manifest as JSON.
        """
    def verify(self, /, name: str, progress: Any | None = None) -> list[tuple[str, tuple[str, int, int] | None]]:
        """
        Checks one file as Store.verify does; one that is missing, cut or not what the manifest says is a damage as well.

        Raises StoreIOError where the system refuses to open one that is there.
        """

def forecast(architecture: str, encoding: str, recipe: str, cache: SupportsIndex, request: SupportsIndex | None = None) -> str:
    """
    What one decoded token reads from a store, from a model's architecture and encoding alone, under a recipe (see Engine)
    and beside a cache of so many bytes, as JSON: {"swept": bytes of whole blocks, "chosen": bytes of records that are chosen
    while it is computed, with the gaps and pages that come with them, "reads": of these}. A read costs as much as request
    bytes (None: the usual). Neurons are taken to lie evenly spread.

    Raises what needs does, and BudgetError naming the least cache.
    """

def isa() -> tuple[list[str], str]:
    """
    The instruction sets of this machine that there are kernels for, narrowest first, and the one that is used.

    Raises UsageError if the environment forces one that is not there.
    """

def isa_refused() -> tuple[str, str] | None:
    """
    Where the processor has wider registers or tiles than the set that is used, but they cannot be: (why, what to do about
    it). None where nothing was refused, or a set is forced.
    """

def needs(architecture: str, encoding: str, recipe: str, serves: SupportsGetItem[int, str] = ...) -> str:
    """
    What a model needs under a recipe (see Engine), from its architecture and encoding alone, as JSON: {"all": cache bytes
    that hold every weight, "least": least cache that works, "ring": most that the read ring takes, "blocks", "stored": their
    bytes by part, padding included, "token_bytes": bytes that one decoded token touches (of records, padding left out), in a
    sparse FFN the most that its cuts let it touch, without what chooses, "parts": token_bytes by part}. All but the last two
    are those of a model that serves other recipes, too.

    Raises UsageError for planes that are not stored and for JSON that is no architecture, encoding or recipe of it.
    """

def publish(partial: str | PathLike[str], target: str | PathLike[str], replace: bool) -> None:
    """
    Renames a finished directory into place in one step; with replace an existing target is exchanged and removed.

    Raises UsageError if the target exists and replace is false, StoreIOError otherwise.
    """

def read_header(path: str | PathLike[str]) -> list[tuple[str, str, list[int], int, int]]:
    """
    Reads and checks the header of any safetensors file: (name, dtype, shape, begin, bytes) per tensor, in file order.

    Raises StoreIOError if the file cannot be read, StoreError naming the broken rule.
    """

def remove_roots(store: str | PathLike[str], other: str | PathLike[str]) -> None:
    """
    Removes the directories outside of a store (finished or not) that carry its marker and are no roots of another one;
    nothing where its manifest cannot be read.
    """

def replay(path: str | PathLike[str], policy: str, capacity: SupportsIndex) -> str:
    """
    Feeds a trace (docs/trace.md) to a policy (fixed, lru, fifo or lfu) with that many bytes, from an empty tier. JSON:
    {"all_bytes", "prompt", "decode", "draft"}, the last three {"passes", "rows", "accesses", "hits", "hit_bytes",
    "read_bytes", "evictions", "recorded_read_bytes"}.

    Raises UsageError for a broken trace, naming the line, and for unknown policies; StoreIOError.
    """

def ring_bytes(cache: SupportsIndex, all: SupportsIndex, least: SupportsIndex) -> int:
    """
    Bytes of the ring that is cut from a cache of that many bytes, for a model whose weights all take `all` and whose
    largest step takes `least`; the rest is for weights that stay.
    """

def scratch_bytes(architecture: str, recipe: str, act: str, rows: SupportsIndex, logit_rows: SupportsIndex, positions: SupportsIndex, threads: SupportsIndex, serves: SupportsGetItem[int, str] = ...) -> int:
    """
    Bytes that the threads of a model take at most beside weights, keys, values and the rows of a call: under a recipe (see
    Engine), with 4 and 8 bits computed in act, in calls of so many rows and rows of logits, with sequences of up to so
    many positions, on the instruction set that an Engine would choose here; of a model that serves other recipes, too.

    Raises UsageError for an act or threads that are none, and for JSON that is no architecture or recipe of it.
    """

def trace_memory(neurons: SupportsIndex, share: SupportsFloat | SupportsIndex, overlap: SupportsFloat | SupportsIndex, skew: SupportsFloat | SupportsIndex, seed: SupportsIndex) -> float:
    """
    The `memory` of a trace (a recipe's selector) in which, of the share of a layer's neurons that a token has, on average
    `overlap` are those of the token before.

    Raises UsageError for a share of no neuron and for an overlap out of reach, naming the range.
    """
