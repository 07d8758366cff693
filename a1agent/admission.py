"""The line before a model: questions that would slow each other down wait, whole, first come first served.

A cache that all sequences share is read through by every forward, so that beyond some number of sequences each more
costs all others time. A question with all its chains is let in or waits; chains are never thinned out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from a1agent.backends.base import Backend

__all__ = ["Line", "Ticket", "enter"]


@dataclass(slots=True, eq=False)
class _Waiting:
    places: int
    loop: asyncio.AbstractEventLoop
    admitted: asyncio.Future[None]


class Line:
    """`capacity` places before one model. Used from any thread and event loop."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Questions in line."""
        return len(self._waiting)

    async def enter(self, chains: int) -> int:
        """Waits for `chains` places, all of them for a question that is larger; returns how many it got."""
        places = min(chains, self.capacity)
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._waiting and self._free >= places:
                self._free -= places
                return places
            turn = _Waiting(places, loop, loop.create_future())
            self._waiting.append(turn)
        try:
            await turn.admitted
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        return places

    def leave(self, places: int) -> None:
        """Gives places back."""
        with self._lock:
            self._free += places
            self._advance()

    def _give_up(self, turn: _Waiting) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:  # admitted, but gone before it heard of it
                self._free += turn.places
            self._advance()

    def _advance(self) -> None:
        while self._waiting and self._waiting[0].places <= self._free:
            turn = self._waiting.popleft()
            try:
                turn.loop.call_soon_threadsafe(_admit, turn.admitted)
            except RuntimeError:  # its loop was closed: nobody is left to tell
                continue
            self._free -= turn.places


def _admit(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Ticket:
    """The places of one question, given back chain by chain. `queued_s`: seconds it waited for them."""

    def __init__(self, held: Iterable[tuple[Line, int]], chains: int, queued_s: float) -> None:
        self._held = list(held)
        self._running = chains
        self.queued_s = queued_s

    def chain_ended(self) -> None:
        """Gives back what the chains that still run do not need."""
        self._running -= 1
        for i, (line, places) in enumerate(self._held):
            if places > self._running:
                self._held[i] = (line, self._running)
                line.leave(places - self._running)

    def close(self) -> None:
        """Gives everything back."""
        for line, places in self._held:
            line.leave(places)
        self._held.clear()


_lines: WeakKeyDictionary[Backend, Line] = WeakKeyDictionary()
_lines_lock = threading.Lock()


async def enter(backends: Iterable[Backend], chains: int) -> Ticket:
    """Waits until all models of a question take its chains. Models without a bound are not waited for."""
    started = time.perf_counter()
    bounded = {id(b): b for b in backends if b.info.at_once is not None}
    with contextlib.ExitStack() as undo:
        held: list[tuple[Line, int]] = []
        for _, backend in sorted(bounded.items()):  # one order for all: no two questions wait for each other
            line = _line(backend)
            places = await line.enter(chains)
            undo.callback(line.leave, places)
            held.append((line, places))
        undo.pop_all()
    return Ticket(held, chains, time.perf_counter() - started)


def _line(backend: Backend) -> Line:
    with _lines_lock:
        return _lines.setdefault(backend, Line(backend.info.at_once or 1))
