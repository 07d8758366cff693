# pyright: reportUnknownMemberType=false
"""The plot of `a1 stats`. Needs matplotlib, which only this module imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from a1agent.conformal.store import StorePeriod
from a1agent.errors import MissingExtra

try:
    from matplotlib.figure import Figure

    from a1agent.conformal.plots import save
except ImportError as error:
    raise MissingExtra("a plot", "bench") from error

__all__ = ["draw_drift"]


def draw_drift(path: Path, entries: Sequence[tuple[str, Sequence[StorePeriod]]]) -> None:
    """Mean score a day, a line an entry; the suffix of `path` gives the format."""
    figure = Figure(figsize=(9, 4), layout="constrained")  # no pyplot: nothing global, no display needed
    axes = figure.subplots()
    for name, periods in entries:
        axes.plot([p.day.isoformat() for p in periods], [p.mean_score for p in periods], marker="o", label=name)
    axes.set(xlabel="day", ylabel="mean score (nats per token)")
    if entries:
        axes.legend(fontsize="small")
    save(figure, path)
