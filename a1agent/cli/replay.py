"""`a1 replay`: how well a calibrator keeps a rate over a recorded trace."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from a1agent.cli.console import console, print_table
from a1agent.config import CalibratorName, Coverage, help_of
from a1agent.errors import InvalidOption, MissingExtra, UsageError, unreadable

if TYPE_CHECKING:
    from a1agent.conformal.replay import ReplayReport

__all__ = ["replay"]

T = TypeVar("T")


def replay(
    trace: Annotated[Path, typer.Argument(help="CSV file: question,chain,turn,attempt,perplexity")],
    rejection_rate: Annotated[float, typer.Option("--rejection-rate", help="the rate to keep, 0 to 1")] = 0.3,
    calibrator: Annotated[CalibratorName, typer.Option("--calibrator", help="the calibrator to run")] = "adaptive",
    coverage: Annotated[Coverage, typer.Option("--coverage", help=help_of("coverage"))] = "marginal",
    seed: Annotated[int, typer.Option("--seed", help="of the smoothing")] = 0,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="CSV file with a column perplexity to begin from")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="draw the rates into this image file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Measure how well a calibrator keeps a rate over a trace."""
    from a1agent.conformal.replay import measure_replay, plot_replay, read_calibration, read_trace, replay_steps

    if not 0 <= rejection_rate <= 1:
        raise InvalidOption(f"--rejection-rate is {rejection_rate}", "it is a share between 0 and 1")
    if coverage == "conditional" and calibrator != "adaptive":
        raise InvalidOption(
            f"--coverage is conditional and --calibrator {calibrator}", "only adaptive has a level per question"
        )
    steps = replay_steps(
        _read(read_trace, trace),
        rejection_rate=rejection_rate,
        calibrator=calibrator,
        coverage=coverage,
        seed=seed,
        calibration=_read(read_calibration, calibration) if calibration else None,
    )
    report = measure_replay(steps, rejection_rate)
    if plot:
        _draw(lambda: plot_replay(steps, rejection_rate, report, plot))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report)))
    else:
        print_table(console(), _table(report, rejection_rate))
    return 0


def _read(read: Callable[[Path], T], path: Path) -> T:
    """What a file holds. Raises `UsageError`."""
    try:
        return read(path)
    except OSError as error:
        raise UsageError(unreadable(path, error), "name a CSV file") from None
    except ValueError as error:  # names file, line and column
        raise UsageError(str(error)) from None


def _draw(plot: Callable[[], None]) -> None:
    try:
        plot()
    except ImportError as error:
        raise MissingExtra("a plot", "bench") from error


def _table(report: ReplayReport, asked: float) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    meaning = {
        "steps": "verified steps in the trace",
        "overall_rate": f"asked for {asked:g}",
        "mean_turn_deviation": "turns of at least 70 steps",
        "max_turn_deviation": "the worst of them",
        "mean_question_deviation": "questions of at least 16 steps",
        "max_question_deviation": "the worst of them",
        "mean_window_deviation": "every 200 steps in a row",
        "max_window_deviation": "the worst of them",
        "selectivity": "1: decisions follow scores only, 0.5: they ignore them",
    }
    for name, value in dataclasses.asdict(report).items():
        shown = "none" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown, meaning.get(name, ""))
    return table
