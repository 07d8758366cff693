"""The command line, `a1`: one command a file.

Exit codes: 0 answered, 1 failed, 2 wrong usage, 3 no chain stated an answer, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Runs `a1` on the process's arguments and exits."""
    try:
        from a1agent.cli.app import build
        from a1agent.cli.console import tolerate_narrow_encodings

        tolerate_narrow_encodings()
        build()(prog_name="a1")
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _exit_at_once()
        raise
    except KeyboardInterrupt:  # while the commands were imported
        _exit_at_once()


def _exit_at_once() -> None:
    """Ends the process: a model that is still loading in a thread would hold it back for as long as it loads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_INTERRUPTED)
