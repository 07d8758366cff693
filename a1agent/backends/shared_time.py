"""Time that calls under way together share out among them, so that their parts add up to the time that passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["SharedTime", "Spent"]


@dataclass(slots=True)
class Spent:
    """What a call took: seconds in all, and its share of them."""

    total_s: float = 0.0
    share_s: float = 0.0


class SharedTime:
    """A clock that runs n times slower while n calls are under way. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._calls = 0
        self._seen = clock()
        self._shared = 0.0

    @contextmanager
    def call(self) -> Generator[Spent]:
        """Counts a call; when it ends its `Spent` is filled in."""
        spent = Spent()
        began, shared = self._advance(1)
        try:
            yield spent
        finally:
            ended, shared_end = self._advance(-1)
            spent.total_s, spent.share_s = ended - began, shared_end - shared

    def _advance(self, change: int) -> tuple[float, float]:
        now = self._clock()
        if self._calls:
            self._shared += (now - self._seen) / self._calls
        self._seen = now
        self._calls += change
        return now, self._shared
