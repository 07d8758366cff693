"""Some vocabularies put a space before a text. A sentinel takes it, and its ids are dropped."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["PROBES", "SENTINELS", "find_sentinel"]

SENTINELS = ("\x01", "\x02", "\n", "=", "|")
PROBES = ("a", " a", "\n", "\n\n", "1", "=", "|", "é")


def find_sentinel(tokenize: Callable[[str], list[int]]) -> tuple[str, list[int]]:
    """A text that never merges with what follows it, and its ids; an empty one when there is none."""
    for sentinel in SENTINELS:
        ids = tokenize(sentinel)
        if all(tokenize(sentinel + probe)[: len(ids)] == ids for probe in PROBES):
            return sentinel, ids
    return "", []
