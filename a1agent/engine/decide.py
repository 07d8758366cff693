"""Decide: conformal calibration turns the score into accept or reject, without a look at sibling chains."""

from __future__ import annotations

from a1agent.conformal.calibrators import Observed
from a1agent.engine.chain import Call, Chain
from a1agent.engine.verify import Verified
from a1agent.events import StepVerified
from a1agent.types import Verdict

__all__ = ["decide"]


def decide(call: Call, chain: Chain, turn: int, attempt: int, verified: Verified) -> Verdict:
    """The verdict on a scored step; one atomic act that also feeds the calibrator."""
    decision = call.calibrator.decide(
        Observed(
            score=verified.score,
            question=call.key,
            chain=chain.index,
            turn=turn,
            attempt=attempt,
        ),
        call.options.rejection_rate,
    )
    verdict = Verdict(
        score=verified.score,
        p_value=decision.p_value,
        level=decision.level,
        rejected=decision.rejected,
        calibration_size=decision.calibration_size,
        forced=decision.forced,
    )
    call.emit(
        StepVerified(chain=chain.index, turn=turn, verdict=verdict, scored_tokens=verified.tokens, work=verified.work)
    )
    return verdict
