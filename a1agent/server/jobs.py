"""A request's calls on the agent: one for each answer asked for, run apart from the connection that asked.

A job ends by itself, whatever becomes of its reader: it is cancelled, cleans up in its own time, and only then gives
its place back.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from a1agent.agent import A1
from a1agent.config import Options
from a1agent.events import Event, QuestionOpened, VoteClosed
from a1agent.fold import StatsFold
from a1agent.server.errors import ApiError, api_error_of
from a1agent.stats import RejectionStats
from a1agent.types import Question, Result, Usage

__all__ = ["Asked", "Job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks of the agent, checked against the caps: `n` answers under `options`.

    `names`: what the API calls the parts of the question, for errors.
    """

    question: Question
    options: Options
    n: int
    tenant: str
    names: Mapping[str, str]


@dataclass(eq=False)
class Job:
    """The calls of one request while they run. `events` hands on what happens, as (answer's number, event).

    `admitted`: when its request was, by the service's clock.
    """

    agent: A1
    asked: Asked
    watch: Callable[[Event], None]
    on_end: Callable[[Job], None]
    admitted: float
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.fold = StatsFold(self.asked.options)
        self._queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()
        self._results: list[Result | None] = [None] * self.asked.n
        self._error: BaseException | None = None
        self._reason: ApiError | None = None
        self._begun = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="a1 request")
        self._task.add_done_callback(self._close)  # of one that is cancelled before it begins nothing runs at all

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.perf_counter() - self.started

    @property
    def stats(self) -> RejectionStats:
        """The statistics of all its calls so far."""
        return self.fold.stats(self.seconds)

    @property
    def usage(self) -> Usage:
        """What both models processed for it so far."""
        return self.fold.usage()

    @property
    def results(self) -> list[Result]:
        """The results, once `events` has ended without an error."""
        return [result for result in self._results if result is not None]

    async def begun(self, most_s: float) -> None:
        """Waits up to `most_s` seconds for its first event. Raises `ApiError` where a call failed before that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._begun.wait()
        if self._error is not None and self._queue.qsize() <= 1:
            raise self._error

    async def events(self) -> AsyncGenerator[tuple[int, Event]]:
        """What happens, until all its calls end. Raises `ApiError` where one failed; closing it cancels the job."""
        try:
            while (item := await self._queue.get()) is not None:
                yield item
            if self._error is not None:
                raise self._error
        finally:
            self.cancel()

    async def finish(self) -> list[Result]:
        """The results. Raises `ApiError` where a call failed; cancelling it cancels the job."""
        async with contextlib.aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.results

    def cancel(self, reason: ApiError | None = None) -> None:
        """Ends it now; `reason` is what a reader is told."""
        if not self._task.done():
            self._reason = self._reason or reason
            self._task.cancel()

    async def ended(self) -> None:
        """Waits until it has freed all it held."""
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self.asked.n):
                    group.create_task(self._answer(number))
        except BaseExceptionGroup as errors:
            self._error = api_error_of(next(_leaves(errors)), self.asked.names)

    def _close(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._error = self._reason or asyncio.CancelledError()
        self._begun.set()
        self._queue.put_nowait(None)
        self.on_end(self)

    async def _answer(self, number: int) -> None:
        asked = self.asked
        stream = self.agent.astream(asked.question, tenant=asked.tenant, **dataclasses.asdict(asked.options))
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                self._take(number, event)

    def _take(self, number: int, event: Event) -> None:
        if isinstance(event, VoteClosed):
            self._results[number] = event.result
        elif isinstance(event, QuestionOpened):
            self.fold.add(event)
        else:  # the fold tells chains of different answers apart by their numbers
            self.fold.add(dataclasses.replace(event, chain=event.chain + number * self.asked.options.chains))
        self.watch(event)
        self._begun.set()
        self._queue.put_nowait((number, event))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        yield from _leaves(inner)
