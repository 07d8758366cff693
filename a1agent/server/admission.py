"""Who may run now, who waits, and who is sent away: a bounded queue in the order of arrival."""

from __future__ import annotations

import asyncio
import math

from a1agent.server.errors import ApiError, client_gone

__all__ = ["Admission"]

_SMOOTHING = 0.2
_FIRST_GUESS_S = 2.0


class Admission:
    """At most `running` requests run and at most `waiting` wait. `enter`, and `leave` after each that was let in."""

    def __init__(self, running: int, waiting: int) -> None:
        self.most_running = running
        self.most_waiting = waiting
        self.running = 0
        self.waiting = 0
        self._mean_s = _FIRST_GUESS_S
        self.open()

    def open(self) -> None:
        """Begins to let requests in, in the event loop that runs then."""
        self._places = asyncio.Semaphore(self.most_running)
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether the server is shutting down."""
        return self._closed.is_set()

    async def enter(self, most_s: float, gone: asyncio.Task[None]) -> None:
        """Returns when the request may run; `gone` ends when the client leaves.

        Raises `ApiError`: 429 when the queue is full; 503 when `most_s` seconds pass, or the server shuts down.
        """
        if self.closed:
            raise _shutting_down()
        if self._places.locked():
            if self.waiting >= self.most_waiting:
                raise ApiError(
                    429,
                    f"{self.running} requests run and {self.waiting} wait, which is all this server takes",
                    code="queue_full",
                    retry_after_s=self._until_free_s(),
                )
            await self._wait(most_s, gone)
        else:
            await self._places.acquire()  # free: does not wait
        self.running += 1

    def leave(self, took_s: float) -> None:
        """Gives the place to the next in line; `took_s` seconds it was held."""
        self.running -= 1
        self._mean_s += _SMOOTHING * (took_s - self._mean_s)
        self._places.release()

    def close(self) -> None:
        """Sends away all that wait, and all that come."""
        self._closed.set()

    async def _wait(self, most_s: float, gone: asyncio.Task[None]) -> None:
        self.waiting += 1
        place = asyncio.create_task(self._places.acquire())
        end = asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait({place, end, gone}, timeout=most_s, return_when=asyncio.FIRST_COMPLETED)
            if self.closed:
                raise _shutting_down()
            if gone.done():
                raise client_gone()
            if not place.done():
                raise ApiError(
                    503,
                    "the request waited for its turn until its time was up",
                    code="overloaded",
                    retry_after_s=self._until_free_s(),
                )
        except BaseException:
            self._give_up(place)
            raise
        finally:
            self.waiting -= 1
            end.cancel()

    def _give_up(self, place: asyncio.Task[bool]) -> None:
        if place.done() and not place.cancelled():
            self._places.release()
        place.cancel()

    def _until_free_s(self) -> int:
        return max(1, math.ceil(self._mean_s * (self.waiting + 1) / self.most_running))


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down", retry_after_s=1)
