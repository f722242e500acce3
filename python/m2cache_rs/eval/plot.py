"""A picture of quality against bytes: KL over the bytes of weights that a token touches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2cache_rs.errors import StoreIOError, UsageError

_FORMATS = (".png", ".svg", ".pdf")
_MIB = 1 << 20
# How far below the least KL that a logarithm shows what has none.
_BELOW = 3.0
_STYLES = {
    "uniform": ("uniform levels", "o", "tab:gray"),
    "oracle": ("exact top-k, if ranking were free", "^", "tab:green"),
    "ours": ("recipes", "s", "tab:blue"),
    "llama.cpp": ("llama.cpp, all parts quantised", "*", "black"),
}


def check(path: Path) -> None:
    """What would stop a picture after an hour of work is said before it. UsageError."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"plot is {path}; a picture's name ends in {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"the picture {path} cannot be written: {path.parent} is no directory")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "a picture needs matplotlib, which is not installed: pip install 'm2cache-rs[plot]'"
        ) from error


def draw(path: Path, title: str, reports: Sequence[dict[str, Any]]) -> None:
    """Writes the picture of reports, each of a `group` (uniform, oracle, ours, llama.cpp) and with a `label`.

    Exact top-k stands where its neurons' bytes alone put it (`free_bytes_per_token`): as far as any selector
    can get. StoreIOError where it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    floor = min((one["mean_kl"] for one in reports if one["mean_kl"] > 0), default=1e-9) / _BELOW
    for group, style in _STYLES.items():
        members = sorted((one for one in reports if one["group"] == group), key=_bytes)
        if members:
            _points(axes, members, style, floor)
    axes.set_yscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel("weights that a new token touches, MiB")
    axes.set_ylabel("KL to dense 16 bits, nats a token (95 % interval)")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.2)
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StoreIOError(f"the picture {path} cannot be written: {error.strerror or error}") from error


def _points(axes: Any, members: Sequence[dict[str, Any]], style: tuple[str, str, str], floor: float) -> None:
    name, marker, colour = style
    x = [_bytes(one) / _MIB for one in members]
    y = [max(one["mean_kl"], floor) for one in members]
    ends = [one["kl_interval"] or (at, at) for at, one in zip(y, members, strict=True)]
    low = [max(0.0, at - max(end, floor)) for at, (end, _) in zip(y, ends, strict=True)]
    high = [max(0.0, end - at) for at, (_, end) in zip(y, ends, strict=True)]
    line = "-" if name == _STYLES["uniform"][0] else ""
    axes.errorbar(x, y, yerr=[low, high], fmt=marker + line, color=colour, label=name, capsize=2)
    for i, (one, here, at) in enumerate(zip(members, x, y, strict=True)):
        exact = "" if one["mean_kl"] > 0 else " (KL 0)"
        # Neighbours of one kind are labelled above and below.
        place = (5, 4 - 11 * (i % 2))
        axes.annotate(one["label"] + exact, (here, at), xytext=place, textcoords="offset points", fontsize=7)


def _bytes(report: dict[str, Any]) -> float:
    return float(report.get("free_bytes_per_token", report["needed_bytes_per_token"]))
