"""What the cache of a batched model asks the model to do."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from a1agent.backends.batching.cache import Cache, Lane, new_ids


class Books:
    """A runner without a model: notes which cells it is told to drop."""

    cells, lanes = 32, 8
    copies, swap = False, None

    def __init__(self, can_rewind: bool) -> None:
        self.can_rewind = can_rewind
        self.removed: list[tuple[int, int]] = []

    def remove(self, lane: int, start: int) -> None:
        self.removed.append((lane, start))

    def copy(self, source: int, target: int, length: int) -> None:
        """Lanes share cells; nothing is to be done."""

    def holds(self, lane: int, length: int) -> bool:
        return True


def made(can_rewind: bool = True, keep: int = 0) -> tuple[Books, Cache]:
    books: Any = Books(can_rewind)
    return books, Cache(books, keep)


def written(cache: Cache, prompt: str, text: str) -> Lane:
    """A lane with a prompt and what a chain wrote after it."""
    lane = cache.attach(ids_of(prompt), len(prompt), len(prompt))
    assert lane is not None
    cache.extend(lane, ids_of(prompt + text)[len(lane) :])
    return lane


def ids_of(text: str) -> array[int]:
    return new_ids(list(text.encode()))


def found(cache: Cache, text: str) -> int:
    return cache.match(ids_of(text), len(text))


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


def test_what_may_be_resumed_stays_when_other_prompts_come() -> None:
    _, cache = made(keep=20)
    cache.retire(written(cache, "one:", "abcd"))
    cache.retire(written(cache, "two:", "efgh"))
    cache.retire(written(cache, "three:", "ij"), resumed=False)
    assert [found(cache, text) for text in ("one:abcd", "two:efgh")] == [8, 8]
    cache.retire(written(cache, "four:", "klmn"))
    assert [found(cache, text) for text in ("one:abcd", "two:efgh", "four:klmn", "three:ij")] == [4, 8, 9, 6]
    assert cache.used == 26  # two prompts begin alike


def test_of_the_texts_after_one_prompt_the_one_resumed_last_stays_when_another_prompt_comes() -> None:
    _, cache = made(keep=16)
    chains = [written(cache, "one:", text) for text in ("ab", "cd", "ef")]
    cache.retire(chains[0])
    cache.retire(chains[1])
    cache.retire(chains[2], resumed=False)
    assert [found(cache, text) for text in ("one:ab", "one:cd", "one:ef")] == [6, 6, 6]
    written(cache, "two:", "gh")
    assert [found(cache, text) for text in ("one:ab", "one:cd", "one:ef")] == [4, 6, 4]
