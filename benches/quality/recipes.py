"""Quality against bytes of every kind of recipe, on your checkpoint or on the tale models. See README.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import machine
import recipe_checks
import recipe_page
import recipe_plot
from m2cache_rs.cli.texts import read_text
from m2cache_rs.errors import M2CacheError
from recipe_cases import Case, own, tales
from recipe_meter import Options
from recipe_rows import Table, load
from recipe_run import Run, Wishes, say

ROOT = Path(__file__).resolve().parents[2]
# What says which figures belong together.
_ASKED = ("checkpoint", "text", "train_text", "tokens", "tune_tokens", "windows_per_file", "window")


def main() -> None:
    """Measures, then writes the figures, the picture and the page."""
    arguments = _arguments()
    try:
        table = load(arguments.json) if arguments.figures_only else measure(arguments)
    except (M2CacheError, OSError, ValueError) as error:
        raise SystemExit(f"recipes.py: {error}") from error
    checks = recipe_checks.all_of(table)
    table.about["checks"] = [one.to_dict() for one in checks]
    table.save(arguments.json)
    recipe_plot.draw(table, arguments.png)
    arguments.page.write_text(recipe_page.markdown(table, checks, arguments.png.name))
    print(recipe_page.summary(table, checks))
    print(f"wrote {arguments.json}, {arguments.png}, {arguments.page}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("checkpoint", nargs="?", type=Path, help="a Hugging Face directory, or a store")
    add("--text", type=Path, help="the text that is predicted, in UTF-8")
    add("--train-text", type=Path, help="another to tune and train on (default: the first half of --text)")
    add("--out", type=Path, default=Path("recipes"), help="where the store, figures, picture and page go")
    add("--tokens", type=int, default=2048, help="tokens of --text that are measured")
    add("--tune-tokens", type=int, default=256, help="tokens that recipes are tuned on")
    add("--window", type=int, default=256, help="tokens that run together")
    add("--gguf", type=Path, action="append", default=[], help="a GGUF file of the same model to run beside")
    add("--no-peer", action="store_true", help="without llama.cpp")
    add("--dram", help="a cap on memory, as m2cache takes it")
    add("--threads", type=int, help="as m2cache takes it")
    add("--shared", type=Path, help="the tale models instead of a checkpoint: the folder with data/")
    add("--windows-per-file", type=int, default=1, help="of the tale models' held-out text")
    add("--resume", action="store_true", help="measure only what the figures of an earlier run lack")
    add("--figures-only", action="store_true", help="measure nothing: checks, picture and page anew")
    found = parser.parse_args()
    if not found.shared and not found.figures_only and not (found.checkpoint and found.text):
        parser.error("name a CHECKPOINT and --text FILE, or --shared FOLDER")
    return _with_places(found)


def _with_places(arguments: argparse.Namespace) -> argparse.Namespace:
    """With json, png and page: in the repository for the tale models, else in --out."""
    names = ("benches/results/recipes-table.json", "docs/recipes.png", "docs/recipes-table.md")
    folder = ROOT
    if not arguments.shared:
        names, folder = ("recipes.json", "recipes.png", "recipes.md"), arguments.out
        folder.mkdir(parents=True, exist_ok=True)
    arguments.json, arguments.png, arguments.page = (folder / name for name in names)
    return arguments


def measure(arguments: argparse.Namespace) -> Table:
    """All lines of all cases. They are kept as they come: --resume goes on behind what stopped."""
    table = _begun(arguments)
    options = Options(arguments.dram, arguments.threads, arguments.window)
    wishes = Wishes(options, arguments.tune_tokens, not arguments.no_peer, arguments.gguf)
    before, begun = table.about["minutes"], time.monotonic()

    def keep() -> None:
        table.about["minutes"] = round(before + (time.monotonic() - begun) / 60, 1)
        table.save(arguments.json)

    with TemporaryDirectory() as scratch:
        for case in _cases(arguments, Path(scratch)):
            Run(case, wishes, Path(scratch), table, keep).measure()
            say(f"{case.name}: done")
    return table


def _begun(arguments: argparse.Namespace) -> Table:
    """An empty table or, to resume, what was measured with the same options."""
    asked = {name: str(getattr(arguments, name)) for name in _ASKED}
    if not (arguments.resume and arguments.json.exists()):
        about = {"machine": machine.describe(), "tune_tokens": arguments.tune_tokens, "minutes": 0.0}
        return Table({**about, "asked": asked, "predictors": {}})
    table = load(arguments.json)
    if table.about["asked"] != asked:
        raise ValueError(f"{arguments.json} was measured with other options: {table.about['asked']}")
    return table


def _cases(arguments: argparse.Namespace, scratch: Path) -> Iterator[Case]:
    window = arguments.window
    if arguments.shared:
        return tales(arguments.shared, scratch, arguments.windows_per_file, window)
    learning = read_text(arguments.train_text) if arguments.train_text else None
    content = read_text(arguments.text)
    return own(arguments.checkpoint, content, learning, arguments.out, arguments.tokens, window)


if __name__ == "__main__":
    main()
