"""The live view of a call: one line a chain, and the votes below."""

from __future__ import annotations

import time
from contextlib import ExitStack

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from a1agent.backends.hub import Fetched, following
from a1agent.cli.console import Glyphs, counted, glyphs, one_line
from a1agent.cli.fetching import fetch_text
from a1agent.cli.progress import Cell, ChainRow, Progress, ending
from a1agent.events import Event

__all__ = ["LiveView"]

_CHAIN_WIDTH = 4
_VERDICT_WIDTH = 15
_STYLES: dict[Cell, str] = {
    "accepted": "green",
    "taken_over": "bold magenta",
    "pending": "yellow",
    "unscored": "dim green",
}
_MOST_VOTES = 3
_CHROME_LINES = 5
"""Lines that are no chain: the head, the votes, the legend, and one free line above the prompt."""


class LiveView:
    """Shows a call while it runs; a context manager, fed with `add`. Its last frame stays on the screen."""

    def __init__(self, console: Console, models: str, turns: int) -> None:
        self.progress = Progress()
        self._models = models
        self._turns = turns + 1  # the last in which a chain that ran out of them states its answer
        self._glyphs = glyphs(console.encoding)
        self._started = time.monotonic()
        self._spinner = Spinner("line" if self._glyphs.ascii else "dots", style="cyan")
        self._running = True
        self._live = Live(self, console=console, refresh_per_second=8)
        self._fetched: Fetched | None = None
        self._open = ExitStack()

    def __enter__(self) -> LiveView:
        self._open.enter_context(following(self._fetch))
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._open.close()
        self._live.stop()

    def _fetch(self, fetched: Fetched) -> None:
        self._fetched = None if fetched.done >= fetched.total else fetched

    def add(self, event: Event) -> None:
        """Takes one event in; the next frame shows it."""
        self.progress.add(event)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        yield self._head(width)
        rows = list(self.progress.rows)
        room = max(1, console.height - _CHROME_LINES)
        shown = rows if len(rows) <= room else _most_telling(rows, max(1, room - 1))
        for row in shown:
            yield self._line(row, width)
        if len(shown) < len(rows):
            yield _fit(Text(f"     and {len(rows) - len(shown)} more chains", "dim"), width)
        if rows:
            yield self._votes(width)
            yield self._legend(width)

    def _head(self, width: int) -> Text:
        seconds = time.monotonic() - self._started
        progress = self.progress
        if not progress.opened:
            what = f"loading {self._models}" if self._fetched is None else fetch_text(self._fetched)
        else:
            rate = f", {progress.rejected} taken over" if progress.verified else ""
            done = f"{progress.finished} of {len(progress.rows)} chains finished"
            what = f"{done}, {counted(progress.verified, 'step')} verified{rate}"
        text = Text()
        if self._running:
            frame = self._spinner.render(time.monotonic())
            text.append_text(frame if isinstance(frame, Text) else Text())
            text.append(" ")
        clock = Text(f"  {seconds:.1f} s", "dim")  # that it runs is told also where there is no room for all
        return _fit(_fit(text.append(what), width - len(clock)).append_text(clock), width)

    def _line(self, row: ChainRow, width: int) -> Text:
        cells = min(self._turns, max(5, width // 3))
        text = Text(f"{row.index + 1:>{_CHAIN_WIDTH - 1}} ", "dim")
        text.append_text(_cells(row, cells, self._glyphs))
        text.append("  ")
        text.append_text(_verdict(row, self._glyphs))
        text.append("  ")
        text.append_text(_state(row))
        return _fit(text, width)

    def _votes(self, width: int) -> Text:
        text = Text("votes ", "dim")
        answers = self.progress.answers.copy().most_common(_MOST_VOTES)  # votes come in while this is drawn
        if not answers:
            text.append("none yet", "dim")
        for place, (answer, count) in enumerate(answers):
            name = "no answer" if answer is None else one_line(answer)
            label = Text(name, "bold" if place == 0 and answer is not None else "")
            label.truncate(max(8, width // 6), overflow="ellipsis")
            text.append_text(label)
            text.append(f" {self._glyphs.bar * min(count, 10)}", "cyan")
            text.append(f" {count}   ")
        return _fit(text, width)

    def _legend(self, width: int) -> Text:
        g = self._glyphs
        text = Text("steps ", "dim")
        signs: tuple[tuple[str, Cell, str], ...] = (
            (g.accepted, "accepted", "accepted"),
            (g.taken_over, "taken_over", "taken over"),
            (g.pending, "pending", "waits for its verdict"),
            (g.unscored, "unscored", "unscored"),
        )
        for sign, kind, meaning in signs if self.progress.unscored else signs[:-1]:
            text.append(sign, _STYLES[kind])
            text.append(f" {meaning}   ", "dim")
        return _fit(text, width)


def _fit(text: Text, width: int) -> Text:
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text


def _most_telling(rows: list[ChainRow], count: int) -> list[ChainRow]:
    """The chains to show where not all fit: those that run, then the rest, in their order."""
    running = [row for row in rows if row.result is None][:count]
    rest = [row for row in rows if row.result is not None][: count - len(running)]
    return sorted((*running, *rest), key=lambda row: row.index)


def _cells(row: ChainRow, width: int, signs: Glyphs) -> Text:
    text = Text()
    cells = list(row.cells)
    hidden = len(cells) > width
    for cell in cells[-(width - 1) :] if hidden else cells:
        text.append(getattr(signs, cell), _STYLES[cell])
    if hidden:
        text = Text("<", "dim").append_text(text)
    text.append(signs.free * (width - len(text)), "dim")
    return text


def _verdict(row: ChainRow, signs: Glyphs) -> Text:
    verdict = row.verdict
    if verdict is None:
        return Text(" " * _VERDICT_WIDTH)
    sign = signs.at_most if verdict.rejected else ">"
    if verdict.forced:  # the guarantee decided, whatever the p-value
        return Text(f"p {verdict.p_value:.2f} forced".ljust(_VERDICT_WIDTH), "dim")
    shown = f"p {verdict.p_value:.2f} {sign} {verdict.level:.2f}"
    return Text(shown.ljust(_VERDICT_WIDTH), _STYLES["taken_over" if verdict.rejected else "accepted"])


def _state(row: ChainRow) -> Text:
    if row.result is None:
        return Text(row.doing, "dim")
    style = {"failed": "bold red", "cancelled": "dim"}.get(row.result.end, "bold" if row.result.answer else "yellow")
    return Text(one_line(ending(row.result)), style)
