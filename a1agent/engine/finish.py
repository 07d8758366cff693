"""Cleaning up whatever happens: a cancelled call still frees all it holds before it returns."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["finish"]

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` to its end, also while the waiter is cancelled, be it again and again; then passes on which it was.

    Cancel scopes of other libraries cancel a task anew in every step of the event loop until it leaves them.
    """
    task = asyncio.ensure_future(work)
    # An event loop that ends (`asyncio.run`) cancels every task that it knows of: it must not know of this one.
    asyncio.tasks._unregister_task(task)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()
