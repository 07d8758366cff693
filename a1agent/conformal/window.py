"""The newest scores of a group, kept in order: the calibration set behind a p-value."""

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

__all__ = ["ScoreWindow", "ranks_in"]

_CHUNK = 1024
_GROUP = 32


class SortedScores:
    """A sorted multiset of floats in contiguous chunks of at most 2 * `_CHUNK`, counted in groups of `_GROUP` chunks.

    Searching is two bisections over plain doubles and a sum over at most a few dozen counts; inserting and removing
    also move part of one chunk. At a million scores that is several times faster than a sorted list of Python
    objects, whose every comparison misses the cache.
    """

    __slots__ = ("_chunks", "_groups", "_highest", "_size", "_sizes")

    def __init__(self, scores: Iterable[float] = ()) -> None:
        ordered = array("d", sorted(scores))
        self._chunks = [ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK)] or [array("d")]
        self._reindex()

    def ranks(self, score: float) -> tuple[int, int]:
        """How many stored scores are larger than `score`, and how many are equal to it."""
        highest = self._highest
        place = bisect_right(highest, score)
        if place == len(highest):
            right, tied = self._size, place > 0 and highest[-1] == score
        else:
            chunk = self._chunks[place]
            inside = bisect_right(chunk, score)
            right = self._before(place) + inside
            tied = chunk[inside - 1] == score if inside else place > 0 and highest[place - 1] == score
        return self._size - right, self._equal(score, right) if tied else 0

    def _equal(self, score: float, right: int) -> int:
        place = bisect_left(self._highest, score)
        return right - self._before(place) - bisect_left(self._chunks[place], score)

    def add(self, score: float) -> None:
        place = min(bisect_right(self._highest, score), len(self._chunks) - 1)
        chunk = self._chunks[place]
        chunk.insert(bisect_right(chunk, score), score)
        if len(chunk) > 2 * _CHUNK or not self._highest:
            self._chunks[place : place + 1] = [part for part in (chunk[:_CHUNK], chunk[_CHUNK:]) if part]
            self._reindex()
        else:
            self._resize(place, 1)

    def remove(self, score: float) -> None:
        """Take out one score that is stored."""
        place = bisect_left(self._highest, score)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, score)]
        if chunk:
            self._resize(place, -1)
        else:
            self._chunks = [other for other in self._chunks if other] or [chunk]
            self._reindex()

    def _before(self, place: int) -> int:
        """Scores in the chunks before `place`."""
        group = place // _GROUP
        return sum(self._groups[:group]) + sum(self._sizes[group * _GROUP : place])

    def _resize(self, place: int, change: int) -> None:
        self._highest[place] = self._chunks[place][-1]
        self._size += change
        self._sizes[place] += change
        self._groups[place // _GROUP] += change

    def _reindex(self) -> None:
        # An empty chunk stands alone, and without a highest score.
        self._highest = array("d", [chunk[-1] for chunk in self._chunks if chunk])
        self._sizes = [len(chunk) for chunk in self._chunks]
        self._size = sum(self._sizes)
        self._groups = [sum(self._sizes[start : start + _GROUP]) for start in range(0, len(self._sizes), _GROUP)]


class ScoreWindow:
    """At most `capacity` finite scores, the newest."""

    __slots__ = ("_arrived", "_capacity", "_ordered")

    def __init__(self, capacity: int, scores: Sequence[float] = ()) -> None:
        """Starts from the newest of `scores`, which come oldest first."""
        self._capacity = capacity
        self._arrived = deque(array("d", scores[-capacity:]))
        self._ordered = SortedScores(self._arrived)

    def __len__(self) -> int:
        return len(self._arrived)

    def add(self, score: float) -> None:
        """Insert; the oldest score leaves when the window is full."""
        if len(self._arrived) == self._capacity:
            self._ordered.remove(self._arrived.popleft())
        self._arrived.append(score)
        self._ordered.add(score)

    def ranks(self, score: float) -> tuple[int, int]:
        """How many stored scores are larger than `score`, and how many are equal to it."""
        return self._ordered.ranks(score)


def ranks_in(windows: Iterable[ScoreWindow], score: float) -> tuple[int, int, int]:
    """Larger than `score`, equal to it, and stored, over the union of the windows."""
    above = equal = size = 0
    for window in windows:
        more, same = window.ranks(score)
        above, equal, size = above + more, equal + same, size + len(window)
    return above, equal, size
