"""`a1 ask`: one question, seen live."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated

import typer

from a1agent.agent import A1
from a1agent.cli.calls import Call, Loop, make_agent
from a1agent.cli.console import at_terminal, console, counted, fail, narrow, one_line, piped, shown, warn
from a1agent.cli.live import LiveView
from a1agent.cli.progress import ending
from a1agent.cli.report import print_result, print_stats, stats_line
from a1agent.cli.settings import Settings
from a1agent.errors import InvalidQuestion, SolveError, UsageError
from a1agent.events import ChainFinished, Event
from a1agent.jsonlines import event_json, result_json
from a1agent.prompts import ask_for_box
from a1agent.stats import RejectionStats
from a1agent.types import Message, Question, Result

__all__ = ["ask", "make_question"]

_NO_ANSWER = 3
_INTERRUPTED = 130


def ask(
    settings: Settings,
    question: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="what to ask; - or nothing: read from stdin")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="a system message before the question")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="ask as it stands, without asking for a boxed answer")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")] = False,
    events: Annotated[bool, typer.Option("--events", help="print every event as a JSON line")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print the answer only")] = False,
) -> int:
    """Ask one question, and see the chains live.

    Exit codes: 0 answered, 1 failed, 2 wrong usage, 3 no chain stated an answer, 130 interrupted.
    """
    if as_json + events + quiet > 1:
        raise UsageError("--json, --events and --quiet exclude each other", "choose one")
    asked = make_question(_question_text(question or []), system=system, raw=raw)
    agent = make_agent(settings)
    call = Call(agent, lambda event: watcher.watch(event))
    watcher = _watcher(agent, as_json=as_json, events=events, quiet=quiet)
    try:
        with Loop() as loop, watcher.view or nullcontext():
            result = loop.run(_answer(agent, call, asked))
    except KeyboardInterrupt:
        _interrupted(call.stats if call.opened else None)
        return _INTERRUPTED
    except SolveError as error:
        if error.stats is not None and not quiet:
            console(stderr=True).print(stats_line(error.stats), soft_wrap=True)
        raise
    watcher.show(result)
    return 0 if result.answer is not None else _NO_ANSWER


def _question_text(words: list[str]) -> str:
    if words and words != ["-"]:
        return " ".join(words)
    if not words and at_terminal():
        raise InvalidQuestion("there is no question", 'for example: a1 ask "What is 47 * 28 + 783?"')
    return piped(lambda stdin: stdin.read()) or ""


def make_question(text: str, *, system: str | None = None, raw: bool = False) -> Question:
    """The question as it is asked. Raises `InvalidQuestion` when it is empty, or was read in a wrong encoding."""
    _check_read(f"{system or ''}{text}")
    user = Message(role="user", content=text)
    messages = (user,) if system is None else (Message(role="system", content=system), user)
    question = Question(messages=messages)
    return question if raw else ask_for_box(question)


def _check_read(text: str) -> None:
    """What came by a pipe is checked there: bytes that are no text come from the command line only."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidQuestion(
            f"the command line holds what is no text: {text[error.start]!r}",
            f"it was read as {sys.getfilesystemencoding()}; write it as UTF-8, in a UTF-8 locale (LC_ALL=C.UTF-8)",
        ) from None


async def _answer(agent: A1, call: Call, question: Question) -> Result:
    """The result. The models load first: until then there is nothing to free."""
    await agent.load()
    try:
        return await call.answer(question)
    finally:
        await agent.aclose()


@dataclass(slots=True)
class _Watcher:
    """How a call is shown: while it runs, and its result."""

    watch: Callable[[Event], None]
    show: Callable[[Result], None]
    view: LiveView | None = None


def _watcher(agent: A1, *, as_json: bool, events: bool, quiet: bool) -> _Watcher:
    if as_json:
        return _Watcher(_ignore, lambda result: print(result_json(result, ascii_only=narrow())))
    if events:
        return _Watcher(lambda event: print(event_json(event, ascii_only=narrow()), flush=True), _ignore)
    if quiet:
        return _Watcher(_ignore, lambda result: print(shown(result.text if result.answer is None else result.answer)))
    out = console()
    if out.is_terminal and not out.is_dumb_terminal:
        view = LiveView(out, one_line(str(agent.pair)), agent.options.turns)
        return _Watcher(view.add, lambda result: print_result(out, result), view)
    return _Watcher(_chain_line, _print_plainly)


def _ignore(_: object) -> None:
    pass


def _chain_line(event: Event) -> None:
    if isinstance(event, ChainFinished):
        turns = counted(len(event.result.turns), "turn")
        print(f"chain {event.chain + 1}: {one_line(ending(event.result))} ({turns})", file=sys.stderr, flush=True)


def _print_plainly(result: Result) -> None:
    """Reasoning, then the answer as the last line, to stdout; the rest to stderr."""
    print(shown(result.reasoning))
    if result.answer is None:
        warn("no chain stated an answer")
    else:
        print(f"\n{one_line(result.answer)}")
    sys.stdout.flush()
    for notice in result.notices:
        print(f"note: {one_line(notice)}", file=sys.stderr)
    print(stats_line(result.stats, result), file=sys.stderr)


def _interrupted(stats: RejectionStats | None) -> None:
    out = console(stderr=True)
    if stats is None:
        fail(UsageError("interrupted before the models were loaded"))
        return
    out.print("interrupted; so far:")
    print_stats(out, stats)
