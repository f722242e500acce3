"""The decoder over a toy backend: how it batches, what it returns, and that a failure leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs.config import DECODE_BATCH, PROMPT_CHUNK
from m2cache_rs.runtime.decoder import Batch, Decoder, Kind, pieces
from numpy.typing import NDArray

LAYERS, HIDDEN, VOCAB = 3, 4, 11


class Toy:
    """A backend of exact integers in float32, whose attention is the sum over all positions so far."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.table = rng.integers(-3, 4, (VOCAB, HIDDEN)).astype(np.float32)
        self.seen: dict[int, list[list[NDArray[np.float32]]]] = {}
        self.sizes: list[int] = []
        self.prompts: list[tuple[int, bool]] = []
        self.fail_at: tuple[int, int] | None = None
        self.error: BaseException = OSError("the disk is gone")

    def create(self, inv_freq: NDArray[np.float32], attention_factor: float) -> int:
        self.seen[len(self.seen)] = [[] for _ in range(LAYERS)]
        return len(self.seen) - 1

    def length(self, sequence: int, layers: tuple[int, int] | None = None) -> int:
        return min(len(rows) for rows in self.seen[sequence][slice(*layers or (0, LAYERS))])

    def truncate(self, sequence: int, length: int, layers: tuple[int, int] | None = None) -> None:
        for rows in self.seen[sequence][slice(*layers or (0, LAYERS))]:
            del rows[length:]

    def fork(self, sequence: int) -> int:
        self.seen[len(self.seen)] = [list(rows) for rows in self.seen[sequence]]
        return len(self.seen) - 1

    def free(self, sequence: int) -> None:
        self.seen[sequence] = [[] for _ in range(LAYERS)]

    def follow(self, layers: tuple[int, int], head: bool, prompt: bool = False) -> None:
        self.followed = (layers, head, prompt)

    def abandon(self) -> None:
        self.followed = None

    def embed(self, tokens: NDArray[np.uint32]) -> NDArray[np.float32]:
        self.sizes.append(len(tokens))
        return self.table[tokens].copy()

    def attention(
        self,
        layer: int,
        x: NDArray[np.float32],
        sequences: NDArray[np.uint32],
        positions: NDArray[np.uint32],
        groups: None = None,
        prompt: bool = False,
    ) -> NDArray[np.float32]:
        assert prompt == self.followed[2]
        out = np.empty_like(x)
        for row, (sequence, position) in enumerate(zip(sequences.tolist(), positions.tolist(), strict=True)):
            if self.fail_at == (layer, position):
                raise self.error
            past = self.seen[sequence][layer]
            assert len(past) == position
            past.append(x[row].copy())
            out[row] = np.sum(past, axis=0) % 5
        return out

    def ffn(
        self, layer: int, x: NDArray[np.float32], chunks: None = None, prompt: bool = False
    ) -> NDArray[np.float32]:
        assert prompt == self.followed[2]
        if layer == 0:
            self.prompts.append((len(x), prompt))
        return (x * (layer + 2)) % 7

    def layers(
        self,
        span: tuple[int, int],
        x: NDArray[np.float32],
        sequences: NDArray[np.uint32],
        positions: NDArray[np.uint32],
        prompt: bool = False,
    ) -> NDArray[np.float32]:
        for layer in range(*span):
            x = x + self.attention(layer, x, sequences, positions, prompt=prompt)
            x = x + self.ffn(layer, x, prompt=prompt)
        return x

    def head(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x @ self.table.T


def run(tokens: list[int], kind: Kind, cuts: list[int]) -> NDArray[np.float32]:
    """Logits of a sequence fed in pieces."""
    decoder, edges = Decoder(Toy(), LAYERS), sorted({0, *cuts, len(tokens)})
    sequence = decoder.backend.create(np.ones(1, np.float32), 1.0)
    ids = np.array(tokens, np.uint32)
    return np.concatenate(
        [decoder.forward(Batch.run(ids[a:b], sequence, a, kind)) for a, b in pairwise(edges)]
    )


@given(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=80), st.data())
def test_logits_do_not_depend_on_kind_or_on_how_tokens_are_fed(
    tokens: list[int], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(1, len(tokens)), max_size=5))
    assert (run(tokens, Kind.PROMPT, cuts) == run(tokens, Kind.DECODE, [])).all()


def test_prompt_chunks_end_at_absolute_positions() -> None:
    batch = Batch.run(np.zeros(700, np.uint32), 0, 200, Kind.PROMPT)
    assert [(p.start + 200, p.stop + 200) for p in pieces(batch)] == [
        (200, 256),
        (256, 512),
        (512, 768),
        (768, 900),
    ]


def test_decode_batches_and_kinds_in_one_batch() -> None:
    kinds = np.array([Kind.PROMPT] * 3 + [Kind.DECODE] * 40 + [Kind.DRAFT] * 10 + [Kind.PROMPT] * 4, np.uint8)
    sequences = np.array([0] * 3 + list(range(1, 51)) + [60, 60, 61, 61], np.uint32)
    batch = Batch(np.zeros(57, np.uint32), sequences, kinds, tokens=np.zeros(57, np.uint32))
    batch = Batch(
        np.array([5, 6, 7] + [9] * 50 + [1, 2, 1, 2], np.uint32), sequences, kinds, tokens=batch.tokens
    )
    assert [(p.start, p.stop) for p in pieces(batch)] == [(0, 3), (3, 35), (35, 53), (53, 55), (55, 57)]


@pytest.mark.parametrize("watched", [False, True])
def test_calls_are_told_whether_their_rows_are_a_prompts(watched: bool) -> None:
    toy = Toy()
    decoder = Decoder(toy, LAYERS, observer=(lambda *_: None) if watched else None)
    kinds = [Kind.PROMPT] * 3 + [Kind.DECODE, Kind.DRAFT] * 2 + [Kind.PROMPT] * 2
    sequence = toy.create(np.ones(1, np.float32), 1.0)
    batch = Batch.run(np.zeros(len(kinds), np.uint32), sequence, 0, Kind.PROMPT)
    decoder.forward(replace(batch, kinds=np.array(kinds, np.uint8)))
    assert toy.prompts == [(3, True), (4, False), (2, True)]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Kind), st.integers(1, 300)), max_size=6))
def test_pieces_cover_every_row_once_and_stay_small(runs: list[tuple[int, Kind, int]]) -> None:
    lengths: dict[int, int] = {}
    columns: list[tuple[int, int, int]] = []
    for sequence, kind, count in runs:
        start = lengths.get(sequence, 0)
        columns += [(position, sequence, kind) for position in range(start, start + count)]
        lengths[sequence] = start + count
    table = np.array(columns, np.int64).reshape(-1, 3)
    batch = Batch(table[:, 0].astype(np.uint32), table[:, 1].astype(np.uint32), table[:, 2].astype(np.uint8))
    found = list(pieces(batch))
    assert [row for p in found for row in range(p.start, p.stop)] == list(range(len(table)))
    for p in found:
        prompt = set((batch.kinds[p] == Kind.PROMPT).tolist())
        assert len(prompt) == 1
        assert p.stop - p.start <= (PROMPT_CHUNK if prompt == {True} else DECODE_BATCH)


def test_only_wanted_rows_come_back() -> None:
    tokens = [1, 2, 3, 4, 5]
    decoder = Decoder(Toy(), LAYERS)
    sequence = decoder.backend.create(np.ones(1, np.float32), 1.0)
    want = np.array([False, True, False, False, True])
    rows = decoder.forward(Batch.run(np.array(tokens, np.uint32), sequence, 0, Kind.PROMPT), want=want)
    assert (rows == run(tokens, Kind.PROMPT, [])[want]).all()


def test_two_stages_of_layers_are_the_whole() -> None:
    tokens = np.array([3, 1, 4, 1, 5], np.uint32)
    first, second = Decoder(Toy(), LAYERS), Decoder(Toy(), LAYERS)
    for stage in (first, second):
        stage.backend.create(np.ones(1, np.float32), 1.0)
    batch = Batch.run(tokens, 0, 0, Kind.PROMPT)
    hidden = first.forward(batch, layers=range(2))
    kept = hidden.copy()
    rest = Batch(batch.positions, batch.sequences, batch.kinds, hidden=hidden)
    assert (second.forward(rest, layers=range(2, LAYERS)) == run(tokens.tolist(), Kind.PROMPT, [])).all()
    assert (hidden == kept).all()


@pytest.mark.parametrize("fail_at", [(0, 7), (1, 300), (2, 256)])
def test_a_failure_half_way_leaves_the_sequences_as_they_were(fail_at: tuple[int, int]) -> None:
    toy, ids = Toy(), (np.arange(400) % VOCAB).astype(np.uint32)
    decoder = Decoder(toy, LAYERS)
    sequence = toy.create(np.ones(1, np.float32), 1.0)
    decoder.forward(Batch.run(ids[:5], sequence, 0, Kind.PROMPT))
    toy.fail_at = fail_at
    with pytest.raises(OSError, match="disk"):
        decoder.forward(Batch.run(ids[5:], sequence, 5, Kind.PROMPT))
    assert {len(rows) for rows in toy.seen[sequence]} == {5}
    toy.fail_at = None
    rest = decoder.forward(Batch.run(ids[5:], sequence, 5, Kind.PROMPT))
    assert (rest == run(ids.tolist(), Kind.PROMPT, [5])[5:]).all()


def test_an_interruption_undoes_every_sequence_of_a_batch() -> None:
    """Ctrl-C is no `Exception`, and reaches a batch when some of its sequences have grown."""
    toy = Toy()
    decoder = Decoder(toy, LAYERS)
    sequences = [toy.create(np.ones(1, np.float32), 1.0) for _ in range(3)]
    for sequence in sequences:
        decoder.forward(Batch.run(np.arange(4, dtype=np.uint32), sequence, 0, Kind.PROMPT))
    toy.fail_at, toy.error = (1, 4), KeyboardInterrupt()
    kinds = np.full(3, Kind.DECODE, np.uint8)
    batch = Batch(np.full(3, 4, np.uint32), np.array(sequences, np.uint32), kinds, np.ones(3, np.uint32))
    with pytest.raises(KeyboardInterrupt):
        decoder.forward(batch)
    assert {len(rows) for sequence in sequences for rows in toy.seen[sequence]} == {4}


def test_the_observer_sees_what_stands_in_front_of_every_norm() -> None:
    seen: list[tuple[int, str, tuple[int, ...]]] = []
    decoder = Decoder(Toy(), LAYERS, lambda layer, which, x: seen.append((layer, which, x.shape)))
    decoder.backend.create(np.ones(1, np.float32), 1.0)
    decoder.forward(Batch.run(np.array([1, 2], np.uint32), 0, 0, Kind.PROMPT), want=np.zeros(2, bool))
    norms = [(layer, which) for layer in range(LAYERS) for which in ("attn", "ffn")] + [(LAYERS, "final")]
    assert seen == [(layer, which, (2, HIDDEN)) for layer, which in norms]


def test_progress_counts_calls_and_leaves_branches_to_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch.run(np.arange(40, dtype=np.uint32) % VOCAB, 0, 0, Kind.PROMPT)
    told: list[int] = []
    watched = Decoder(Toy(), LAYERS, lambda layer, which, x: None, progress=told.append)
    watched.backend.create(np.ones(1, np.float32), 1.0)
    want = watched.forward(batch)
    assert sum(told) == len(batch.positions) * LAYERS
    toy, calls, told[:] = Toy(), [], []
    toy.create(np.ones(1, np.float32), 1.0)
    whole = toy.layers
    monkeypatch.setattr(toy, "layers", lambda span, *rest: calls.append(span) or whole(span, *rest))
    assert (Decoder(toy, LAYERS, progress=told.append).forward(batch) == want).all()
    assert calls == [(layer, layer + 1) for layer in range(LAYERS)], "a call a layer for more than 32 rows"
    assert told == [40] * LAYERS


def test_a_fork_goes_its_own_way() -> None:
    toy = Toy()
    decoder = Decoder(toy, LAYERS)
    first = toy.create(np.ones(1, np.float32), 1.0)
    decoder.forward(Batch.run(np.array([1, 2, 3], np.uint32), first, 0, Kind.PROMPT))
    second = toy.fork(first)
    other = decoder.forward(Batch.run(np.array([7, 8], np.uint32), second, 3, Kind.DECODE))
    own = decoder.forward(Batch.run(np.array([4, 5], np.uint32), first, 3, Kind.DECODE))
    assert (own == run([1, 2, 3, 4, 5], Kind.DECODE, [])[3:]).all()
    assert (other == run([1, 2, 3, 7, 8], Kind.DECODE, [])[3:]).all()


def test_a_stage_that_fails_keeps_what_it_held() -> None:
    toy, ids = Toy(), (np.arange(9) % VOCAB).astype(np.uint32)
    decoder, stage = Decoder(toy, LAYERS), range(2)
    sequence = toy.create(np.ones(1, np.float32), 1.0)
    decoder.forward(Batch.run(ids[:5], sequence, 0, Kind.PROMPT), layers=stage)
    toy.fail_at = (1, 6)
    with pytest.raises(OSError, match="disk"):
        decoder.forward(Batch.run(ids[5:], sequence, 5, Kind.PROMPT), layers=stage)
    assert [len(rows) for rows in toy.seen[sequence]] == [5, 5, 0]
