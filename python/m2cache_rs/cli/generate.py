"""`m2cache generate`: text out of a store, as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2cache_rs.cli import options, output
from m2cache_rs.cli.computed import command
from m2cache_rs.cli.words import activation_words, budget_words, chosen_words, figures, seconds, speed_words
from m2cache_rs.config import PARTS, format_size, user_path
from m2cache_rs.errors import UsageError

if TYPE_CHECKING:
    from m2cache_rs.plan.planner import Expectation
    from m2cache_rs.runtime.generation import Token
    from m2cache_rs.runtime.session import Model


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
    def wait(self) -> float:
        """Seconds until the first token."""
        return self.first - self.began

    @property
    def rate(self) -> float:
        """Tokens a second behind the first, which waits for the prompt; one alone counts from the start."""
        now = time.perf_counter()
        if self.count > 1:
            return (self.count - 1) / (now - self.first)
        return self.count / (now - self.began)


@command()
def generate(
    *,
    store: Annotated[
        Path, typer.Argument(parser=user_path, metavar="STORE", help="A store that `m2cache convert` made.")
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The text to go on from; - reads stdin.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", parser=user_path, metavar="FILE", help="Read the prompt from this file."
        ),
    ] = None,
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
    computed: options.Computed,
    dram: options.Dram = None,
    cache: options.Cache = None,
    ctx: Annotated[
        int | None, typer.Option(help="Positions to make room for (default: prompt and new tokens).")
    ] = None,
    io: options.Io = "auto",
    verify: options.Verify = "first",
    kv: options.Kv = "f16",
    threads: options.Threads = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            parser=user_path, metavar="FILE", help="Write down every access to the weights (docs/trace.md)."
        ),
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print where bytes and time went, on stderr.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Generate text, streamed to stdout; a summary follows on stderr.

    Greedy, unless the model's generation config or an option says otherwise.
    """
    text = _prompt(prompt, file)
    from m2cache_rs.runtime.generation import new_tokens
    from m2cache_rs.runtime.opening import Opened
    from m2cache_rs.runtime.session import Model

    opened = Opened(store)
    ids = opened.assets.prompt(text)
    room = opened.context if ctx is None else opened.positions(ctx)
    count = new_tokens(max_new_tokens, len(ids), room, opened.room(room))
    with (
        Model.open(
            opened,
            dram,
            cache,
            ctx or len(ids) + count,
            verify=verify,
            threads=threads,
            kv=kv,
            io=io,
            trace=trace,
            logit_rows=1,
            **computed,
        ) as model,
        output.ticker("prompt") as progress,
    ):
        tokens = model.generate(
            ids,
            count,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop or (),
            progress=progress,
        )
        expected, why = model.expect(len(ids), count)
        if not json:
            output.note(_ahead(model, expected, why))
        run = _take(tokens, show=not json)
        _report(run, model, expected, json)
        if stats and not json:
            from m2cache_rs.cli.stats import table

            output.lines(table(model.stats(), expected.rates.read if expected else None))


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


def _ahead(model: Model, expected: Expectation | None, why: str) -> str:
    """What is to be expected, before it starts."""
    speed = speed_words(expected) if expected else f"no speed foreseen: {why}"
    chosen = chosen_words(model.chosen, model.architecture.heads)
    numbers = f"{chosen}, {activation_words(model.recipe, model.act)}"
    memory = budget_words(model.budget, model.context)
    return f"{numbers}, keys and values in {model.kv}; memory {memory}; {speed}"


def _report(run: _Run, model: Model, expected: Expectation | None, json: bool) -> None:
    stats = model.stats()
    if json:
        output.print_json(
            {
                "text": "".join(run.pieces),
                "tokens": run.count,
                "prompt_tokens": stats["tokens"]["prompt"],
                "precision": {part: getattr(model.precision, part) for part in PARTS},
                "recipe": stats["recipe"],
                "act": model.act,
                "tokens_per_second": run.rate,
                "first_token_seconds": run.wait,
                "peak_rss_bytes": stats["peak_rss_bytes"],
                "budget": model.budget.to_dict(),
                "expected": expected.to_dict() if expected else None,
                "stats": stats,
            }
        )
        return
    foreseen = f" ({figures(expected.tokens_per_second)} foreseen)" if expected else ""
    first = f" ({seconds(expected.first_token)} foreseen)" if expected else ""
    output.note(
        f"{run.count} tokens after a prompt of {stats['tokens']['prompt']}, "
        f"{run.rate:.1f} tokens/s{foreseen}, the first after {seconds(run.wait)}{first}; "
        f"weights read {format_size(stats['read_bytes'])}, hit {format_size(stats['hit_bytes'])}; "
        f"{_touched(model, stats)}"
        f"peak memory {format_size(stats['peak_rss_bytes'])}"
    )


def _touched(model: Model, stats: Mapping[str, Any]) -> str:
    """What the neurons of a recipe that chooses some have cost."""
    from m2cache_rs.recipe.recipe import Dense

    cost = stats["recipe"]["cost"]
    if cost is None or isinstance(model.recipe.ffn, Dense):
        return ""
    return (
        f"a new token touched {format_size(cost['bytes_per_token'])} of the FFN "
        f"({cost['bits_per_weight']:.3g} bits a weight, {sum(cost['active']):.1%} of neurons); "
    )
