"""Run a calibrator over a recorded trace, and measure how well it keeps the rejection rate."""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from a1agent.conformal.calibrators import make_calibrator
from a1agent.conformal.selectivity import selectivity
from a1agent.conformal.values import Coverage, Decision, Observed

__all__ = [
    "ReplayReport",
    "ReplayedStep",
    "TraceStep",
    "measure_replay",
    "plot_replay",
    "read_calibration",
    "read_trace",
    "replay_steps",
]

WINDOW_STEPS = 200
MIN_TURN_STEPS = 70
MIN_QUESTION_STEPS = 16

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One recorded step; `perplexity` is exp of its mean negative log-likelihood under the target."""

    question: str
    chain: int
    turn: int
    attempt: int
    perplexity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedStep:
    """A step of the trace and what the calibrator decided about it."""

    step: TraceStep
    score: float
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """How well a calibrator kept the asked rate; None where the trace has nothing to measure it on.

    Deviations are |rate - asked rate| over turns with at least 70 steps, questions with at least 16, and every window
    of 200 consecutive steps.
    """

    steps: int
    overall_rate: float
    mean_turn_deviation: float | None
    max_turn_deviation: float | None
    mean_question_deviation: float | None
    max_question_deviation: float | None
    mean_window_deviation: float | None
    max_window_deviation: float | None
    selectivity: float | None


def read_trace(path: str | Path) -> list[TraceStep]:
    """Steps of a CSV file with the columns `question,chain,turn,attempt,perplexity`, in the order of replay.

    Ordered by question (as numbers where all are), then turn, attempt, chain; other columns are ignored. Raises
    ValueError that names line and column for a missing column, a value that does not fit, and an empty file; OSError
    where the file cannot be read.
    """
    steps = _read(path, ("question", "chain", "turn", "attempt", "perplexity"), _trace_step)
    numbered = all(_is_integer(step.question) for step in steps)

    def place(step: TraceStep) -> tuple[float, str, int, int, int]:
        number = int(step.question) if numbered else 0
        return number, step.question, step.turn, step.attempt, step.chain

    return sorted(steps, key=place)


def read_calibration(path: str | Path) -> list[tuple[int, float]]:
    """(turn, score) pairs of a CSV file with the column `perplexity`; without a column `turn` all count as first turns.

    Errors as in `read_trace`.
    """

    def pair(cell: _Cell) -> tuple[int, float]:
        return (_count(cell, "turn") if cell.has("turn") else 0), math.log(_perplexity(cell))

    return _read(path, ("perplexity",), pair)


def replay_steps(
    trace: Sequence[TraceStep],
    *,
    rejection_rate: float,
    calibrator: str = "adaptive",
    coverage: Coverage = "marginal",
    seed: int = 0,
    calibration: Iterable[tuple[int, float]] | None = None,
) -> list[ReplayedStep]:
    """The decisions of `calibrator` over the trace, in its order, from `calibration` (by default from nothing).

    They change nothing in what was recorded; a question is closed after its last step. Raises ValueError for what
    `make_calibrator` refuses.
    """
    deciding = make_calibrator(
        calibrator, rejection_rate=rejection_rate, coverage=coverage, seed=seed, initial=calibration or ()
    )
    last = {step.question: place for place, step in enumerate(trace)}
    replayed: list[ReplayedStep] = []
    for place, step in enumerate(trace):
        score = math.log(step.perplexity)
        observed = Observed(score=score, question=step.question, chain=step.chain, turn=step.turn, attempt=step.attempt)
        replayed.append(ReplayedStep(step=step, score=score, decision=deciding.decide(observed)))
        if last[step.question] == place:
            deciding.close_question(step.question)
    return replayed


def measure_replay(replayed: Sequence[ReplayedStep], rejection_rate: float) -> ReplayReport:
    """The report on a replay that was asked for `rejection_rate`; raises ValueError if there is no step."""
    if not replayed:
        raise ValueError("the trace has no steps: nothing to replay")
    rejected = np.array([item.decision.rejected for item in replayed], dtype=np.float64)
    turns = _deviations((item.step.turn for item in replayed), rejected, rejection_rate, MIN_TURN_STEPS)
    questions = _deviations((item.step.question for item in replayed), rejected, rejection_rate, MIN_QUESTION_STEPS)
    windows = [abs(float(rate) - rejection_rate) for rate in _window_rates(rejected)]
    return ReplayReport(
        steps=len(replayed),
        overall_rate=float(np.mean(rejected)),
        mean_turn_deviation=_mean(turns),
        max_turn_deviation=max(turns, default=None),
        mean_question_deviation=_mean(questions),
        max_question_deviation=max(questions, default=None),
        mean_window_deviation=_mean(windows),
        max_window_deviation=max(windows, default=None),
        selectivity=selectivity((item.step.question, item.score, item.decision.rejected) for item in replayed),
    )


def plot_replay(
    replayed: Sequence[ReplayedStep], rejection_rate: float, report: ReplayReport, path: str | Path
) -> None:
    """Draw the rate per window, per turn and per question into an image file (the suffix gives the format).

    The largest deviations of `report`, as `measure_replay` gives it, head the panels. Raises ImportError that names the
    extra to install where matplotlib is missing.
    """
    from a1agent.conformal.plots import draw_rates

    rejected = np.array([item.decision.rejected for item in replayed], dtype=np.float64)
    by_turn = _grouped((item.step.turn for item in replayed), rejected)
    by_question = _grouped((item.step.question for item in replayed), rejected)
    draw_rates(
        path,
        asked_rate=rejection_rate,
        windows=_window_rates(rejected).tolist(),
        turns=[(turn, float(np.mean(by_turn[turn]))) for turn in sorted(by_turn)],
        questions=[float(np.mean(values)) for values in by_question.values()],
        titles=(
            _title(report.max_window_deviation),
            _title(report.max_turn_deviation, MIN_TURN_STEPS),
            _title(report.max_question_deviation, MIN_QUESTION_STEPS),
        ),
    )


def _title(deviation: float | None, least: int = 0) -> str:
    """`least`: what has fewer steps is drawn, and not measured."""
    if deviation is None:
        return ""
    return f"largest deviation {deviation:.3f}" + (f" (from {least} steps on)" if least else "")


def _window_rates(rejected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rate of each run of `WINDOW_STEPS` consecutive steps; empty where there are fewer."""
    totals = np.concatenate(([0.0], np.cumsum(rejected)))
    return (totals[WINDOW_STEPS:] - totals[:-WINDOW_STEPS]) / WINDOW_STEPS


Key = TypeVar("Key", int, str)


def _grouped(keys: Iterable[Key], rejected: NDArray[np.float64]) -> dict[Key, list[float]]:
    groups: dict[Key, list[float]] = defaultdict(list)
    for key, value in zip(keys, rejected, strict=True):
        groups[key].append(float(value))
    return groups


def _deviations(keys: Iterable[Key], rejected: NDArray[np.float64], rate: float, least: int) -> list[float]:
    groups = _grouped(keys, rejected).values()
    return [abs(float(np.mean(values)) - rate) for values in groups if len(values) >= least]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


@dataclass(frozen=True, slots=True)
class _Cell:
    """One line of a CSV file, for values and for errors that say where."""

    source: str
    line: int
    row: dict[str, str | None]

    def has(self, column: str) -> bool:
        return column in self.row

    def text(self, column: str) -> str:
        value = (self.row[column] or "").strip()
        if not value:
            raise self.error(column, "is empty")
        return value

    def error(self, column: str, problem: str) -> ValueError:
        return ValueError(f"{self.source}, line {self.line}, column {column!r}: {problem}")


Row = TypeVar("Row")


def _read(path: str | Path, columns: Sequence[str], parse: Callable[[_Cell], Row]) -> list[Row]:
    source = str(path)
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            header = [name.strip() for name in reader.fieldnames or ()]
            _check_header(source, header, columns)
            reader.fieldnames = header
            rows = [parse(_Cell(source, reader.line_num, row)) for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{source}, line {reader.line_num + 1}: not a CSV text file ({error})") from error
    if not rows:
        raise ValueError(f"{source}: the file has a header but no steps")
    return rows


def _check_header(source: str, header: Sequence[str], columns: Sequence[str]) -> None:
    if not header:
        raise ValueError(f"{source}: the file is empty; it needs the columns {', '.join(columns)}")
    missing = [column for column in columns if column not in header]
    if missing:
        named = ", ".join(repr(column) for column in missing)
        raise ValueError(f"{source}, line 1: missing column {named}; the columns are {', '.join(header)}")


def _trace_step(cell: _Cell) -> TraceStep:
    return TraceStep(
        question=cell.text("question"),
        chain=_count(cell, "chain"),
        turn=_count(cell, "turn"),
        attempt=_count(cell, "attempt"),
        perplexity=_perplexity(cell),
    )


def _count(cell: _Cell, column: str) -> int:
    value = _number(cell, column, int, "a whole number")
    if value < 0:
        raise cell.error(column, f"{value} is negative")
    return value


def _perplexity(cell: _Cell) -> float:
    """nan and inf are read as they stand: they replay as takeovers."""
    value = _number(cell, "perplexity", float, "a number")
    if value <= 0.0:
        raise cell.error("perplexity", f"{value} is not positive")
    return value


def _number(cell: _Cell, column: str, kind: Callable[[str], Number], named: str) -> Number:
    text = cell.text(column)
    try:
        return kind(text)
    except ValueError:
        raise cell.error(column, f"{text!r} is not {named}") from None


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
