"""Servers that take the time real ones take, on a clock that jumps: minutes of service in a moment, the same each run.

A server batches continuously: each of its steps gives every writing sequence one token, and reads what was sent to be
read in between.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from a1agent.backends.base import Work
from a1agent.backends.scripted import ScriptedBackend

T = TypeVar("T")

__all__ = ["DRAFT_1B", "TARGET_32B", "Costs", "Server", "Strides", "run_virtual", "simulated"]


@dataclass(frozen=True)
class Costs:
    """Seconds of a step of a server: `step`, and `sequence` for each sequence that writes; tokens it reads a second."""

    step: float
    sequence: float
    read: float


TARGET_32B = Costs(step=0.028, sequence=0.0003, read=3500)
DRAFT_1B = Costs(step=0.005, sequence=0.00005, read=20000)
CHUNK = 2048
"""Most tokens read in one step."""


@dataclass(eq=False)
class _Job:
    to_read: int
    to_write: int
    done: asyncio.Future[None]
    busy: float = 0.0


@dataclass
class Server:
    """What several sequences share. `busy_s`: seconds it worked; `steps` in which tokens were `written`."""

    costs: Costs
    jobs: list[_Job] = field(default_factory=list[_Job])
    busy_s: float = 0.0
    steps: int = 0
    written: int = 0
    _running: asyncio.Task[None] | None = None
    _changed: asyncio.Future[None] | None = None

    @property
    def batch(self) -> float:
        """Sequences that write in a step, on average."""
        return self.written / max(1, self.steps)

    @property
    def writing_rate(self) -> float:
        """Tokens a second that it writes with nothing to read, at the batch that occurred."""
        return self.batch / (self.costs.step + self.costs.sequence * self.batch)

    async def serve(self, to_read: int, to_write: int) -> Work:
        """Reads and then writes so many tokens, beside what else it does."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        job = _Job(to_read, to_write, loop.create_future())
        self.jobs.append(job)
        _release(self._changed)
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._run())
        try:
            await job.done
        finally:
            if job in self.jobs:
                self.jobs.remove(job)
                _release(self._changed)
        took = loop.time() - began
        return Work(decoded_tokens=to_read + to_write, compute_s=job.busy, waiting_s=max(0.0, took - job.busy))

    async def _run(self) -> None:
        while self.jobs:
            writing = [job for job in self.jobs if job.to_read == 0]
            reading, room = [], CHUNK
            for job in self.jobs:
                if job.to_read and room:
                    count = min(job.to_read, room)
                    reading.append((job, count))
                    room -= count
            seconds = (self.costs.step + self.costs.sequence * len(writing)) if writing else 0.0
            seconds += sum(count for _, count in reading) / self.costs.read
            steps = 1 if reading else await self._alike(seconds, min(job.to_write for job in writing))
            if reading:
                await asyncio.sleep(seconds)
            self._book(reading, writing, steps, seconds)

    async def _alike(self, seconds: float, most: int) -> int:
        """Lets up to `most` steps pass, of so many seconds each, for as long as nobody comes or goes; how many did."""
        loop = asyncio.get_running_loop()
        began, self._changed = loop.time(), loop.create_future()
        timer = loop.call_later(most * seconds, _release, self._changed)
        await self._changed
        timer.cancel()
        steps = min(most, max(1, math.ceil((loop.time() - began) / seconds - 1e-6)))
        await asyncio.sleep(max(0.0, began + steps * seconds - loop.time()))
        return steps

    def _book(self, reading: list[tuple[_Job, int]], writing: list[_Job], steps: int, seconds: float) -> None:
        """Counts what was done in so many steps of so many seconds, and lets go who is served."""
        tokens = sum(count for _, count in reading) + len(writing)
        self.busy_s += steps * seconds
        self.steps += steps if writing else 0
        self.written += steps * len(writing)
        for job, count in reading:
            job.to_read -= count
            job.busy += seconds * count / tokens
        for job in writing:
            job.to_write -= steps
            job.busy += steps * seconds / tokens
        for job in [job for job in self.jobs if job.to_read == 0 and job.to_write <= 0]:
            self.jobs.remove(job)
            if not job.done.done():
                job.done.set_result(None)


def _release(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


@dataclass(frozen=True)
class Strides:
    """Writes `steps` steps of `low` to `high` tokens, then a number. A step scores by chance, equal texts the same."""

    steps: int = 8
    low: int = 24
    high: int = 96

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        done = text.count("\n\n")
        if done >= self.steps:
            return f"\\boxed{{{len(prompt)}}}"
        return "".join(rng.choice("abcdef") for _ in range(rng.randint(self.low, self.high) - 2)) + "\n\n"

    def nll(self, prompt: str, text: str, step: str) -> float:
        return random.Random(f"{prompt}\0{text}\0{step}").random()


def simulated(script: Any, costs: Costs, name: str, *, reuses_prefix: bool = True) -> ScriptedBackend:
    """A scripted model on a server of its own."""
    return ScriptedBackend(script, name=name, processor=name, service=Server(costs), reuses_prefix=reuses_prefix)


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing but threads and sockets: where the loop would sleep, its clock jumps."""

    loop: _VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.loop.threads:
            return super().select(0.001 if self.loop.threads else None)
        self.loop.now += timeout
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        self.threads = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        self.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: object) -> None:
        self.threads -= 1


def run_virtual(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """The result of `work` and how many seconds passed on its clock."""
    loop = _VirtualLoop()
    try:
        return loop.run_until_complete(work), loop.now
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
