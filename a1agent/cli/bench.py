"""`a1 bench`: the same questions through every way of answering them, side by side."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from a1agent.calibration import store_path
from a1agent.cli.calls import Loop
from a1agent.cli.console import console, counted, fail, one_line, print_line, warn
from a1agent.cli.settings import Settings
from a1agent.config import Options
from a1agent.errors import A1Error, MissingExtra, UsageError

if TYPE_CHECKING:
    from a1agent.bench.figures import Figures
    from a1agent.bench.ledger import Ledger
    from a1agent.bench.problems import DataSet
    from a1agent.bench.run import Plan
    from a1agent.bench.ways import Way

__all__ = ["bench", "data_of", "progress", "study_options"]

_MODES = "draft,target,a1,a1-random,a1-sync"
_RATES = "0.05,0.1,0.2,0.3,0.5,0.8"
_SETS = "embedded (default), math500, aime24, aime25, amc23, olympiad, gpqa or gsm8k"


def bench(
    settings: Settings,
    data: Annotated[Path | None, typer.Option("--data", help="file of JSON lines with question and answer")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help=f"a data set by name: {_SETS}")] = None,
    modes: Annotated[
        str | None, typer.Option("--modes", help=f"ways to compare, with commas (default: {_MODES})")
    ] = None,
    rates: Annotated[str, typer.Option("--rates", help="rejection rates of the a1 modes, with commas")] = _RATES,
    more_chains: Annotated[
        str | None, typer.Option("--more-chains", help="further numbers of chains, at --rejection-rate; with commas")
    ] = None,
    scored: Annotated[
        str | None, typer.Option("--scored", help="further shares of steps to score, as --verify-rate; with commas")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only so many questions")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave broken lines of --data out")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="folder of the run (default: a new one)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
) -> int:
    """Measure A1 beside each model alone: accuracy, speed and rates.

    Writes report.md, results.jsonl and plots. All chains run to their ends unless --early-stop is given.
    """
    from a1agent.bench.ledger import Ledger
    from a1agent.bench.run import Plan

    options = study_options(settings)
    ways = _ways(options, modes, rates, more_chains, scored)
    if resume and out is None:
        raise UsageError("--resume needs the folder of the run", "give it with --out")
    plan = Plan(
        draft=settings.model("draft"),
        target=settings.model("target"),
        options=options,
        data=data_of(data, dataset, limit=limit, skip_bad=skip_bad, seed=options.seed or 0),
        ways=ways,
        calibration=store_path(settings.calibration),  # the user's own is neither read nor changed
    )
    ledger = Ledger(out or Path(f"bench-{datetime.now():%Y%m%d-%H%M%S}"), plan.identity, resume=resume)
    try:
        shared = _go(plan, ledger)
    except KeyboardInterrupt:
        return _interrupted(plan, ledger)
    try:
        _tell(plan, ledger, shared=shared)
    except OSError as error:
        what = f"report and plots cannot be written: {error}"
        safe = f"all {len(ledger.done)} answers are safe in {ledger.folder}; make room and go on with --resume"
        raise A1Error(what, safe) from error
    return 0


def _ways(options: Options, modes: str | None, rates: str, more_chains: str | None, scored: str | None) -> list[Way]:
    """The ways of the flags. Raises `InvalidOption`."""
    from a1agent.bench.ways import chains_of, modes_of, shares_of, ways_of

    if modes is None and options.verify_rate < 1:
        warn("a1-sync is left out: its ranking scores every step, and --verify-rate is below 1")
        modes = _MODES.removesuffix(",a1-sync")
    return ways_of(
        modes_of(_MODES if modes is None else modes),
        shares_of(rates, "rates"),
        options,
        more_chains=chains_of(more_chains) if more_chains else [],
        scored=shares_of(scored, "scored") if scored else [],
    )


def _interrupted(plan: Plan, ledger: Ledger) -> int:
    """Says how far the run is; returns the exit code."""
    done, total = len(ledger.done), len(plan.ways) * len(plan.data.problems)
    what = f"interrupted; {done} of {total} answers are in {ledger.folder}"
    fail(UsageError(what, f"go on with the same flags, --resume and --out {ledger.folder}"))
    return 130


def study_options(settings: Settings) -> Options:
    """Options for a study of all chains: repeatable, and without an early end unless one was asked for."""
    options = settings.options
    if settings.values["early_stop"].source == "default":
        options = options.replace(early_stop="off")
    return options if options.seed is not None else options.replace(seed=0)


def data_of(
    data: Path | None, dataset: str | None, *, limit: int | None, skip_bad: bool, seed: int, answers: bool = True
) -> DataSet:
    """The data set of the flags; says which lines were left out. Raises `UsageError`, for two sets too."""
    from a1agent.bench.problems import from_file, named

    if data is None:
        return named("embedded" if dataset is None else dataset, limit=limit, seed=seed)
    if dataset is not None:
        raise UsageError(f"--data {data} and --dataset {dataset} are two data sets", "leave one of them out")
    found = from_file(data, limit=limit, skip_bad=skip_bad, answers=answers)
    if found.skipped:
        shown = ", ".join(map(str, found.skipped[:10])) + (", ..." if len(found.skipped) > 10 else "")
        warn(f"left out {counted(len(found.skipped), 'broken line')} of {data}: {shown}")
    return found


@contextlib.contextmanager
def progress(what: str, done: int) -> Generator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal, a line now and then elsewhere; call it with (done, of how many)."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield _lines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(what, total=None, completed=done)
        yield lambda now, total: bar.update(task, completed=now, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    shown = 0

    def tell(done: int, total: int) -> None:
        nonlocal shown
        tenths = done * 10 // total
        if tenths > shown:
            shown = tenths
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return tell


def _go(plan: Plan, ledger: Ledger) -> bool:
    """Runs what is left to run; whether the models share a device."""
    from a1agent.bench.run import Run

    with progress("answers", len(ledger.done)) as told, Loop() as loop:
        run = Run(plan, ledger, told)

        async def all_of_it() -> bool:
            shared = await run.load()
            try:
                await run.go()
            finally:
                await run.aclose()
            return shared

        return loop.run(all_of_it())


def _tell(plan: Plan, ledger: Ledger, *, shared: bool) -> None:
    """Writes report and plots, and prints what to conclude."""
    from a1agent.bench.figures import figures
    from a1agent.bench.machine import command_line, describe, peak_memory
    from a1agent.bench.report import Context, report
    from a1agent.bench.verdict import verdicts

    resamples = plan.options.takeover == "resample"
    found = figures(ledger.records, ledger.rates, plan.ways, shared=shared, resamples=resamples)
    context = Context(
        draft=plan.draft,
        target=plan.target,
        data=plan.data.name,
        asked=len(plan.data.problems),
        options=plan.options,
        command=command_line(),
        machine=describe(),
        date=datetime.now(UTC),
        peak_memory=None if ledger.resumed else peak_memory(),  # of this process only
        plots=_plots(found, ledger.folder),
    )
    path = ledger.folder / "report.md"
    path.write_text(report(found, context), encoding="utf-8")
    out = console()
    for line in verdicts(found):
        print_line(out, one_line(line))
    print(path)


def _plots(found: Figures, folder: Path) -> dict[str, str]:
    try:
        from a1agent.bench.plots import draw_plots
    except MissingExtra as error:
        warn(f"no plots: {error}")
        return {}
    return draw_plots(found, folder)
