"""One call of an agent as the commands make it: its events go to a watcher, and its statistics survive an interrupt."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from a1agent.agent import A1
from a1agent.cli.settings import Settings
from a1agent.events import Event, VoteClosed
from a1agent.fold import StatsFold
from a1agent.stats import RejectionStats
from a1agent.types import Question, Result

__all__ = ["Call", "Loop", "make_agent"]

T = TypeVar("T")
Watch = Callable[[Event], None]

_LOOK_UP_S = 0.1
"""How long to wait at a stretch: on Windows a wait without end cannot be interrupted."""
_GRACE_S = 1.0


def make_agent(settings: Settings, **changed: Any) -> A1:
    """The agent of the settings, some options `changed`; its models load with the first call."""
    options = settings.options.replace(**changed)
    return A1(
        settings.model("draft"),
        settings.model("target"),
        calibration=settings.calibration,
        **dataclasses.asdict(options),
    )


class Call:
    """A question being answered; `stats` tells what was done so far, at any time."""

    def __init__(self, agent: A1, watch: Watch) -> None:
        self._agent = agent
        self._watch = watch
        self._fold = StatsFold(agent.options)
        self._started = time.perf_counter()
        self.opened = False

    async def answer(self, question: Question) -> Result:
        """The result. Raises what `A1.asolve` does."""
        result: Result | None = None
        self._started = time.perf_counter()
        async for event in self._agent.astream(question):
            self.opened = True
            self._fold.add(event)
            self._watch(event)
            if isinstance(event, VoteClosed):
                result = event.result
        assert result is not None  # the stream ends with its result, or raises
        return result

    @property
    def stats(self) -> RejectionStats:
        """The statistics so far."""
        return self._fold.stats(time.perf_counter() - self._started)


class Loop:
    """An event loop in a thread, so that an interrupt reaches the main thread whatever the loop is busy with.

    A context manager; an interrupt leaves the thread as it is, since what is still busy in it would hold up its end.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="a1-cli", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. An interrupt cancels it, and gives it a second to clean up."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not future.done():
                concurrent.futures.wait([future], timeout=_LOOK_UP_S)
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            concurrent.futures.wait([future], timeout=_GRACE_S)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.close()

    def close(self) -> None:
        """Ends the thread."""
        self.run(self._loop.shutdown_asyncgens())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
