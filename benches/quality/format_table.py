"""The format decision: quality per bit of our forms on two models, beside llama.cpp's. See README.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import machine
import metrics
import report
import results
import stores
import text
from peers import Peer
from results import Results, Row
from subjects import MODELS, Subject, subjects

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "benches/results/format-table.json"
PAGE = ROOT / "docs/format-decision.md"


def main() -> None:
    """Measures everything (or reads it, with --from), then writes the page."""
    arguments = _arguments()
    if arguments.figures_only:
        found = results.load(arguments.json)
    else:
        found = measure(arguments.shared, arguments.windows_per_file)
        found.save(arguments.json)
    arguments.page.write_text(report.markdown(found))
    print(f"wrote {arguments.page}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder with data/")
    parser.add_argument("--windows-per-file", type=int, default=text.WINDOWS_PER_FILE)
    parser.add_argument("--json", type=Path, default=FIGURES, help="where the figures go")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--figures-only", action="store_true", help="measure nothing: page from --json")
    return parser.parse_args()


def measure(shared: Path, per_file: int) -> Results:
    """All rows of all subjects, and what they were measured with."""
    about: dict[str, Any] = {
        "machine": machine.describe(),
        "window_tokens": text.WINDOW,
        "windows_per_file": per_file,
        "perplexity": {},
        "writer_kl": {},
        "llama_cpp_types": {},
        "k_quant_fallback": {},
    }
    rows: list[Row] = []
    with TemporaryDirectory() as scratch:
        for model in MODELS:
            for subject in subjects(shared, model, Path(scratch), per_file):
                rows += _measure(subject, shared, Path(scratch), about)
    return Results(about, rows)


def _measure(subject: Subject, shared: Path, scratch: Path, about: dict[str, Any]) -> list[Row]:
    about["windows"] = len(subject.windows)
    about["perplexity"][subject.model] = _own_perplexity(subject)
    rows = _peers(subject, scratch, about)
    tokenizer = subject.source / "tokenizer.json"
    calibration = text.calibration(tokenizer, shared / "data/text")
    about["calibration_tokens"] = calibration.size
    for row in stores.rows(subject, calibration, scratch):
        rows.append(_said(row))
    return rows


def _peers(subject: Subject, scratch: Path, about: dict[str, Any]) -> list[Row]:
    peer = Peer.of(subject, scratch)
    about["writer_kl"][f"{subject.model}, {subject.variant}"] = peer.writer_kl
    about["k_quant_fallback"][subject.model] = peer.odd_rows()
    rows = []
    for row, types in peer.rows():
        about["llama_cpp_types"].setdefault(subject.model, {})[row.form] = types
        rows.append(_said(row))
    return rows


def _own_perplexity(subject: Subject) -> float:
    original = iter(subject.reference)
    return metrics.score(lambda _: next(original), subject.windows, subject.reference).perplexity


def _said(row: Row) -> Row:
    name = f"{row.model} {row.variant}: {row.system} {row.form} {row.equalised}, {row.reading}"
    print(f"{time.strftime('%H:%M:%S')} {name}: KL {row.kl:.3g}, ppl {row.perplexity:.2f}", file=sys.stderr)
    return row


if __name__ == "__main__":
    main()
