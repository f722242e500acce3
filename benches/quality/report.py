"""The results as a page of Markdown: `page.md` with every figure filled in."""

from __future__ import annotations

from pathlib import Path
from string import Template

import decision
import peers
from forms import EIGHT, EQUALISATIONS, FORMS, FOUR, FOUR_EIGHT, SIXTEEN, Reading
from results import Results, Row

PAGE = Path(__file__).with_name("page.md")
SUBJECTS = [(model, variant) for model in ("tale-silu", "tale-relu") for variant in ("plain", "injected")]
NAMES = [f"{model}, {variant}" for model, variant in SUBJECTS]
LEVELS = (FOUR, FOUR_EIGHT, EIGHT, SIXTEEN)
WEIGHTS_ONLY = (Reading(4, 4, "f32"), Reading(8, 8, "f32"))
# Which of llama.cpp's files stand beside a level, by its bits of body and ends.
BESIDE = {
    (4, 4): ("Q4_0 pure", "Q4_K pure", "Q4_0", "Q4_K_M"),
    (4, 8): ("Q4_0, ends Q8_0", "Q4_K_M, ends Q8_0", "Q4_0", "Q4_K_M"),
    (8, 8): ("Q8_0",),
    (16, 16): (),
}
PAIRS = (("symmetric 64", "symmetric 32"), ("symmetric 64", "affine 64"), ("symmetric 32", "affine 64"))
WAYS = {"none": "not equalised", "weights": "equalised by weights alone", "calibrated": "equalised by a text"}


def markdown(results: Results) -> str:
    """The whole page."""
    form, equalised = decision.decide(results)
    return Template(PAGE.read_text()).substitute(
        {name: str(value) for name, value in results.about.items()},
        default=f"{form}, {WAYS[equalised]}",
        deciding=f"{decision.DECIDING}",
        ways=WAYS[equalised],
        ratios=_ratios(results, equalised),
        levels="\n\n".join(_level(results, reading, peers.OWN_RUN) for reading in LEVELS),
        weights_only="\n\n".join(_level(results, reading, peers.WEIGHTS_ONLY) for reading in WEIGHTS_ONLY),
        types=_types(results),
        **_facts(results),
    )


def _facts(results: Results) -> dict[str, str]:
    about = results.about
    odd = [f"{model} {name}" for model, names in about["k_quant_fallback"].items() for name in names]
    own = [f"{model}'s own is {value:.2f}" for model, value in about["perplexity"].items()]
    return {
        "fallback": ", ".join(odd) or "none, so nothing fell back to another type",
        "perplexities": ", ".join(own),
        "writer_kl": f"{max(about['writer_kl'].values()):.1g}",
        "machine": ", ".join(f"{name} {value}" for name, value in about["machine"].items()),
    }


def _ratios(results: Results, equalised: str) -> str:
    lines = [
        _ratio(results, reading, (over, equalised), (under, equalised))
        for reading in LEVELS
        for over, under in PAIRS
    ]
    lines += [
        _ratio(results, decision.DECIDING, (str(form), "none"), (str(form), way))
        for form in FORMS
        for way in EQUALISATIONS[1:]
    ]
    return _table(["level", "first / second", *NAMES], lines)


def _ratio(results: Results, reading: Reading, over: tuple[str, str], under: tuple[str, str]) -> list[str]:
    pair = [{"form": form, "equalised": way} for form, way in (over, under)]
    found = {(r.model, r.variant): r for r in decision.ratios(results, pair[0], pair[1], reading)}
    cells = [
        f"{r.value:.2f} ({r.interval[0]:.2f} to {r.interval[1]:.2f})"
        for r in map(found.__getitem__, SUBJECTS)
    ]
    forms = f"{over[0]} / {under[0]}" if over[0] != under[0] else f"{over[0]}, {over[1]} / {under[1]}"
    return [str(reading), forms, *cells]


def _level(results: Results, reading: Reading, run: str) -> str:
    lines = [
        _line(str(form), way, results.find(reading=str(reading), form=str(form), equalised=way))
        for form in FORMS
        for way in EQUALISATIONS
    ]
    lines += [
        _line(f"llama.cpp {name}", "none", results.find(system=peers.SYSTEM, form=name, reading=run))
        for name in BESIDE[reading.body, reading.ends]
    ]
    activations = "int8" if reading.body < 16 and reading.act == "auto" else "f32"
    title = f"**{reading.name}** (activations {activations})"
    return f"{title}\n\n{_table(['form', 'equalised', 'bits per weight', *NAMES], lines)}"


def _line(form: str, equalised: str, rows: list[Row]) -> list[str]:
    by_subject = {(row.model, row.variant): row for row in rows}
    bits = dict.fromkeys(f"{row.bits_per_weight:.2f}" for row in rows)
    cells = [_cell(by_subject[subject]) if subject in by_subject else "–" for subject in SUBJECTS]
    return [form, equalised, " / ".join(bits), *cells]


def _cell(row: Row) -> str:
    low, high = row.kl_interval
    kl = f"{1e3 * row.kl:#.3g}".rstrip(".")
    return f"{kl} ± {50 * (high - low) / row.kl:.0f} % ({row.perplexity:.2f})"


def _types(results: Results) -> str:
    lines = [
        [model, name, ", ".join(f"{count} {kind}" for kind, count in kinds.items())]
        for model, by_name in results.about["llama_cpp_types"].items()
        for name, kinds in by_name.items()
    ]
    return _table(["model", "file", "matrices"], lines)


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])
