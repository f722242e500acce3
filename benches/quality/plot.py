"""Draws docs/quality.png from the figures of the last run of format_table.py. Needs matplotlib.

python benches/quality/plot.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tale-silu"
OURS = ("4 bit", "4 bit, ends 8", "8 bit")
THEIRS = ("Q4_0", "Q4_K_M", "Q8_0")


def main() -> None:
    """One panel a variant of the model: KL against bits per weight, ours as a line, llama.cpp's as points."""
    rows = json.loads((ROOT / "benches/results/format-table.json").read_text())["rows"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for panel, (variant, title) in zip(
        panels, [("plain", "as trained"), ("injected", "outliers injected")], strict=True
    ):
        draw(panel, [row for row in rows if (row["model"], row["variant"]) == (MODEL, variant)])
        panel.set(title=f"{MODEL}, {title}", xlabel="bits per weight", yscale="log")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean KL to float32 (nats a token)")
    panels[1].legend(fontsize=8)
    figure.suptitle("Held-out text, toy model: the mechanism, not the quality at 7B", fontsize=9)
    figure.savefig(ROOT / "docs/quality.png", dpi=110)


def draw(panel: Axes, rows: list[dict[str, Any]]) -> None:
    """The curves and points of one panel."""
    for form, equalised, style in [("affine 64", "weights", "o-"), ("affine 64", "none", "o:")]:
        chosen = [
            r for r in rows if (r["form"], r["equalised"]) == (form, equalised) and r["reading"] in OURS
        ]
        chosen.sort(key=lambda row: row["bits_per_weight"])
        label = f"one m2cache store, {'default' if equalised == 'weights' else 'not equalised'}"
        panel.plot([r["bits_per_weight"] for r in chosen], [r["kl"] for r in chosen], style, label=label)
    for row in rows:
        if row["system"] == "llama.cpp" and row["form"] in THEIRS and row["reading"] == "own run":
            panel.plot(row["bits_per_weight"], row["kl"], "k^")
            panel.annotate(
                row["form"],
                (row["bits_per_weight"], row["kl"]),
                (5, 4),
                textcoords="offset points",
                fontsize=8,
            )
    panel.plot([], [], "k^", label="llama.cpp, one file each")


if __name__ == "__main__":
    main()
