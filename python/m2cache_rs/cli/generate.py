"""`m2cache generate`: text out of a store, as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import output
from m2cache_rs.config import format_size
from m2cache_rs.errors import UsageError

if TYPE_CHECKING:
    from m2cache_rs.runtime.generation import Token


@dataclass
class _Run:
    """What has come so far, and when."""

    pieces: list[str] = field(default_factory=list)
    count: int = 0
    began: float = field(default_factory=time.perf_counter)
    first: float = 0.0

    def take(self, token: Token) -> None:
        """Counts a token that has just come."""
        self.pieces.append(token.text)
        self.count += 1
        self.first = self.first or time.perf_counter()

    @property
    def rate(self) -> float:
        """Tokens a second behind the first, which waits for the prompt; one alone counts from the start."""
        now = time.perf_counter()
        if self.count > 1:
            return (self.count - 1) / (now - self.first)
        return self.count / (now - self.began)


def generate(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store that `m2cache convert` made.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The text to go on from; - reads stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Tokens at most (default: 256, or what the context leaves).")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest; 0 is off.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the likeliest that sum to p; 1 is off.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Drop what is below p times the likeliest; 0 is off.")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 makes repeating harder.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text (may be repeated).")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="4, 8, 16, or per part: attn=8,ffn=4,head=8,embed=16 (default: all that is stored)."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(help="Weight cache, for example 64MiB (default: all weights, as memory allows)."),
    ] = None,
    verify: Annotated[str, typer.Option(help="Checksums: first (read), always or never.")] = "first",
    kv: Annotated[str, typer.Option(help="Keep keys and values as f16 or f32.")] = "f16",
    threads: Annotated[int | None, typer.Option(help="Threads (default: one a core).")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write down every access to the weights (docs/trace.md).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False,
) -> None:
    """Generate text, streamed to stdout; a summary follows on stderr.

    Greedy, unless the model's generation config or an option says otherwise.
    """
    text = _prompt(prompt, file)
    from m2cache_rs.runtime.session import Model

    with Model.open(
        store, cache=cache, precision=precision, verify=verify, threads=threads, kv=kv, trace=trace
    ) as model:
        tokens = model.generate(
            text,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop or (),
        )
        run = _take(tokens, show=not json)
        _report(run, model.stats(), json)


def _prompt(text: str | None, file: Path | None) -> str:
    """The prompt, from wherever it was said to be."""
    if (text is None) == (file is None):
        raise UsageError("give one prompt: -p TEXT, -p - (read from standard input) or -f FILE")
    if text is not None and text != "-":
        return text
    name, stream = (file, None) if file else ("standard input", sys.stdin.buffer)
    try:
        return (stream.read() if stream else file.read_bytes()).decode()  # type: ignore[union-attr]
    except OSError as error:
        raise UsageError(f"the prompt cannot be read from {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt from {name} is not UTF-8 (byte {error.start})") from error


def _take(tokens: Iterable[Token], show: bool) -> _Run:
    """Runs the generation."""
    run = _Run()
    try:
        for token in tokens:
            run.take(token)
            if show and token.text:
                print(token.text, end="", flush=True)
    finally:
        if show and run.pieces:
            print(flush=True)
    return run


def _report(run: _Run, stats: dict[str, Any], json: bool) -> None:
    rate, prompt, peak = run.rate, stats["tokens"]["prompt"], stats["peak_rss_bytes"]
    if json:
        output.print_json(
            {
                "text": "".join(run.pieces),
                "tokens": run.count,
                "prompt_tokens": prompt,
                "tokens_per_second": rate,
                "peak_rss_bytes": peak,
                "stats": stats,
            }
        )
        return
    output.note(
        f"{run.count} tokens after a prompt of {prompt}, {rate:.1f} tokens/s; "
        f"weights read {format_size(stats['read_bytes'])}, "
        f"hit {format_size(stats['hit_bytes'])}; peak memory {format_size(peak)}"
    )
