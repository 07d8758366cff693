"""What the cache of a batched model asks the model to do."""

from typing import Any

import pytest

from a1agent.backends.batching.cache import Cache, new_ids


class Books:
    """A runner without a model: notes which cells it is told to drop."""

    cells, lanes = 16, 2
    copies, swap = False, None

    def __init__(self, can_rewind: bool) -> None:
        self.can_rewind = can_rewind
        self.removed: list[tuple[int, int]] = []

    def remove(self, lane: int, start: int) -> None:
        self.removed.append((lane, start))

    def copy(self, source: int, target: int, length: int) -> None:
        """Lanes share cells; nothing is to be done."""


def made(can_rewind: bool = True) -> tuple[Books, Cache]:
    books: Any = Books(can_rewind)
    return books, Cache(books, keep=0)


@pytest.mark.parametrize("can_rewind", [True, False])
@pytest.mark.parametrize("tokens", [0, 5])
def test_a_lane_that_is_dropped_is_removed_once(tokens: int, can_rewind: bool) -> None:
    books, cache = made(can_rewind)
    lane = cache.copy(None, 0, prompt=0)
    assert lane is not None
    cache.extend(lane, new_ids(range(tokens)))
    cache.drop(lane)
    assert books.removed == [(lane.index, 0)]  # an empty one too: a copy that failed may have left something there
    assert (cache.free, cache.used, len(lane), len(lane.ids)) == (Books.cells, 0, 0, 0)


def test_what_two_lanes_share_is_free_when_both_are_gone() -> None:
    books, cache = made()
    first = cache.copy(None, 0, prompt=0)
    assert first is not None
    cache.extend(first, new_ids(range(5)))
    second = cache.copy(first, 3, prompt=0)
    assert second is not None
    cache.drop(first)
    assert cache.free == Books.cells - 3
    cache.drop(second)
    assert cache.free == Books.cells
    assert books.removed == [(first.index, 0), (second.index, 0)]
