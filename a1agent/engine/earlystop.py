"""When a majority may be called before the last chain has answered."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb

__all__ = ["beta_decided", "decided", "probability_of_staying_ahead"]


def decided(counts: Sequence[int], remaining: int) -> bool:
    """Whether the answer with most votes wins whatever the remaining chains answer.

    `counts`: votes per answer so far, in any order. Exact: true if and only if every completion, with new answers among
    them, leaves the leader strictly ahead. A tie does not do, since scores of chains still to come would break it; with
    none to come nothing can change any more.
    """
    if remaining <= 0:
        return True
    leader, runner_up = _first_two(counts)
    return leader > runner_up + remaining


def beta_decided(counts: Sequence[int], remaining: int, probability: float) -> bool:
    """Whether the leader stays strictly ahead with at least this probability (0 to 1); true wherever `decided` is."""
    if decided(counts, remaining):
        return True
    leader, runner_up = _first_two(counts)
    return probability_of_staying_ahead(leader, runner_up, remaining) >= probability


def probability_of_staying_ahead(leader: int, runner_up: int, remaining: int) -> Fraction:
    """The chance that the leader has strictly more votes than the runner-up after `remaining` more answers.

    Each remaining chain is taken to vote for one of the two, for the leader with a probability p whose posterior is
    Beta(leader + 1, runner_up + 1), from a uniform prior. Counting third answers for the runner-up errs towards going
    on. With a = leader + 1, b = runner_up + 1, r = remaining, the leader's further votes X are beta-binomial:

        P(X = x) = C(a + x - 1, x) C(b + r - x - 1, r - x) / C(a + b + r - 1, r)

    and the result is the sum over leader + x > runner_up + r - x, in exact integers. For r to infinity it becomes
    P(p > 1/2), the stopping rule of Adaptive-Consistency (Aggarwal et al. 2023, arXiv 2305.11860).
    """
    a, b = leader + 1, runner_up + 1
    least = max(0, (runner_up - leader + remaining) // 2 + 1)
    ahead = sum(comb(a + x - 1, x) * comb(b + remaining - x - 1, remaining - x) for x in range(least, remaining + 1))
    return Fraction(ahead, comb(a + b + remaining - 1, remaining))


def _first_two(counts: Sequence[int]) -> tuple[int, int]:
    leader, runner_up = sorted((0, 0, *counts), reverse=True)[:2]
    return leader, runner_up
