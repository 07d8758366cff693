"""The command line, `a1`: one command a file.

Exit codes: 0 answered, 1 failed, 2 wrong usage, 3 no chain stated an answer, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Runs `a1` on the process's arguments and exits."""
    with _interrupts_end_it():
        from a1agent.cli.app import build
        from a1agent.cli.console import prepare_streams

        prepare_streams()
        commands = build()
    try:
        commands(prog_name="a1")
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            # A model that is still loading in a thread would hold the interpreter back for as long as it loads.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_INTERRUPTED)
        raise


@contextmanager
def _interrupts_end_it() -> Generator[None]:
    """While there is nothing to clean up: raised in the middle of an import, an interrupt may be lost or be shown."""
    interruptible = threading.current_thread() is threading.main_thread()
    if not interruptible or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)
