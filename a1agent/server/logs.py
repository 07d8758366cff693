"""The server's log: one JSON object a line, with request ids; without prompts, answers and keys.

Messages of errors stay out of it too, since they may repeat what a client or a model wrote: it has their codes.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

__all__ = ["LOGGER", "clean", "configure", "frames", "write"]

LOGGER = logging.getLogger("a1agent.server")

_LEVELS = {
    "a1agent": logging.WARNING,
    "a1agent.server": logging.INFO,
    "uvicorn": logging.INFO,
    "uvicorn.error": logging.INFO,
}


def write(level: int, event: str, **fields: Any) -> None:
    """One line; fields that are None are left out."""
    LOGGER.log(level, event, extra={"fields": {k: v for k, v in fields.items() if v is not None}})


def clean(name: str, most: int = 64) -> str:
    """What a client calls something, fit for a log: one line, at most so many characters."""
    return "".join(c if c.isprintable() else "?" for c in name[:most])


def frames(error: BaseException) -> str:
    """Where an error came from, and its kind; not its message."""
    return "".join((*traceback.format_tb(error.__traceback__), type(error).__name__))


def configure(stream: TextIO | None = None) -> None:
    """Sends this log, that of a1agent as a whole, and uvicorn's to a stream (stderr) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines())
    for name, level in _LEVELS.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = [] if "." in name else [handler]
        logger.setLevel(level)
        logger.propagate = "." in name


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
