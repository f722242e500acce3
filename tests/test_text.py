"""Text as it comes: whole characters, the same text as decoding everything, stop strings that never show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs.runtime.text import Detokenizer, StopStrings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TALE = Tokenizer.from_file(str(Path(__file__).parents[1] / "examples/models/tale-silu/tokenizer.json"))
BROKEN = "\N{REPLACEMENT CHARACTER}"


def byte_level(ids: Sequence[int]) -> str:
    return TALE.decode(list(ids), skip_special_tokens=True)


def _sentence_pieces() -> Tokenizer:
    """A tokenizer as Llama 2's: spaces as U+2581, bytes for unknown words, the first space stripped."""
    words = ["<unk>", "<s>", "▁", "▁day", "▁one", "s", ".", "a", "é", "日"]
    vocab = {word: i for i, word in enumerate(words + [f"<0x{byte:02X}>" for byte in range(256)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


PIECES = _sentence_pieces()


def byte_fallback(ids: Sequence[int]) -> str:
    return PIECES.decode(list(ids), skip_special_tokens=True)


def _bytes(text: str) -> list[int]:
    return [10 + byte for byte in text.encode()]


@given(st.text(max_size=40), st.text(max_size=20))
def test_pieces_are_the_text_behind_the_prompt(text: str, prompt: str) -> None:
    before, ids = TALE.encode(prompt).ids, TALE.encode(text).ids
    stream = Detokenizer(byte_level, before)
    pieces = [stream.push(one) for one in ids]
    # A text that itself ends in U+FFFD cannot be told from an unfinished character.
    assert "".join(pieces).rstrip(BROKEN) == text.rstrip(BROKEN)


@given(st.text(alphabet="a ée日€𝄞.", max_size=30), st.integers(0, 6))
def test_no_piece_has_half_a_character(text: str, cut: int) -> None:
    stream = Detokenizer(byte_level)
    shown = "".join(stream.push(one) for one in TALE.encode(text).ids[:cut])
    assert BROKEN not in shown
    assert text.startswith(shown)


@given(st.lists(st.integers(0, 4095), max_size=40))
def test_any_ids_give_what_decoding_them_gives(ids: list[int]) -> None:
    stream = Detokenizer(byte_level)
    shown = "".join(stream.push(one) for one in ids)
    whole = byte_level(ids)
    assert whole.startswith(shown)
    assert whole[len(shown) :].strip(BROKEN) == ""


@given(st.lists(st.sampled_from([*range(1, 10), *_bytes("é日𝄞")]), max_size=30), st.booleans())
def test_byte_fallback_gives_what_decoding_gives_unless_bytes_are_broken(ids: list[int], begun: bool) -> None:
    prompt = [1, 4, 3] if begun else []
    whole, start = byte_fallback(prompt + ids), byte_fallback(prompt)
    stream = Detokenizer(byte_fallback, prompt)
    shown = "".join(stream.push(one) for one in ids)
    if BROKEN not in whole:
        assert start + shown == whole


def test_the_space_between_words_survives_the_decoder_that_strips_it() -> None:
    stream = Detokenizer(byte_fallback, [4])
    assert [stream.push(3), stream.push(5), stream.push(4)] == [" day", "s", " one"]


def test_a_byte_that_breaks_the_character_before_it_takes_nothing_back() -> None:
    stream = Detokenizer(byte_fallback)
    shown = [stream.push(one) for one in [*_bytes("é"), 10 + 0xFF, 7]]
    assert shown == ["", "é", "", BROKEN + "a"]


def test_a_prompt_cut_inside_a_run_of_bytes_breaks_nothing() -> None:
    stream = Detokenizer(byte_fallback, _bytes("日本語です"))
    assert "".join(stream.push(one) for one in _bytes("ね𝄞")) == "ね𝄞"


def test_endless_nothing_stays_cheap() -> None:
    sizes: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        sizes.append(len(ids))
        return byte_level(ids)

    stream = Detokenizer(decode)
    assert not any(stream.push(0) for _ in range(1000))
    assert max(sizes) <= 65


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_do_not_depend_on_how_pieces_fall(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    stream = StopStrings(stops)
    shown = (
        "".join(stream.push(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
        + stream.flush()
    )
    ends = [(end, end - len(s)) for s in stops for end in range(len(text) + 1) if text[:end].endswith(s)]
    assert shown == (text[: min(ends)[1]] if ends else text)
    assert stream.stopped == bool(ends)


def test_what_cannot_begin_a_stop_string_is_shown_at_once() -> None:
    stream = StopStrings(["###"])
    assert [stream.push("a#"), stream.push("b"), stream.push("##"), stream.push("#c")] == ["a", "#b", "", ""]
    assert stream.stopped


@pytest.mark.parametrize("stops", [[], ["x"]])
def test_without_a_match_everything_is_shown(stops: list[str]) -> None:
    stream = StopStrings(stops)
    assert [stream.push("one "), stream.push("two"), stream.flush()] == ["one ", "two", ""]
