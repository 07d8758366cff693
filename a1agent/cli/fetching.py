"""Downloads from the model hub, as lines: what is fetched, and how far it has come."""

from __future__ import annotations

import sys
import threading
import time

from a1agent.backends.hub import Fetched
from a1agent.cli.console import one_line

__all__ = ["FetchLines", "fetch_text"]

_EVERY_S = 10.0
_LEAST_BYTES = 10_000_000
"""Less is there in a moment."""


def fetch_text(fetched: Fetched) -> str:
    """How far a download has come, in words."""
    unit, size = ("GB", 1e9) if fetched.total >= 1e9 else ("MB", 1e6)
    return f"fetching {one_line(fetched.name)}: {fetched.done / size:.1f} of {fetched.total / size:.1f} {unit}"


class FetchLines:
    """Tells of downloads on stderr: a line at the beginning, one every ten seconds, and one at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = ""
        self._next = 0.0

    def __call__(self, fetched: Fetched) -> None:
        """Takes in how far one has come; from any thread."""
        if fetched.total < _LEAST_BYTES:
            return
        with self._lock:
            now = time.monotonic()
            begins, ends = fetched.name != self._name, fetched.done >= fetched.total
            if begins or ends or now >= self._next:
                self._name, self._next = "" if ends else fetched.name, now + _EVERY_S
                print(fetch_text(fetched), file=sys.stderr, flush=True)
