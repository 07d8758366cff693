"""Who may run now, who waits, and who is sent away: a bounded queue, shared fairly between API keys.

Each key has a line of its own, in the order of arrival; a place that is given back goes to the keys that wait, in turn.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from a1agent.server.errors import ApiError, client_gone

__all__ = ["Admission"]

_SMOOTHING = 0.2
_FIRST_GUESS_S = 2.0

Place = asyncio.Future[None]


class Admission:
    """At most `running` requests run and at most `waiting` wait. `enter`, and `leave` after each that was let in.

    Of `keys` API keys each may always have its share of `waiting` (rounded up) in the queue, however many requests of
    other keys wait: what others sent beyond their own share never keeps it out.
    """

    def __init__(self, running: int, waiting: int, keys: int = 1) -> None:
        self.most_running = running
        self.most_waiting = waiting
        self.share = math.ceil(waiting / max(1, keys))
        self.running = 0
        self._mean_s = _FIRST_GUESS_S
        self.open()

    def open(self) -> None:
        """Begins to let requests in, in the event loop that runs then."""
        # Of keys that have requests waiting; the one whose turn is next stands first.
        self._lines: dict[str, deque[Place]] = {}
        self._closed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(map(len, self._lines.values()))

    @property
    def closed(self) -> bool:
        """Whether the server is shutting down."""
        return self._closed.is_set()

    async def enter(self, key: str, most_s: float, gone: asyncio.Task[None] | None = None) -> None:
        """Returns when the request of the API key named `key` may run; `gone` is a task that ends if the client leaves.

        Raises `ApiError`: 429 when the queue is full; 503 when `most_s` seconds pass, or the server shuts down.
        """
        if self.closed:
            raise _shutting_down()
        if self.running < self.most_running:  # then nobody waits
            self.running += 1
            return
        own = len(self._lines.get(key, ()))
        if self.waiting >= self.most_waiting and own >= self.share:
            raise ApiError(
                429,
                f"{self.running} requests run and {self.waiting} wait, {own} of them with your key: "
                "this server takes no more",
                code="queue_full",
                retry_after_s=self._until_free_s(),
            )
        await self._wait(key, most_s, gone)

    def leave(self, took_s: float) -> None:
        """Gives the place to the next in line; `took_s` seconds it was held."""
        self._mean_s += _SMOOTHING * (took_s - self._mean_s)
        self._hand_on()

    def close(self) -> None:
        """Sends away all that wait, and all that come."""
        self._closed.set()

    async def _wait(self, key: str, most_s: float, gone: asyncio.Task[None] | None) -> None:
        place: Place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(place)
        end = asyncio.create_task(self._closed.wait())
        try:
            first = {place, end} if gone is None else {place, end, gone}
            await asyncio.wait(first, timeout=most_s, return_when=asyncio.FIRST_COMPLETED)
            if self.closed:
                raise _shutting_down()
            if gone is not None and gone.done():
                raise client_gone()
            if not place.done():
                raise ApiError(
                    503,
                    "the request waited for its turn until its time was up",
                    code="overloaded",
                    retry_after_s=self._until_free_s(),
                )
        except BaseException:
            self._give_up(key, place)
            raise
        finally:
            end.cancel()

    def _give_up(self, key: str, place: Place) -> None:
        if place.done():
            self._hand_on()
            return
        self._lines[key].remove(place)
        if not self._lines[key]:
            del self._lines[key]

    def _hand_on(self) -> None:
        """The first of the next key's line gets the place, and the key's next turn comes after those of all others."""
        if not self._lines:
            self.running -= 1
            return
        key = next(iter(self._lines))
        line = self._lines.pop(key)
        line.popleft().set_result(None)
        if line:
            self._lines[key] = line

    def _until_free_s(self) -> int:
        return max(1, math.ceil(self._mean_s * (self.waiting + 1) / self.most_running))


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down", retry_after_s=1)
