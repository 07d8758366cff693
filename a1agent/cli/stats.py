"""`a1 stats`: what the calibration store holds, and how its scores drift."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from a1agent.cli.console import console, counted, glyphs, print_table
from a1agent.cli.settings import read_settings
from a1agent.errors import CalibrationError, MissingExtra, UsageError

if TYPE_CHECKING:
    from a1agent.conformal.store import StoreEntry

__all__ = ["stats"]

_BARS = {True: "▁▂▃▄▅▆▇█", False: "_.-=+*#@"}
_MOST_DAYS = 40
_DIGITS = 10


def stats(
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="the store's file (default: the user's data folder)")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="draw the drift into this image file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show what the calibration store holds, and its drift.

    Per model pair: how many scores, how new, and how their mean moves from day to day.
    """
    settings = read_settings({"calibration": calibration})
    path = settings.store
    if path is None:
        raise UsageError("calibration is none: there is no store", "give one with --calibration")
    if not path.exists() and settings.calibration != "default":
        raise UsageError(f"there is no file {path}", "a store is made by the first call that uses it")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name the file of a store")
    entries = _entries(path)
    if plot:
        _plot(entries, plot)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "entries": [_as_dict(entry) for entry in entries]}))
    else:
        _print(console(), path, entries)
    return 0


def _entries(path: Path) -> list[StoreEntry]:
    from a1agent.conformal.store import summary_of

    try:
        return summary_of(path) if path.exists() else []
    except ValueError as error:
        hint = "name the file of a store; a damaged one is moved aside by the next call that uses it"
        raise CalibrationError(str(error), hint) from None


def _as_dict(entry: StoreEntry) -> dict[str, object]:
    return {
        **dataclasses.asdict(entry.key),
        "embedded": _is_embedded(entry),
        "scores": entry.scores,
        "by_turn_bucket": entry.by_turn_bucket,
        "newest": entry.newest.isoformat(),
        "periods": [{"day": p.day.isoformat(), "scores": p.scores, "mean_score": p.mean_score} for p in entry.periods],
    }


def _is_embedded(entry: StoreEntry) -> bool:
    from a1agent.embedded import shipped

    return bool(shipped.calibration(entry.key))


def _print(out: Console, path: Path, entries: list[StoreEntry]) -> None:
    total = sum(entry.scores for entry in entries)
    out.print(f"{path}: {counted(total, 'score')} of {counted(len(entries), 'calibration')}", soft_wrap=True)
    for entry in entries:
        out.print()
        print_table(out, _table(entry, unicode=not glyphs(out.encoding).ascii))


def _table(entry: StoreEntry, *, unicode: bool) -> Table:
    key = entry.key
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    pair = "the embedded pair" if _is_embedded(entry) else f"draft {key.draft[:_DIGITS]}, target {key.target[:_DIGITS]}"
    buckets = ", ".join(f"{bucket}: {count}" for bucket, count in sorted(entry.by_turn_bucket.items()))
    table.add_row("models", Text(pair, "bold"))
    table.add_row("scores", f"{entry.scores} of {key.score}, newest {entry.newest:%Y-%m-%d %H:%M} UTC")
    table.add_row("turn buckets", buckets)
    table.add_row("steps", f"{key.min_step_tokens} to {key.step_tokens} tokens; prompt {key.prompt[:_DIGITS]}")
    table.add_row("mean by day", _drift(entry, unicode=unicode))
    return table


def _drift(entry: StoreEntry, *, unicode: bool) -> str:
    periods = entry.periods[-_MOST_DAYS:]
    first, last = periods[0], periods[-1]
    if len(periods) == 1:
        return f"{last.mean_score:.3f} ({last.day})"
    bars = _BARS[unicode]
    means = [period.mean_score for period in periods]
    low, span = min(means), (max(means) - min(means)) or 1.0
    line = "".join(bars[round((mean - low) / span * (len(bars) - 1))] for mean in means)
    return f"{first.mean_score:.3f} ({first.day}) {line} {last.mean_score:.3f} ({last.day})"


def _plot(entries: list[StoreEntry], path: Path) -> None:
    try:
        from a1agent.conformal.plots import draw_drift
    except ImportError as error:
        raise MissingExtra("a plot", "bench") from error
    named = [(f"{e.key.draft[:_DIGITS]} / {e.key.target[:_DIGITS]}, {e.key.score}", e.periods) for e in entries]
    draw_drift(path, named)
