"""An event loop in a thread of its own, for what many event loops share: connections belong to one loop only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for callers in any thread or event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="a1agent-http", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """A coroutine's result. Blocks: not for coroutines of another loop."""
        return self.submit(coroutine).result()

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancels what runs, runs `last`, and ends the loop and its thread. Blocks."""
        try:
            self.wait(_end(last))
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


async def _end(last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while others := asyncio.all_tasks() - {asyncio.current_task()}:  # one that ends may have begun another
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    await last()
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
