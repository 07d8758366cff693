"""Decide: conformal calibration turns the score into accept or reject, without a look at sibling chains.

Two baselines to measure that against: `ranking` makes the chains wait for each other and ranks them; `random` puts
chance in the place of the score, with the same calibrator, so that as many steps are rejected and only which is not.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from a1agent.backends.base import Work
from a1agent.conformal.values import Decision, Observed, hashed_uniform
from a1agent.engine.chain import Call, Chain, seed_of
from a1agent.engine.ranking import Ranking
from a1agent.engine.verify import Verified
from a1agent.events import StepVerified
from a1agent.types import Verdict

__all__ = ["decide"]


async def decide(call: Call, chain: Chain, turn: int, attempt: int, verified: Verified) -> Verdict:
    """The verdict on a scored step; one atomic act that also feeds the calibrator."""
    observed = Observed(score=verified.score, question=call.key, chain=chain.index, turn=turn, attempt=attempt)
    if call.ranking is None:
        seen = _by_chance(call, observed) if call.options.baseline == "random" else observed
        decision, work = call.calibrator.decide(seen, call.options.rejection_rate), verified.read.work
    else:
        decision, work = await _ranked(call.ranking, observed, verified.read.work)
    verdict = Verdict(
        score=verified.score,
        p_value=decision.p_value,
        level=decision.level,
        rejected=decision.rejected,
        calibration_size=decision.calibration_size,
        forced=decision.forced,
    )
    call.emit(StepVerified(chain=chain.index, turn=turn, verdict=verdict, scored_tokens=verified.tokens, work=work))
    return verdict


async def _ranked(ranking: Ranking, observed: Observed, work: Work) -> tuple[Decision, Work]:
    """The decision of a ranking, and what the step cost with the wait at its barrier."""
    began = time.perf_counter()
    decision = await ranking.decide(observed.chain, observed.score)
    return decision, replace(work, waiting_s=work.waiting_s + time.perf_counter() - began)


def _by_chance(call: Call, observed: Observed) -> Observed:
    if not math.isfinite(observed.score):
        return observed
    seed = seed_of(call.seed, "chance")  # its own: the calibrator's smoothing hashes the same step
    return observed._replace(score=hashed_uniform(seed, observed))
