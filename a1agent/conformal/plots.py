# pyright: reportUnknownMemberType=false
"""Plots of a replay, and of how scores drift in a store. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from a1agent.conformal.store_tables import StorePeriod

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Plotting needs matplotlib: pip install 'a1agent[bench]'") from error

__all__ = ["draw_drift", "draw_rates"]


def draw_rates(
    path: str | Path,
    *,
    asked_rate: float,
    windows: Sequence[float],
    turns: Sequence[tuple[int, float]],
    questions: Sequence[float],
    titles: tuple[str, str, str],
) -> None:
    """Three panels: rejection rate over windows in time, by turn, and of questions from lowest to highest."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")  # no pyplot: nothing global, no display needed
    over_time, by_turn, by_question = figure.subplots(1, 3, sharey=True)
    over_time.plot(windows, linewidth=0.8)
    over_time.set(xlabel="window of 200 steps, by its first step", ylabel="rejection rate")
    by_turn.bar([turn for turn, _ in turns], [rate for _, rate in turns])
    by_turn.set(xlabel="turn")
    by_turn.xaxis.get_major_locator().set_params(integer=True)
    by_question.plot(sorted(questions), drawstyle="steps-mid")
    by_question.set(xlabel="questions, from lowest rate to highest", ylim=(0, 1))
    for panel, title in zip((over_time, by_turn, by_question), titles, strict=True):
        panel.set_title(title, fontsize="medium")
        panel.axhline(asked_rate, color="black", linestyle="--", linewidth=0.8)
    _save(figure, path)


def draw_drift(path: str | Path, entries: Sequence[tuple[str, Sequence[StorePeriod]]]) -> None:
    """Mean score a day, a line an entry."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for name, periods in entries:
        axes.plot([p.day.isoformat() for p in periods], [p.mean_score for p in periods], marker="o", label=name)
    axes.set(xlabel="day", ylabel="mean score (nats per token)")
    if entries:
        axes.legend(fontsize="small")
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    """Writes a figure to this very file: the suffix gives the format, PNG where there is none."""
    figure.savefig(path, dpi=150, format=Path(path).suffix.removeprefix(".") or "png")
