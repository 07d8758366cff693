"""From the target's token log-probabilities to one score of a step: larger is stranger, in nats per token."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from a1agent.conformal.values import unknown_name

__all__ = [
    "SCORES",
    "ScoreFunction",
    "mean_nll",
    "mean_score",
    "or_strangest",
    "score_function",
    "worst_nll",
]

ScoreFunction = Callable[[Sequence[float]], float]

_LARGEST = 1e300
"""Up to here the scores of any number of steps can be added up."""


def mean_nll(logprobs: Sequence[float]) -> float:
    """Mean negative log-likelihood per token; its exp is the step's perplexity.

    `logprobs`: natural logs, one per token. An empty step gives nan and a value that is not finite carries over, as
    does one near the end of what a float holds, so that a calibrator turns all of them into a takeover.
    """
    if len(logprobs) == 0:
        return math.nan
    return -_sum(logprobs) / len(logprobs)


def worst_nll(logprobs: Sequence[float]) -> float:
    """Mean negative log-likelihood of the least likely fifth of the tokens, at least one of them.

    Sees one wrong digit that the mean over a long step dilutes. Empty and non-finite steps as in `mean_nll`.
    """
    if not all(math.isfinite(logprob) for logprob in logprobs):
        return mean_nll(logprobs)  # sorting is undefined with nan, and an infinite one would be among the worst
    return mean_nll(sorted(logprobs)[: -(-len(logprobs) // 5)])


SCORES: Mapping[str, ScoreFunction] = MappingProxyType({"mean_nll": mean_nll, "worst_nll": worst_nll})


def score_function(name: str) -> ScoreFunction:
    """The score of that name in `SCORES`; raises ValueError that names the nearest."""
    try:
        return SCORES[name]
    except KeyError:
        raise unknown_name("score", name, SCORES) from None


def mean_score(scores: Sequence[float]) -> float:
    """Mean of the finite scores of several steps; NaN when there is none."""
    known = [score for score in scores if math.isfinite(score)]
    return math.fsum(known) / len(known) if known else math.nan


def or_strangest(score: float | None) -> float:
    """A score to order by: one that is not there, or not finite, is stranger than all others."""
    return score if score is not None and math.isfinite(score) else math.inf


def _sum(logprobs: Sequence[float]) -> float:
    try:
        total = math.fsum(logprobs)
    except (ValueError, OverflowError):  # inf with -inf, or beyond the range of a float
        return math.nan
    return total if abs(total) < _LARGEST or math.isinf(total) else math.nan
