"""The sync facade: coroutines run on one background event loop, so that it works inside a running loop too."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")

_INTERRUPTIBLE_S = 0.5

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result. An interrupt (Ctrl-C) cancels it and waits until it has cleaned up."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _background_loop())
    try:
        # A wait without an end cannot be interrupted on Windows.
        while not concurrent.futures.wait([future], timeout=_INTERRUPTIBLE_S).done:
            pass
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        concurrent.futures.wait([future])
        raise


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="a1agent", daemon=True).start()
        return _loop
