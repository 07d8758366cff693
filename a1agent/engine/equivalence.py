"""Whether two answers are the same: by canonical key, by exact value, or by algebra where neither can tell."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Protocol

from a1agent.engine.canonical import canonical_key, form_of, parts_of, spoken

if TYPE_CHECKING:
    from a1agent.engine.math_worker import MathWorker

__all__ = ["Equivalence", "Judge", "may_equal"]

_CACHED_PAIRS = 4096
_STRIKES = 2
"""An answer that could not be judged this often is not judged again: each time may have cost a deadline."""
_DEPTH = 3
"""Lists within lists whose parts are compared one by one."""
_NO_ALGEBRA = frozenset({"time", "words", "json", "phrase"})
"""Forms that equal no expression: what is prose to one reader is not a product of letters to another."""


class Judge(Protocol):
    """Decides what keys cannot; None: it cannot either."""

    async def equal(self, a: str, b: str) -> bool | None: ...
    async def aclose(self) -> None: ...


class Equivalence:
    """Compares answers, cheapest way first. One instance serves many questions, in any thread and event loop.

    `judge` is asked about expressions whose keys differ; by default a `MathWorker`, which starts no process before the
    first such pair, and without math-verify installed leaves it at the keys. `cached_pairs` verdicts are kept, least
    recently used ones leave first, and as many answers that could not be judged.
    """

    def __init__(self, judge: Judge | None = None, *, cached_pairs: int = _CACHED_PAIRS) -> None:
        self._judge = judge
        self._cached_pairs = cached_pairs
        self._verdicts: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._strikes: Counter[str] = Counter()
        self._closed = False
        self._lock = threading.Lock()

    async def same(self, a: str, b: str) -> bool:
        """Whether two answers are equal; symmetric, never raises on what a model may write."""
        known = self.known(a, b)
        return await self._judged(*_pair(a, b)) if known is None else known

    def known(self, a: str, b: str) -> bool | None:
        """As `same`, as far as that can be told at once; None: only the judge can tell."""
        pair = _pair(a, b)
        known = settled(*pair)
        if known is not None:
            return known
        with self._lock:
            if pair in self._verdicts:
                self._verdicts.move_to_end(pair)
                return self._verdicts[pair]
            return False if any(self._strikes[key] >= _STRIKES for key in pair) else None

    async def aclose(self) -> None:
        """Ends the judge's process, if it started one; what is asked from now on goes by what is known at once."""
        with self._lock:
            self._closed, judge = True, self._judge
        if judge is not None:
            await judge.aclose()

    async def _judged(self, key: str, other: str) -> bool:
        with self._lock:
            if self._closed:
                return False
            judge = self._judge = self._judge or _math_worker()
        verdict, pair = await judge.equal(spoken(key), spoken(other)), (key, other)
        with self._lock:
            if verdict is None:
                self._strikes.update(pair)
            self._verdicts[pair] = bool(verdict)
            while len(self._verdicts) > self._cached_pairs:
                self._verdicts.popitem(last=False)
            while len(self._strikes) > self._cached_pairs:
                del self._strikes[next(iter(self._strikes))]
        return bool(verdict)


def _pair(a: str, b: str) -> tuple[str, str]:
    """Their keys, whichever comes first."""
    first, second = sorted((canonical_key(a), canonical_key(b)))
    return first, second


def may_equal(key: str, depth: int = _DEPTH) -> bool:
    """Whether algebra may find another key equal to this one."""
    parts = parts_of(key) if form_of(key) == "list" else None
    if parts is None or depth == 0:
        return form_of(key) in ("expression", "list")
    return any(may_equal(part, depth - 1) for part in parts.texts)


def settled(key: str, other: str, depth: int = _DEPTH) -> bool | None:
    """What two canonical keys tell by themselves; None when only algebra can.

    Equality of keys is an equivalence relation, and algebra has a say only where one of them is an expression.
    """
    if key == other:
        return True
    forms = {form_of(key), form_of(other)}
    if forms == {"list"}:
        return _settled_lists(key, other, depth) if depth else None
    return None if "expression" in forms and not forms & _NO_ALGEBRA else False


def _settled_lists(key: str, other: str, depth: int) -> bool | None:
    """Of two lists: False unless they have the same brackets, as many parts, and parts that algebra may yet equate."""
    mine, yours = parts_of(key), parts_of(other)
    assert mine is not None and yours is not None
    if (mine.opener, mine.closer, len(mine.texts)) != (yours.opener, yours.closer, len(yours.texts)):
        return False
    if mine.ordered:
        told = (settled(a, b, depth - 1) for a, b in zip(mine.texts, yours.texts, strict=True))
        return False if False in told else None
    return None if _may_match(mine.texts, yours.texts) and _may_match(yours.texts, mine.texts) else False


def _may_match(texts: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether each part may have its like among the others, where an order does not tell which."""
    left = set(texts) - set(others)
    return any(map(may_equal, others)) or (any(map(may_equal, texts)) and all(map(may_equal, left)))


def _math_worker() -> MathWorker:
    # Imported late: answers that are all numbers, the common case, need no process, and voting stays light to import.
    from a1agent.engine.math_worker import MathWorker

    return MathWorker()
