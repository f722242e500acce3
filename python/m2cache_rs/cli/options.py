"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
