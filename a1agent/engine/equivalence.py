"""Whether two answers are the same: by canonical key, by exact value, or by math-verify where neither can tell."""

from __future__ import annotations

from collections import Counter, OrderedDict
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from a1agent.engine.canonical import canonical_key, form_of, number_of, same_key, spoken

if TYPE_CHECKING:
    from a1agent.engine.math_worker import MathWorker

__all__ = ["Equivalence", "Judge", "canonical_key", "same_key"]

_CACHED_PAIRS = 4096
_STRIKES = 2
"""An answer that could not be judged this often is not judged again: each time may have cost a deadline."""


class Judge(Protocol):
    """Decides what keys cannot; None: it cannot either."""

    async def equal(self, a: str, b: str) -> bool | None: ...
    async def aclose(self) -> None: ...


class Equivalence:
    """Compares answers, cheapest way first. One instance serves many questions, in any event loop.

    `judge` is asked about expressions whose keys differ; by default a `MathWorker`, which starts no process before the
    first such pair, and without math-verify installed leaves it at the keys. Verdicts are kept, least recently used
    ones leave first.
    """

    def __init__(self, judge: Judge | None = None, *, cached_pairs: int = _CACHED_PAIRS) -> None:
        self._judge = judge
        self._cached_pairs = cached_pairs
        self._verdicts: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._strikes: Counter[str] = Counter()

    async def same(self, a: str, b: str) -> bool:
        """Whether two answers are equal; symmetric, never raises on what a model may write."""
        known = self.known(a, b)
        return await self._judged(*sorted((a, b))) if known is None else known

    def known(self, a: str, b: str) -> bool | None:
        """As `same`, as far as that can be told at once; None: only the judge can tell."""
        pair = _pair(a, b)
        known = settled(*pair)
        if known is not None:
            return known
        if pair in self._verdicts:
            self._verdicts.move_to_end(pair)
            return self._verdicts[pair]
        return False if any(self._strikes[key] >= _STRIKES for key in pair) else None

    async def aclose(self) -> None:
        """Ends the judge's process, if it started one."""
        if self._judge is not None:
            await self._judge.aclose()

    async def _judged(self, a: str, b: str) -> bool:
        if self._judge is None:
            self._judge = _math_worker()
        verdict, pair = await self._judge.equal(spoken(a), spoken(b)), _pair(a, b)
        if verdict is None:
            self._strikes.update(pair)
        self._verdicts[pair] = bool(verdict)
        while len(self._verdicts) > self._cached_pairs:
            self._verdicts.popitem(last=False)
        return bool(verdict)


def _pair(a: str, b: str) -> tuple[str, str]:
    """Their keys, whichever comes first."""
    first, second = sorted((canonical_key(a), canonical_key(b)))
    return first, second


def settled(key: str, other: str) -> bool | None:
    """What two canonical keys tell by themselves; None when only algebra can.

    50% equals both 50 and 1/2: which of the two is meant, the question decides, and it is the same for all chains.
    """
    if key == other:
        return True
    mine, yours = number_of(key), number_of(other)
    if mine is not None and yours is not None:
        return _same_number(mine, yours)
    forms = {form_of(key), form_of(other)}
    return None if "expression" in forms or forms == {"time", "number"} else False


def _same_number(mine: tuple[Fraction, bool], yours: tuple[Fraction, bool]) -> bool:
    (value, percent), (other, other_percent) = mine, yours
    if value == other:
        return True
    if percent == other_percent:
        return False
    return value / 100 == other if percent else other / 100 == value


def _math_worker() -> MathWorker:
    # Imported late: answers that are all numbers, the common case, need no process, and voting stays light to import.
    from a1agent.engine.math_worker import MathWorker

    return MathWorker()
