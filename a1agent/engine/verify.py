"""Verify: the target reads the drafted step and says how strange it finds it."""

from __future__ import annotations

from typing import NamedTuple

from a1agent.backends.base import Generated, TokenScores
from a1agent.engine.chain import Call, Chain

__all__ = ["Verified", "score_of", "verify"]


class Verified(NamedTuple):
    """The step's score (nats per token, larger = stranger), that of each token, and how many were read for them."""

    score: float
    read: TokenScores
    tokens: int = 0


async def verify(call: Call, chain: Chain, drafted: Generated) -> Verified:
    """Where the draft ended its turn, ending it there is scored as one more token: one that ends too early is caught.

    A model that is its own target has just told what the score would be, and reads nothing.
    """
    if chain.own_target:
        known = TokenScores(ids=drafted.step.ids or (), logprobs=drafted.logprobs, end=drafted.end)
        return Verified(score_of(call, known.logprobs, known.end), known)
    scores = await chain.target.score(drafted.step, end=drafted.finish == "end")
    return Verified(score_of(call, scores.logprobs, scores.end), scores, len(scores.ids))


def score_of(call: Call, logprobs: tuple[float, ...], end: float | None) -> float:
    """The score of a step from the log-probabilities of its tokens, and of ending the turn after it."""
    return call.score(logprobs if end is None else (*logprobs, end))
