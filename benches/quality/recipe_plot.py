"""The picture: KL against the bytes of weights that a new token touches, a panel a subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from recipe_curves import CURVES, least, members, straight
from recipe_rows import PEER, Line, Table

_MIB = 1 << 20
_COLUMNS = 2


def draw(table: Table, path: Path) -> None:
    """Writes the picture of all subjects."""
    names = table.subjects
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    size = (4.8 * columns + 2.4, 3.8 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for panel, name in zip(panels.flat, names, strict=False):
        _panel(panel, name, table.find(subject=name))
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    _legend(figure, list(panels.flat))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One for all panels."""
    pairs = [zip(*panel.get_legend_handles_labels(), strict=True) for panel in panels]
    handles = {label: handle for pair in pairs for handle, label in pair}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)


def _panel(panel: Axes, name: str, lines: Sequence[Line]) -> None:
    floor = least(lines)
    x, y = straight(members(lines, CURVES[0]))
    panel.plot(x / _MIB, y.clip(floor), color="tab:gray", lw=1, label="straight lines between them")
    for curve in CURVES:
        points = [(one.shown[0] / _MIB, max(one.kl, floor)) for one in members(lines, curve)]
        if points:
            at = zip(*points, strict=True)
            panel.plot(*at, curve.style, color=curve.colour, label=curve.label, ms=5, lw=1)
    for one in (line for line in lines if line.group == PEER):
        point = (one.bytes / _MIB, one.kl)
        panel.plot(*point, "k*", markersize=8, label="llama.cpp, all parts quantised")
        panel.annotate(one.label, point, (5, 3), textcoords="offset points", fontsize=7)
    panel.set(title=name, xlabel="weights that a new token touches, MiB", yscale="log")
    panel.set_ylabel("KL to dense 16 bits, nats a token")
    panel.grid(which="both", alpha=0.2)
