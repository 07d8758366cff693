"""Screen: the draft's own log-probabilities, which cost nothing, say which steps the target need not read."""

from __future__ import annotations

from a1agent.backends.base import Generated
from a1agent.conformal.values import Observed
from a1agent.engine.chain import Call, Chain
from a1agent.engine.verify import score_of

__all__ = ["passes_unread"]


async def passes_unread(call: Call, chain: Chain, turn: int, drafted: Generated) -> bool:
    """Whether the step is too plain to the draft itself to be among the share `verify_rate` that the target scores.

    Such a step is added to the target's sequence, which reads it with the next step that it scores. A draft that tells
    no log-probabilities has every step scored, unless none is to be; one that is its own target has its steps scored
    for nothing anyway.
    """
    if call.screen is None or chain.own_target:
        return False
    score = score_of(call, drafted.logprobs, drafted.end)
    observed = Observed(score=score, question=call.key, chain=chain.index, turn=turn)
    share = call.options.verify_rate
    if share > 0 and call.screen.decide(observed, share).rejected:
        return False
    await chain.target.append(drafted.step)
    return True
