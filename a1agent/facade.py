"""The sync facade: coroutines run on one background event loop, so that it works inside a running loop too."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["iterate", "run"]

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


def iterate(items: AsyncGenerator[T, None]) -> Generator[T]:
    """The items of an async generator as they come. Closing it early closes the generator before it returns.

    On the background loop's own thread, where garbage may be collected, it is closed soon after instead.
    """
    arrived: SimpleQueue[T | asyncio.Task[None]] = SimpleQueue()

    async def pump() -> None:
        async with contextlib.aclosing(items):
            async for item in items:
                arrived.put(item)

    async def start() -> tuple[asyncio.Task[None], threading.Thread]:
        task = asyncio.create_task(pump())
        task.add_done_callback(arrived.put)  # a task that is done is the end
        return task, threading.current_thread()

    task, thread = run(start())
    ended = False
    try:
        while not (ended := (item := _next(arrived)) is task):
            yield item  # pyright: ignore[reportReturnType]
        task.result()
    finally:
        if not ended:
            task.get_loop().call_soon_threadsafe(task.cancel)
        # The loop's thread cannot wait for itself, nor a forked process for a thread that stayed in its parent.
        can_wait = thread is not threading.current_thread() and thread.is_alive()
        while can_wait and not ended:
            ended = _next(arrived) is task


def _next(arrived: SimpleQueue[T]) -> T:
    while True:
        with contextlib.suppress(Empty):
            return arrived.get(timeout=_INTERRUPTIBLE_S)


def _background_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            _loop.set_default_executor(_Threads(thread_name_prefix="a1agent"))
            threading.Thread(target=_loop.run_forever, name="a1agent", daemon=True).start()
        return _loop


class _Threads(concurrent.futures.ThreadPoolExecutor):
    """The threads of the background loop, for as long as anybody asks.

    When the main thread has ended Python's pools take nothing more, while other threads of the program go on.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """As in the pool, or in a thread of its own."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            future = concurrent.futures.Future[T]()
            work = (future, lambda: fn(*args, **kwargs))
            threading.Thread(target=_fill, args=work, name="a1agent", daemon=True).start()
            return future


def _fill(future: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)


def _begin_anew() -> None:
    """In a forked process: the loop's thread stayed in the parent."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
