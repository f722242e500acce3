"""Sizes, precisions and sampling settings: what is accepted, what it means, what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2cache_rs.config import DECODE_BATCH, LEVELS, PARTS, Precision, Sampling, format_size, parse_size
from m2cache_rs.errors import M2CacheError, UsageError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("64MiB", 64 << 20),
        ("1.5GB", 1_500_000_000),
        ("512K", 512 << 10),
        ("512k", 512 << 10),
        ("2 MB", 2_000_000),
        (".5GiB", 1 << 29),
        ("7B", 7),
        ("1T", 1 << 40),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: int | str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", -1, "1.5.2G", "64iB", "64Mi", "1e9", "9" * 400, True, None, 1.5, "６４M"]
)
def test_what_is_no_size_is_refused_by_name(text: object) -> None:
    with pytest.raises(UsageError, match=r"^cache "):
        parse_size(text, "cache")  # type: ignore[arg-type]


@given(st.integers(0, 2**50))
def test_shown_sizes_are_near(count: int) -> None:
    shown = format_size(count)
    assert abs(parse_size(shown) - count) <= max(
        0.051 * 1024 ** (" KMGT".index(shown.split()[1][0].replace("B", " "))), 0
    )


@pytest.mark.parametrize(
    "value", [8, "8", " 8 ", dict.fromkeys(PARTS, 8), "attn=8,ffn=8,head=8,embed=8", Precision(8, 8, 8, 8)]
)
def test_uniform_precision(value: object) -> None:
    assert Precision.parse(value) == Precision(8, 8, 8, 8)  # type: ignore[arg-type]


def test_parts_left_out_take_the_highest_stored_level() -> None:
    assert Precision.parse("attn=8, ffn=4").levels(3) == (8, 4, 16, 16)
    assert Precision.parse({"embed": 4}).levels(2) == (8, 8, 8, 4)
    assert Precision.parse(None).levels(1) == (4, 4, 4, 4)


@given(st.dictionaries(st.sampled_from(PARTS), st.sampled_from(LEVELS), min_size=1))
def test_text_and_mapping_say_the_same(parts: dict[str, int]) -> None:
    text = ",".join(f"{part}={bits}" for part, bits in parts.items())
    assert Precision.parse(text) == Precision.parse(parts)


@pytest.mark.parametrize(
    "value",
    [
        5,
        "5",
        "",
        "attn=5",
        "attn=",
        "attn",
        "nose=8",
        "attn=8,attn=4",
        "attn=8,,ffn=4",
        True,
        {"nose": 4},
        {"attn": 3},
        {"attn": None},
        8.5,
        [8],
    ],
)
def test_unknown_precisions_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match="precision"):
        Precision.parse(value)  # type: ignore[arg-type]


def test_a_plane_that_is_not_stored_is_named() -> None:
    with pytest.raises(UsageError, match=r"head=16 needs the plane 'low'.*up to 8 bits"):
        Precision.parse("head=16").levels(2)


def test_greedy_unless_told_otherwise() -> None:
    assert Sampling.resolve({}) == Sampling()
    assert Sampling.resolve({"temperature": 0.6, "top_p": 0.9, "do_sample": False}) == Sampling()
    assert Sampling.resolve({"repetition_penalty": 1.2}).repetition_penalty == 1.2


def test_generation_config_fills_what_flags_leave_out() -> None:
    config = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": None}
    assert Sampling.resolve(config) == Sampling(temperature=0.6, top_p=0.9)
    assert Sampling.resolve(config, top_p=0.5) == Sampling(temperature=0.6, top_p=0.5)
    assert Sampling.resolve(config, temperature=0.0) == Sampling()
    assert Sampling.resolve({}, top_k=5) == Sampling(temperature=1.0, top_k=5)
    assert Sampling.resolve({"temperature": 0.6}, top_k=5) == Sampling(temperature=0.6, top_k=5)
    assert Sampling.resolve({}, repetition_penalty=1.5) == Sampling(repetition_penalty=1.5)


@pytest.mark.parametrize(
    "flags",
    [
        {"temperature": -1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"repetition_penalty": math.nan},
        {"top_k": "7"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(flags: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(flags))):
        Sampling.resolve({}, **flags)


def test_usage_errors_are_value_errors_of_ours() -> None:
    assert issubclass(UsageError, ValueError)
    assert issubclass(UsageError, M2CacheError)


def test_batches_are_cut_by_the_cores_number() -> None:
    types = (Path(__file__).parents[1] / "src/types.rs").read_text()
    assert re.findall(r"^pub const DECODE_BATCH: usize = (\d+);$", types, re.MULTILINE) == [str(DECODE_BATCH)]
