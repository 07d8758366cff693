"""The typer application: commands, commands of other distributions, and what happens to errors."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from a1agent.backends._llama_api import LLAMA_LOG
from a1agent.backends.hub import following
from a1agent.cli import ask, bench, calibrate, chat, config, models, problems, replay, serve, stats
from a1agent.cli.console import fail, silence_broken_pipe, warn
from a1agent.cli.fetching import FetchLines
from a1agent.cli.flags import with_settings
from a1agent.conformal.store import CalibrationWarning
from a1agent.errors import UsageError

__all__ = ["PLUGINS", "build"]

PLUGINS = "a1agent.commands"
"""Entry points of this group are functions that take the typer application and add commands to it."""


class _Group(TyperGroup):
    """Turns what commands return into exit codes, and what they raise into one or two lines."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        words, debug = _without_debug(list(sys.argv[1:] if args is None else args))
        extra["standalone_mode"] = False
        with _warnings_as_lines(debug), following(FetchLines()):
            try:
                code = super().main(words, *rest, **extra)
                sys.stdout.flush()
            except BrokenPipeError:
                code = silence_broken_pipe()
            except (KeyboardInterrupt, typer.Abort):
                code = 130
            except Exception as error:
                if debug:
                    raise
                code = _report(error, self.commands, words)
        sys.exit(code if isinstance(code, int) else 0)


def build() -> typer.Typer:
    """The application with all commands that are installed."""
    app = typer.Typer(
        name="a1",
        cls=_Group,
        rich_markup_mode=None,
        no_args_is_help=True,
        add_completion=True,
        context_settings={"help_option_names": ["-h", "--help"]},  # of every command: they inherit it
    )
    app.callback()(_root)
    for name, command in _COMMANDS.items():
        app.command(name)(command)
    for entry in entry_points(group=PLUGINS):
        _add_plugin(app, entry)
    return app


_COMMANDS = {
    "ask": with_settings(ask.ask),
    "chat": with_settings(chat.chat),
    "bench": with_settings(bench.bench),
    "calibrate": with_settings(calibrate.calibrate),
    "models": models.models,
    "problems": problems.problems,
    "replay": replay.replay,
    "serve": with_settings(serve.serve),
    "stats": stats.stats,
    "config": config.config,
}


_ELSEWHERE = {"mcp": "a1agent-mcp"}
"""Commands of distributions of ours that may not be installed."""


def _version(asked: bool) -> None:
    if asked:
        from a1agent import __version__

        typer.echo(f"a1agent {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Two models reason together: a draft writes in parallel chains, a target takes over the share of steps you set."""


def _add_plugin(app: typer.Typer, entry: EntryPoint) -> None:
    try:
        entry.load()(app)
    except Exception as error:  # whatever a stranger's code does, the other commands still work
        warn(f"the commands of {entry.value!r} do not load: {type(error).__name__}: {error}")


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    end = words.index("--") if "--" in words else len(words)
    return [w for w in words[:end] if w != "--debug"] + words[end:], "--debug" in words[:end]


def _report(error: Exception, commands: Collection[str], words: Sequence[str]) -> int:
    """Says what happened with the words of a command line; returns the exit code."""
    describe = getattr(error, "format_message", None)
    if describe is None:
        fail(error)
        return 2 if isinstance(error, UsageError) else 1
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(describe(), err=True)
        return 2
    context = getattr(error, "ctx", None)
    command = next((word for word in words if word in commands), None)
    path = getattr(context, "command_path", f"a1 {command}" if command else "a1")  # a value left out has no context
    what = str(describe()).replace("Value error, ", "")
    fail(UsageError(what, _hint(what, commands) or f"{path} --help lists what there is"))
    return int(getattr(error, "exit_code", 2))


def _hint(what: str, commands: Collection[str]) -> str | None:
    """What to do about a command that is not there."""
    if not what.startswith("No such command "):
        return None
    elsewhere = (f"pip install {package}" for name, package in _ELSEWHERE.items() if f"{name!r}" in what)
    return next(elsewhere, f"known: {', '.join(sorted(commands))}")


@contextmanager
def _warnings_as_lines(debug: bool) -> Generator[None]:
    """Warnings of a1agent, raised or logged, appear as one line each, without the source line they come from."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        warn(str(message))

    logger, lines = logging.getLogger("a1agent"), _Lines(debug)
    before = logger.propagate
    logger.addHandler(lines)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", CalibrationWarning)
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(lines)
        logger.propagate = before


class _Lines(logging.Handler):
    """Shows what is logged as warnings, with the traceback where that is asked for."""

    def __init__(self, debug: bool) -> None:
        super().__init__(logging.WARNING)
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        """One record; what llama.cpp logs on demand (`verbose`) is shown as it is."""
        try:
            if record.name == LLAMA_LOG:
                print(record.getMessage(), file=sys.stderr)
                return
            warn(record.getMessage())
            if self._debug and record.exc_info:
                traceback.print_exception(record.exc_info[1])
        except Exception:
            self.handleError(record)
