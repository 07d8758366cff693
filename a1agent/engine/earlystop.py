"""When a majority may be called before the last chain has answered, and how many chains that takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import exp, lgamma

from a1agent.config import Options

__all__ = ["beta_decided", "closes", "decided", "needed", "probability_of_staying_ahead"]


def closes(options: Options, counts: Sequence[int], remaining: int) -> bool:
    """Whether the vote may be closed with these votes per answer while so many chains have not answered."""
    if options.early_stop == "off" or options.vote not in ("auto", "majority"):
        return False
    if options.early_stop == "beta":
        return beta_decided(counts, remaining, options.stop_probability)
    return decided(counts, remaining)


def needed(options: Options, counts: Sequence[int], running: int, left: int) -> int:
    """How many of the `left` chains that have not begun must begin beside the `running` ones.

    The fewest with which the vote closes should all that run agree with the leader; all of them where none do.
    """
    leader, *others = sorted((0, *counts), reverse=True)
    if options.start == "all" or options.baseline == "ranking" or closes(options, counts, running + left):
        return left  # a vote that could close and did not is a contested one

    def enough(more: int) -> bool:
        return running + more > 0 and closes(options, (leader + running + more, *others), left - more)

    return min(left, bisect_left(range(left + 1), True, key=enough))


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


def probability_of_staying_ahead(leader: int, runner_up: int, remaining: int) -> float:
    """The chance that the leader has strictly more votes than the runner-up after `remaining` more answers.

    Each remaining chain is taken to vote for one of the two, for the leader with a probability p whose posterior is
    Beta(leader + 1, runner_up + 1), from a uniform prior. Counting third answers for the runner-up errs towards going
    on. With a = leader + 1, b = runner_up + 1, r = remaining, the leader's further votes X are beta-binomial:

        P(X = x) = C(a + x - 1, x) C(b + r - x - 1, r - x) / C(a + b + r - 1, r)

    and the result is the sum over leader + x > runner_up + r - x, each term from the one before. For r to infinity it
    becomes P(p > 1/2), the stopping rule of Adaptive-Consistency (Aggarwal et al. 2023, arXiv 2305.11860).
    """
    a, b = leader + 1, runner_up + 1
    least = max(0, (runner_up - leader + remaining) // 2 + 1)
    if least == 0:
        return 1.0
    if least > remaining:
        return 0.0
    log_term = _log_choose(a + least - 1, least) + _log_choose(b + remaining - least - 1, remaining - least)
    term = exp(log_term - _log_choose(a + b + remaining - 1, remaining))
    ahead = term
    for x in range(least, remaining):
        term *= (a + x) * (remaining - x) / ((x + 1) * (b + remaining - x - 1))
        ahead += term
    return min(1.0, ahead)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _first_two(counts: Sequence[int]) -> tuple[int, int]:
    leader, runner_up = sorted((0, 0, *counts), reverse=True)[:2]
    return leader, runner_up
