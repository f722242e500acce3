"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from m2cache_rs.config import user_path

Precision = Annotated[
    str | None,
    typer.Option(help="4, 8, 16, or per part: attn=8,ffn=4,head=8,embed=16 (default: all that is stored)."),
]
Dram = Annotated[
    str | None,
    typer.Option(
        help="Cap on the peak memory of the whole process, for example 4GiB (default: what is free, less a "
        "margin, and no more than the model needs)."
    ),
]
Cache = Annotated[
    str | None,
    typer.Option(
        help="Bytes of weight cache alone, for example 64MiB, instead of --dram; caps nothing else."
    ),
]
Io = Annotated[str, typer.Option(help="What reads the store: uring, psync (threads) or auto.")]
Verify = Annotated[str, typer.Option(help="Checksums: first (read), always or never.")]
Kv = Annotated[str, typer.Option(help="Keep keys and values as f16 or f32.")]
Threads = Annotated[int | None, typer.Option(help="Threads (default: one a core).")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Take a text however short, and replace what was made from a longer one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

# What is computed: in its place a command has all these options (cli/computed.py).
Computed = Mapping[str, Any]

_QUALITY = (
    "exact, or a recipe that `m2cache tune` found for this store: high, balanced, fast (default: exact)."
)
_RECIPE = "What is computed, from this file (docs/recipes.md)."


Quality = Annotated[str | None, typer.Option(help=_QUALITY)]
Qualities = Annotated[list[str] | None, typer.Option("--quality", help=f"{_QUALITY} May be repeated.")]
Recipe = Annotated[
    Path | None,
    typer.Option(parser=user_path, metavar="FILE", help=_RECIPE),
]
Recipes = Annotated[
    list[Path] | None,
    typer.Option(
        "--recipe",
        parser=user_path,
        metavar="FILE",
        help=f"{_RECIPE} May be repeated: all share one reference.",
    ),
]
Select = Annotated[
    str | None,
    typer.Option(
        help="What ranks the FFN's neurons: plane, lowrank, cascade, or oracle (exact, for comparison); or "
        "certified, which skips what is proven to be off (default: all are computed)."
    ),
]
Active = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Share of the neurons that is computed (default: 0.5)."),
]
Bands = Annotated[
    str | None,
    typer.Option(
        metavar="16/8/4",
        help="Shares of these at 16, 8 and 4 bits, such as 25/25/50 (default: all at the FFN's precision).",
    ),
]
Candidates = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE", help="Share that the first step of cascade leaves (default: twice --active)."
    ),
]
Predictor = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Predictor of lowrank and cascade, of several."),
]
QueryHeads = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the query heads that new tokens have (default: all); `m2cache profile --query-heads` "
        "makes what chooses them.",
    ),
]
PromptBits = Annotated[
    int | None,
    typer.Option(help="Bits of the FFN in prompts (default: the finest of its bands)."),
]
Cut = Annotated[
    str | None,
    typer.Option(
        help="top: as many of the highest as --active and --bands say; threshold: what reaches the scores "
        "that so many reached in `m2cache profile` (default: top)."
    ),
]
