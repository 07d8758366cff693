"""Where output goes, and how text of models and errors is made safe to show."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from a1agent.errors import A1Error, InvalidQuestion

__all__ = [
    "Glyphs",
    "at_terminal",
    "console",
    "counted",
    "fail",
    "glyphs",
    "narrow",
    "one_line",
    "piped",
    "prepare_streams",
    "print_line",
    "print_table",
    "printable",
    "shown",
    "silence_broken_pipe",
    "warn",
]

_ENDLESS = 10**6
"""Columns: more than any row takes."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs of the live view; told apart by shape, so that colour is never needed."""

    accepted: str
    taken_over: str
    pending: str
    unscored: str
    free: str
    bar: str
    at_most: str
    rule: str
    ascii: bool


_UNICODE = Glyphs("●", "◆", "○", "◌", "·", "█", "≤", "─", False)
_ASCII = Glyphs("o", "X", "?", "u", ".", "#", "<=", "-", True)


def console(*, stderr: bool = False) -> Console:
    """A console on the stream as it is now."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_line(out: Console, text: str) -> None:
    """A sentence, which a terminal gets broken between words; in a pipe it stays one line."""
    out.print(text, soft_wrap=not out.is_terminal)


def print_table(out: Console, table: Table) -> None:
    """A table as wide as the terminal; in a pipe each row on one line, and nothing after its last word."""
    if out.is_terminal:
        out.print(table)
        return
    for line in out.render_lines(table, out.options.update_width(_ENDLESS), pad=False):
        out.print("".join(segment.text for segment in line).rstrip(), soft_wrap=True)


def glyphs(encoding: str | None) -> Glyphs:
    """Signs that the encoding of a terminal can show."""
    try:
        "●◆○◌█≤─".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _UNICODE


def printable(text: str) -> str:
    """Text without control characters: what a model writes must not drive the terminal."""
    return _CONTROL.sub("", text.expandtabs(4))


def shown(text: str) -> str:
    """Text as stdout should get it: as it is, or made safe where a terminal reads it."""
    return printable(text) if sys.stdout.isatty() else text


def one_line(text: str) -> str:
    """Text on one line, safe to show."""
    return " ".join(printable(text.replace("\r", " ")).split())


def counted(count: int, what: str) -> str:
    """So many of a thing: 1 step, 2 steps."""
    return f"{count} {what}{'s' * (count != 1)}"


def warn(text: str) -> None:
    """One line to stderr."""
    _say("warning", "yellow", text)


def fail(error: BaseException) -> None:
    """What happened and what to do about it, a line each, to stderr."""
    if isinstance(error, A1Error):
        what, hint = error.what, error.hint
    else:
        what, hint = _strange(error)
    _say("error", "bold red", what)
    if hint:
        _say("hint", "cyan", hint)


def _strange(error: BaseException) -> tuple[str, str]:
    """What and hint of an error that is not a1agent's own."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {os.fspath(error.filename)}: {error.strerror}", ""
    if isinstance(error, OSError) and error.strerror:
        return f"the system refused: {error.strerror}", "--debug shows where"
    if isinstance(error, ValueError) and str(error):
        return str(error), ""
    return f"{type(error).__name__}: {error}", "--debug shows the traceback"


def _say(label: str, style: str, text: str) -> None:
    console(stderr=True).print(Text.assemble((f"{label}:", style), " ", one_line(text)), soft_wrap=True)


def silence_broken_pipe() -> int:
    """Lets the interpreter exit quietly after the reader of stdout has gone; returns the exit code."""
    if hasattr(sys.stdout, "fileno"):
        with contextlib.suppress(OSError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def piped(read: Callable[[BinaryIO], bytes]) -> str | None:
    """What `read` takes of stdin, which is UTF-8 on every system; None at its end. Raises `InvalidQuestion`."""
    data = b"" if sys.stdin is None else read(sys.stdin.buffer)  # pyright: ignore[reportUnnecessaryComparison]
    try:
        return data.decode("utf-8-sig").strip() if data else None
    except UnicodeDecodeError as error:
        raise InvalidQuestion(f"stdin is not UTF-8 text: {error}", "convert it first") from None


def at_terminal() -> bool:
    """Whether a person types what stdin gives; a process may have none."""
    return sys.stdin is not None and sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison]


def narrow() -> bool:
    """Whether stdout cannot show every character, as pipes of Windows cannot: JSON then escapes those beyond ASCII."""
    return glyphs(sys.stdout.encoding).ascii


def prepare_streams() -> None:
    """Characters that a stream cannot show become question marks; what goes to one that is closed goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open to the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
