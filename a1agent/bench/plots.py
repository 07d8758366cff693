# pyright: reportUnknownMemberType=false
"""The plots of a run, each as PNG and SVG. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from a1agent.bench.figures import Figures, WayFigures
from a1agent.errors import MissingExtra

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox
except ImportError as error:
    raise MissingExtra("a plot", "bench") from error

__all__ = ["draw_plots", "figure_files"]

_COLOURS = {"draft": "#888888", "target": "#222222", "a1": "#1f6fb4", "a1-random": "#d98b1f", "a1-sync": "#2c8c5a"}
_MARKS = {"draft": "s", "target": "D", "a1": "o", "a1-random": "x", "a1-sync": "^"}
_MARK_POINTS = 8
_REACHES = (6, 16, 28, 40, 52, 64)  # of labels from their points
_SIDES = ((-1, 1), (1, -1), (1, 1), (-1, -1), (0, 1), (0, -1), (-1, 0), (1, 0))  # a rising curve leaves the first free
_ACROSS = {-1: "right", 0: "center", 1: "left"}
_UP = {-1: "top", 0: "center", 1: "bottom"}
_LEADER = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
_CEILING: dict[str, Any] = {
    "color": "#b03030",
    "linestyle": "--",
    "marker": "_",  # a line of one point is not seen
    "markersize": 14,
    "label": "ceiling from bare rates",
}
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "svg.hashsalt": "a1agent",  # the same figures give the same file
}


def draw_plots(found: Figures, folder: Path) -> dict[str, str]:
    """Draws what there are figures for; returns captions by file name, without the suffix."""
    drawn: dict[str, str] = {}
    for name, (caption, draw) in _PLOTS.items():
        if not found.timed and draw not in _UNTIMED:
            continue
        with matplotlib.rc_context(_STYLE):
            figure = _figure()
            if draw(figure, found):
                _save(figure, folder, name)
                drawn[name] = caption
    return drawn


@contextmanager
def figure_files(folder: Path, name: str) -> Generator[Figure]:
    """A figure to draw on, in the style of a run's plots; saved as PNG and SVG in the end."""
    with matplotlib.rc_context(_STYLE):
        figure = _figure()
        yield figure
        _save(figure, folder, name)


def _figure() -> Figure:
    return Figure(figsize=(7.5, 4.2), layout="constrained")  # no pyplot: nothing global, no display needed


def _save(figure: Figure, folder: Path, name: str) -> None:
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, metadata=_METADATA[suffix])


_METADATA: dict[str, dict[str, str | None]] = {"png": {}, "svg": {"Date": None}}


def _by_mode(found: Figures, modes: tuple[str, ...]) -> list[tuple[str, list[WayFigures]]]:
    return [(mode, ways) for mode in modes if (ways := found.of(mode))]


def _line(axes: Axes, mode: str, x: list[float], y: list[float], line: str = "-") -> None:
    axes.plot(x, y, marker=_MARKS[mode], linestyle=line, color=_COLOURS[mode], label=mode, markersize=6)


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize="small")


def _label(figure: Figure, axes: Axes, labels: list[tuple[str, tuple[float, float]]]) -> None:
    """Writes a label beside each point. Comes last: it goes by where things stand on the page."""
    figure.draw_without_rendering()
    marks = [point for line in axes.lines for point in axes.transData.transform(line.get_xydata())]
    size = _MARK_POINTS * figure.dpi / 72
    taken = [Bbox.from_bounds(x - size / 2, y - size / 2, size, size) for x, y in marks]
    for text, point in labels:
        taken.append(_beside(axes, text, point, taken).get_window_extent())


def _beside(axes: Axes, text: str, point: tuple[float, float], taken: list[Bbox]) -> Text:
    """The text at the nearest place within the axes that covers nothing of `taken`; a line leads to it from further."""

    def note(reach: int, across: int, up: int) -> Text:
        at = (across * reach, up * reach)
        align: dict[str, Any] = {"ha": _ACROSS[across], "va": _UP[up]}
        return axes.annotate(text, point, at, textcoords="offset points", fontsize="small", **align)

    for reach, side in product(_REACHES, _SIDES):
        tried = note(reach, *side)
        box = tried.get_window_extent().padded(1)
        inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
        if inside and not box.count_overlaps(taken):
            if reach > _REACHES[0]:
                end = (side[0] * reach, side[1] * reach)
                axes.annotate("", point, end, textcoords="offset points", arrowprops=_LEADER)
            return tried
        tried.remove()
    return note(_REACHES[0], *_SIDES[0])


def _accuracy(figure: Figure, found: Figures) -> bool:
    axes = figure.subplots()
    for mode, ways in _by_mode(found, ("draft", "target", "a1", "a1-random", "a1-sync")):
        seconds = [f.seconds for f in ways if f.seconds is not None]
        x, y = [s.value for s in seconds], [f.vote.value for f in ways]
        axes.errorbar(
            x,
            y,
            xerr=[[s.value - s.low for s in seconds], [s.high - s.value for s in seconds]],
            yerr=[[f.vote.value - f.vote.low for f in ways], [f.vote.high - f.vote.value for f in ways]],
            fmt="none",
            ecolor=_COLOURS[mode],
            alpha=0.35,
        )
        _line(axes, mode, x, y, line="-" if mode == "a1" else "none")
    axes.set(xlabel="seconds a question", ylabel="share of questions right", xlim=(0, None))
    axes.margins(y=0.08)
    _legend_beside(axes)
    points = [(f"{f.way.rate:g}", (f.seconds.value, f.vote.value)) for f in found.of("a1") if f.seconds is not None]
    _label(figure, axes, points)
    return True


def _speedup(figure: Figure, found: Figures) -> bool:
    if all(f.speedup is None for f in found.of("a1")):
        return False
    axes = figure.subplots()
    for mode, ways in _by_mode(found, ("a1", "a1-sync")):
        known = [(f.way.rate, f.speedup) for f in ways if f.speedup is not None]
        if known:
            _line(axes, mode, [rate for rate, _ in known], [s.value for _, s in known])
            x, low, high = ([rate for rate, _ in known], [s.low for _, s in known], [s.high for _, s in known])
            axes.fill_between(x, low, high, color=_COLOURS[mode], alpha=0.15, linewidth=0)
    capped = [(f.way.rate, f.ceiling) for f in found.of("a1") if f.ceiling is not None]
    if capped:
        axes.plot(*zip(*capped, strict=True), **_CEILING)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="rejection rate", ylabel="speed-up over the target alone", ylim=(0, None))
    axes.legend()
    return True


def _rates(figure: Figure, found: Figures) -> bool:
    ways = [f for f in found.of("a1") if f.observed_rate is not None]
    if not ways:
        return False
    by_turn, by_question = figure.subplots(1, 2, sharey=True)
    for index, f in enumerate(ways):
        colour = f"C{index}"
        turns = [(t, turn.rejections / turn.verifications) for t, turn in enumerate(f.by_turn, 1) if turn.verifications]
        by_turn.plot(*zip(*turns, strict=True), marker=".", color=colour)
        stats = [r.stats for r in f.records if r.stats is not None and r.stats.observed_rate is not None]
        rates = sorted(s.observed_rate for s in stats if s.observed_rate is not None)
        by_question.plot(
            [(i + 0.5) / len(rates) for i in range(len(rates))],
            rates,
            marker="." if len(rates) == 1 else "",  # a line of one point is not seen
            color=colour,
            label=f"asked {f.way.rate:g}",
        )
        for axes in (by_turn, by_question):
            axes.axhline(f.way.rate, color=colour, linestyle=":", linewidth=1)
    by_turn.set(xlabel="turn", ylabel="observed rejection rate", ylim=(-0.02, 1.02))
    by_question.set(xlabel="questions, from lowest rate to highest", xlim=(0, 1))
    _legend_beside(by_question)
    return True


def _p_values(figure: Figure, found: Figures) -> bool:
    ways = [f for f in found.of("a1") if f.observed_rate is not None]
    if not ways:
        return False
    axes = figure.subplots()
    for index, f in enumerate(ways):
        bins = [sum(r.stats.p_value_histogram[i] for r in f.records if r.stats is not None) for i in range(10)]
        share = [count / max(1, sum(bins)) for count in bins]
        axes.stairs(share, [i / 10 for i in range(11)], color=f"C{index}", label=f"rate {f.way.rate:g}")
    axes.axhline(0.1, color="black", linestyle="--", linewidth=0.8, label="uniform")
    axes.set(xlabel="p-value of a step", ylabel="share of steps", ylim=(0, None))
    _legend_beside(axes)
    return True


def _tokens(figure: Figure, found: Figures) -> bool:
    axes = figure.subplots()
    ways = [f for f in found.ways.values() if f.way.main]
    places = range(len(ways))
    drafted, target = [f.tokens.drafted for f in ways], [f.tokens.target for f in ways]
    axes.barh(places, drafted, height=0.6, color=_COLOURS["a1"], label="written by the draft")
    axes.barh(places, target, left=drafted, height=0.6, color=_COLOURS["target"], label="written by the target")
    below, scored = [place + 0.38 for place in places], [f.tokens.scored for f in ways]
    axes.barh(below, scored, height=0.12, color="#b03030", label="scored by the target")
    axes.set_yticks(list(places), [f.way.name for f in ways])
    axes.invert_yaxis()
    axes.set(xlabel="tokens a question")
    axes.grid(axis="y", visible=False)
    _legend_beside(axes)
    figure.set_size_inches(7.5, max(3.0, 0.8 + 0.3 * len(ways)))
    return True


def _waiting(figure: Figure, found: Figures) -> bool:
    sync = {f.way.rate: f for f in found.of("a1-sync")}
    pairs = [(f, sync[f.way.rate]) for f in found.of("a1") if f.way.rate in sync]
    if not pairs:
        return False
    axes = figure.subplots()
    places = range(len(pairs))
    for index, mode in enumerate(("a1", "a1-sync")):
        waits = [pair[index].waiting_s / pair[index].way.chains for pair in pairs]
        shifted = [place + 0.4 * (index - 0.5) for place in places]
        axes.bar(shifted, waits, width=0.38, color=_COLOURS[mode], label=mode)
    axes.set_xticks(list(places), [f"{f.way.rate:g}" for f, _ in pairs])
    axes.set(xlabel="rejection rate", ylabel="seconds a chain waits, a question")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return True


def _chains(figure: Figure, found: Figures) -> bool:
    ways = {mode: found.of(mode, "chains") for mode in ("target", "a1", "a1-sync")}
    if not any(ways.values()):
        return False
    axes = figure.subplots()
    for mode, grown in ways.items():
        if grown:
            _line(axes, mode, [f.way.chains for f in grown], [f.seconds.value for f in grown if f.seconds is not None])
    axes.set(xlabel="chains", ylabel="seconds a question", ylim=(0, None), xscale="log")
    ticks = sorted({f.way.chains for grown in ways.values() for f in grown})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    return True


def _screening(figure: Figure, found: Figures) -> bool:
    ways = found.of("a1", "scored")
    if not ways:
        return False
    accuracy, speed = figure.subplots(1, 2)
    x = [f.way.verify for f in ways]
    _line(accuracy, "a1", x, [f.vote.value for f in ways])
    accuracy.fill_between(x, [f.vote.low for f in ways], [f.vote.high for f in ways], color=_COLOURS["a1"], alpha=0.15)
    accuracy.set(xlabel="share of steps scored", ylabel="share of questions right", ylim=(0, 1.03))
    timed = [(f.way.verify, f.speedup) for f in ways if f.speedup is not None]
    if timed:
        x = [share for share, _ in timed]
        _line(speed, "a1", x, [s.value for _, s in timed])
        speed.fill_between(x, [s.low for _, s in timed], [s.high for _, s in timed], color=_COLOURS["a1"], alpha=0.15)
    capped = [(f.way.verify, f.ceiling) for f in ways if f.ceiling is not None]
    if capped:
        speed.plot(*zip(*capped, strict=True), **_CEILING)
    speed.set(xlabel="share of steps scored", ylabel="speed-up over the target alone", ylim=(0, None))
    if capped:
        speed.legend()
    return True


_PLOTS: dict[str, tuple[str, Callable[[Figure, Figures], bool]]] = {
    "accuracy": ("Accuracy by the vote against seconds, with 95 % intervals; numbers are rejection rates.", _accuracy),
    "speedup": ("Speed-up over the target alone against the rejection rate, beside its ceiling.", _speedup),
    "rates": ("Observed rejection rate by turn and by question; dotted: the rate asked for.", _rates),
    "p_values": ("P-values of verified steps: uniform where steps are like those of the calibration.", _p_values),
    "tokens": ("Tokens a question, by author.", _tokens),
    "waiting": ("How long a chain waits for a model, and with a1-sync for the other chains at each turn.", _waiting),
    "screening": ("Accuracy by the vote, and speed-up, against the share of steps that the target scores.", _screening),
    "chains": ("Seconds a question against the number of chains.", _chains),
}
_UNTIMED = (_rates, _p_values)
"""What is drawn of questions that some way did not answer, too."""
