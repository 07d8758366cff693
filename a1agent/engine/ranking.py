"""The barrier of a synchronous ranking: what A1 does away with, kept to be measured against."""

from __future__ import annotations

import asyncio
import math
from fractions import Fraction

from a1agent.conformal.scores import or_strangest
from a1agent.conformal.values import Decision

__all__ = ["Ranking"]


class Ranking:
    """At each turn all chains of a call wait for each other; then the share `rate` with the worst scores is rejected.

    A share of n chains that is no whole number is carried over to the next turn, so that the rate holds over turns;
    half a step is owed at the start, so that short calls round instead of always falling short. A chain that has ended
    is waited for no more. The p-value of a step is its rank from the strangest, over n; a score that is not finite is
    rejected beside that share, as calibrators do.
    """

    def __init__(self, chains: int, rate: float) -> None:
        self._rate = Fraction(rate)
        self._owed = Fraction(1, 2)
        self._open = set(range(chains))
        self._waiting: dict[int, tuple[float, asyncio.Future[Decision]]] = {}

    async def decide(self, chain: int, score: float) -> Decision:
        """The decision about this chain's step, once every open chain has a step to be ranked."""
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[chain] = (score, future)
        self._release_if_complete()
        return await future

    def leave(self, chain: int) -> None:
        """Waits for this chain no more: it has ended."""
        self._open.discard(chain)
        self._waiting.pop(chain, None)
        self._release_if_complete()

    def _release_if_complete(self) -> None:
        if not self._waiting or self._waiting.keys() != self._open:
            return
        ranked = sorted(self._waiting.items(), key=lambda item: (-or_strangest(item[1][0]), item[0]))
        self._waiting.clear()
        present = len(ranked)
        self._owed += self._rate * present
        budget = math.floor(self._owed)
        self._owed -= budget
        for rank, (_, (score, future)) in enumerate(ranked, start=1):
            if not future.done():
                future.set_result(_decision(score, rank, budget, present))


def _decision(score: float, rank: int, budget: int, present: int) -> Decision:
    finite = math.isfinite(score)
    return Decision(
        p_value=rank / present if finite else math.nan,
        level=budget / present,
        rejected=rank <= budget or not finite,
        calibration_size=present - 1,
        forced=not finite,
    )
