"""What benchmarks print, and the plots they leave when they are given a folder for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["head", "plot", "row"]


def row(cells: Sequence[object]) -> None:
    """A line of a table, seen at once."""
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def head(*titles: str) -> None:
    """A blank line and the titles of a table."""
    print()
    row(titles)
    row(["---"] * len(titles))


def plot(folder: Path | None, name: str, panels: int, draw: Callable[[Sequence[Any]], None]) -> None:
    """A plot of so many panels side by side, drawn by `draw`, as PNG and SVG; without a folder nothing is drawn."""
    if folder is None:
        return
    from a1agent.bench.plots import figure_files

    folder.mkdir(parents=True, exist_ok=True)
    with figure_files(folder, name) as figure:
        draw(figure.subplots(1, panels, squeeze=False)[0])
