"""`a1 chat`: a conversation."""

from __future__ import annotations

import contextlib
import importlib
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.status import Status
from rich.text import Text

from a1agent.agent import A1
from a1agent.backends.hub import following
from a1agent.cli.ask import make_question
from a1agent.cli.calls import Call, Loop, make_agent
from a1agent.cli.console import at_terminal, console, counted, fail, one_line, piped, printable, shown
from a1agent.cli.fetching import fetch_text
from a1agent.cli.progress import Progress
from a1agent.cli.report import print_stats, stats_line
from a1agent.cli.settings import Settings
from a1agent.errors import A1Error, ContextOverflow, InvalidOption, InvalidQuestion, nearest
from a1agent.events import Event
from a1agent.stats import RejectionStats
from a1agent.types import Message, Question, Result

__all__ = ["chat"]

_END = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"

_COMMANDS = {
    "/stats": "statistics of the last answer",
    "/reset": "forget the conversation",
    "/quit": f"end (so does {_END})",
    "/help": "this list",
}


def chat(
    settings: Settings,
    system: Annotated[str | None, typer.Option("--system", help="a system message before the conversation")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="ask as it stands, without asking for a boxed answer")] = False,
) -> int:
    """Talk: every line is a question.

    The conversation so far goes with it. /help lists commands, /quit or the end of input ends.
    """
    agent = make_agent(settings)
    with Loop() as loop:
        talk = _Talk(agent, loop, system, raw)
        try:
            with talk.status("loading the models") as status, talk.fetching(status):
                loop.run(agent.load())
            code = talk.run()
        except Exception:  # an interrupt ends at once instead
            loop.run(agent.aclose())
            raise
        loop.run(agent.aclose())
    return code


@dataclass(slots=True)
class _Talk:
    """A conversation with an agent."""

    agent: A1
    loop: Loop
    system: str | None
    raw: bool
    history: tuple[Message, ...] = ()
    last: tuple[RejectionStats, Result | None] | None = None
    failed: bool = False
    interactive: bool = field(default_factory=lambda: at_terminal() and sys.stdout.isatty())

    def run(self) -> int:
        """Answers until the input ends; 1 when the last question of a pipe failed."""
        if self.interactive:
            with contextlib.suppress(ImportError):
                importlib.import_module("readline")  # gives input() a line editor
            print(f"ask, or /help; {_END} ends")
        while (line := self._read()) is not None:
            if line.startswith("/"):
                if line == "/quit":
                    break
                self._obey(line)
            elif line:
                self._ask(line)
        return int(self.failed and not self.interactive)

    def status(self, text: str) -> Status:
        """A line that tells what is going on, on terminals."""
        out = console(stderr=True)
        out.quiet = not (self.interactive and out.is_terminal)
        return Status(Text(text), console=out, spinner="line")

    def fetching(self, status: Status) -> AbstractContextManager[None]:
        """Downloads are told in that line meanwhile, where there is one."""
        if status.console.quiet:
            return contextlib.nullcontext()
        loading = status.status
        return following(lambda f: status.update(loading if f.done >= f.total else Text(fetch_text(f))))

    def _read(self) -> str | None:
        """The next line; None at the end of input."""
        if not self.interactive:
            return piped(lambda stdin: stdin.readline())
        try:
            return input("> ").strip()
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print(f"\n/quit or {_END} ends")
            return ""

    def _obey(self, line: str) -> None:
        if line == "/reset":
            self.history = ()
        elif line == "/stats":
            self._print_stats()
        elif line == "/help":
            for name, text in _COMMANDS.items():
                print(f"{name:8} {text}")
        else:
            fail(InvalidOption(f"there is no command {line.split()[0]!r}", nearest(line.split()[0], _COMMANDS)))

    def _print_stats(self) -> None:
        if self.last is None:
            print("nothing was asked yet")
        elif self.interactive:
            print_stats(console(), *self.last)
        else:
            print(stats_line(*self.last))

    def _ask(self, text: str) -> None:
        try:
            question = self._question(text)
        except InvalidQuestion as error:
            self.failed = True
            return fail(error)
        self.failed = False
        progress = Progress()
        with self.status("reading the question") as status:

            def watch(event: Event) -> None:
                progress.add(event)
                status.update(Text(_doing(progress)))

            call = Call(self.agent, watch)
            try:
                result = self.loop.run(call.answer(question))
            except KeyboardInterrupt:
                self.last, result = (call.stats, None), None
            except A1Error as error:
                self.failed, result = True, None
                status.stop()
                fail(_with_reset(error) if self.history else error)
        if result is None:
            return self._stopped()
        self.history = (*question.messages, Message(role="assistant", content=result.text))
        self.last = (result.stats, result)
        return self._show(result)

    def _question(self, text: str) -> Question:
        """The conversation so far, and the text."""
        asked = make_question(text, system=self.system, raw=self.raw)
        return Question(messages=(*self.history, *(asked.messages[-1:] if self.history else asked.messages)))

    def _stopped(self) -> None:
        if self.failed:
            return
        if not self.interactive:
            if self.last is not None:
                print(f"interrupted; so far: {stats_line(*self.last)}", file=sys.stderr)
            raise KeyboardInterrupt
        print("stopped; /stats tells what was done")

    def _show(self, result: Result) -> None:
        if not self.interactive:
            print(shown(result.text), end="\n\n", flush=True)
            for notice in result.notices:
                print(f"note: {one_line(notice)}", file=sys.stderr)
            return
        out = console()
        out.print(Text(printable(result.text)))
        if result.answer is not None:
            out.print(Text.assemble(("answer ", "dim"), (one_line(result.answer), "bold green")))
        for notice in result.notices:
            out.print(Text.assemble(("note: ", "bold yellow"), one_line(notice)))
        out.print()


def _with_reset(error: A1Error) -> A1Error:
    """An error that a conversation may have grown into, with the way out of it."""
    if not isinstance(error, ContextOverflow):
        return error
    return ContextOverflow(error.what, f"/reset forgets the conversation; or {error.hint}")


def _doing(progress: Progress) -> str:
    return (
        f"{progress.finished} of {len(progress.rows)} chains finished, "
        f"{counted(progress.verified, 'step')} verified, {progress.rejected} taken over"
    )
