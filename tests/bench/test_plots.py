"""What a reader can make out in a plot."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from a1agent.bench import plots
from a1agent.bench.figures import figures
from a1agent.bench.ways import Way
from tests.bench.made import bare, records

RATES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
SPREAD = [(0.5 + 0.08 * i, 0.2 + 0.1 * i) for i in range(6)]
CLOSE = [(0.6, 0.4), (0.75, 0.405), (0.92, 0.41), (0.93, 0.412), (0.965, 0.415), (0.967, 0.418)]


@pytest.mark.parametrize("points", [SPREAD, CLOSE, [(1.0, 0.3)] * 6], ids=["spread", "close", "equal"])
def test_the_rates_of_the_accuracy_plot_can_be_read(
    points: list[tuple[float, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(plots, "_save", lambda figure, _, name: drawn.update({name: figure}))
    ways = {Way("target", 0, 8): (0.97, 0.3)} | {Way("a1", r, 8): p for r, p in zip(RATES, points, strict=True)}
    made = [r for way, (right, seconds) in ways.items() for r in records(way, 60, right=right, seconds=seconds)]
    plots.draw_plots(figures(made, [bare()], list(ways), shared=True), tmp_path)
    figure: Figure = drawn["accuracy"]
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]
    boxes = [Text.get_window_extent(label) for label in labels]
    assert [label.get_text() for label in labels] == [f"{rate:g}" for rate in RATES]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    marks = [tuple(at) for line in axes.lines for at in axes.transData.transform(line.get_xydata())]
    assert not any(box.contains(*mark) for box in boxes for mark in marks)
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_one_question_at_one_rate_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(plots, "_save", lambda figure, _, name: drawn.update({name: figure}))
    ways = [Way("target", 0, 8), Way("a1", 0.3, 8)]
    made = [record for way in ways for record in records(way, 1, right=1.0, seconds=1.0)]
    plots.draw_plots(figures(made, [bare()], ways, shared=True), tmp_path)
    for name in ("speedup", "rates"):
        lines = [line for axes in drawn[name].axes for line in axes.lines if len(line.get_xdata()) == 1]
        assert lines and all(line.get_marker() not in ("", "None") for line in lines)
