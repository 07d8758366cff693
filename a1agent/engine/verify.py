"""Verify: the target reads the drafted step and says how strange it finds it."""

from __future__ import annotations

from a1agent.backends.base import Generated, TokenScores
from a1agent.engine.chain import Call, Chain

__all__ = ["verify"]


async def verify(call: Call, chain: Chain, drafted: Generated) -> tuple[float, TokenScores]:
    """The step's score (nats per token, larger = stranger) and the token scores it comes from.

    Where the draft ended its turn, ending it there is scored as one more token: a draft that ends too early is caught.
    """
    scores = await chain.target.score(drafted.step, end=drafted.finish == "end")
    logprobs = scores.logprobs if scores.end is None else (*scores.logprobs, scores.end)
    return call.score(logprobs), scores
