"""`a1 calibrate`: measure a model pair on questions, and keep the scores for calls to come."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from a1agent.agent import A1
from a1agent.calibration import store_path
from a1agent.cli.bench import data_of, progress, study_options
from a1agent.cli.calls import Loop, make_agent
from a1agent.cli.console import counted, one_line, warn
from a1agent.cli.settings import Settings
from a1agent.conformal.store import WINDOW, CalibrationStore, scores_since
from a1agent.errors import CalibrationError, ContextOverflow, SolveError, UsageError
from a1agent.prompts import ask_for_box
from a1agent.types import Question

if TYPE_CHECKING:
    from a1agent.bench.problems import DataSet

__all__ = ["calibrate"]


def calibrate(
    settings: Settings,
    data: Annotated[Path | None, typer.Option("--data", help="file of JSON lines with question")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="a data set by name, as for a1 bench (default: embedded)")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only so many questions")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave broken lines of --data out")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="ask as it stands, without asking for a boxed answer")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> int:
    """Measure a model pair on questions and store its calibration.

    Calls with the same models, score, step length and kind of prompt begin from it. Ask what you will ask later: scores
    of other kinds of questions are a poor guide. An interrupt keeps what was measured until then.
    """
    store = settings.store
    if store is None:
        raise UsageError("calibration is none: there is nowhere to keep it", "give a store with --calibration")
    options = study_options(settings)
    if options.calibrator == "static":
        raise UsageError("the static calibrator adds nothing to a store", "leave --calibrator out")
    found = data_of(data, dataset, limit=limit, skip_bad=skip_bad, seed=options.seed or 0, answers=False)
    agent = make_agent(settings, early_stop=options.early_stop, seed=options.seed)
    _check_room(settings)
    began = time.time()
    with progress("questions", 0) as told, Loop() as loop:
        told(0, len(found.problems))
        report = loop.run(_measure(agent, found, raw, told))
    _check_stored(report["scores"], store, began)
    report["calibration"] = settings.calibration
    flag = shlex.join(["--calibration", str(store)]) if settings.values["calibration"].source == "flag" else ""
    print(json.dumps(report) if as_json else _sentence(report, f"a1 stats {flag}".strip()))
    return 0 if report["scores"] else 1


def _check_room(settings: Settings) -> None:
    """Raises `CalibrationError` before anything is measured where the store cannot be written at all, or is none."""
    with CalibrationStore(store_path(settings.calibration)) as store:
        if store.path is None:
            raise CalibrationError(f"nothing can be kept in {settings.store}", "name another file with --calibration")


def _check_stored(scores: int, store: Path, began: float) -> None:
    """Raises `CalibrationError` where scores that were measured since `began` are not in the store."""
    try:
        stored = scores_since(store, began)
    except ValueError:
        stored = 0
    if stored < min(scores, WINDOW):  # of each turn bucket a store keeps the newest only
        raise CalibrationError(
            f"{scores - stored} of {scores} scores could not be kept in {store}",
            "make room there, or name another file with --calibration, and measure again",
        )


async def _measure(agent: A1, data: DataSet, raw: bool, told: Any) -> dict[str, Any]:
    """Asks every question; how many steps were scored, and at what rate they were rejected."""
    scores = rejections = failed = 0
    await agent.load()
    try:
        for done, problem in enumerate(data.problems, start=1):
            question = Question.of(problem.question)
            try:
                stats = (await agent.asolve(question if raw else ask_for_box(question))).stats
            except (SolveError, ContextOverflow) as error:
                warn(f"question {done} has no answer: {one_line(str(error))}")
                failed += 1
            else:
                scores += stats.verifications - stats.non_finite_scores
                rejections += stats.rejections
            told(done, len(data.problems))
    finally:
        await agent.aclose()
    return {"questions": len(data.problems) - failed, "failed": failed, "scores": scores, "rejections": rejections}


def _sentence(report: dict[str, Any], shower: str) -> str:
    where = report["calibration"]
    place = "the user's store" if where == "default" else where
    return (
        f"{counted(report['scores'], 'score')} of {counted(report['questions'], 'question')} are in {place}; "
        f"{shower} shows it"
    )
