"""Records and models made by hand, for tests of what is concluded from them."""

import random
from typing import Any

from a1agent.bench.ledger import BareRates, Record
from a1agent.bench.timeline import Span
from a1agent.bench.ways import Way
from a1agent.stats import RejectionStats, TurnStats

DRAFT, TARGET = "scripted:sums?accuracy=0.6", "scripted:sums"


def stats(steps: int = 20, rejected: int = 4, **changed: Any) -> RejectionStats:
    values: dict[str, Any] = {
        "asked_rate": 0.2,
        "observed_rate": rejected / steps if steps else None,
        "verifications": steps,
        "unverified": 0,
        "rejections": rejected,
        "by_turn": [TurnStats(verifications=steps, rejections=rejected)],
        "p_value_histogram": [steps // 10] * 10,
        "selectivity": 0.9,
        "non_finite_scores": 0,
        "calibration_size": 100,
        "calibrator": "adaptive",
        "coverage": "marginal",
        "chains_started": 8,
        "chains_finished": 8,
        "chains_cancelled": 0,
        "chains_failed": 0,
        "drafted_tokens": 400,
        "kept_tokens": 320,
        "discarded_tokens": 80,
        "scored_tokens": 400,
        "target_tokens": 80,
        "prompt_tokens": 100,
        "cached_tokens": 0,
        "reused_tokens": 0,
        "reread_tokens": 0,
        "draft_s": 0.2,
        "verify_s": 0.1,
        "takeover_s": 0.1,
        "waiting_s": 1.0,
        "queued_s": 0.0,
        "wall_s": 0.5,
        "draft_tokens_per_s": 2000.0,
        "target_tokens_per_s": 800.0,
        "asynchronous_intensity": 0.4,
    }
    return RejectionStats(**(values | changed))


def records(way: Way, count: int, *, right: float, seconds: float, **changed: Any) -> list[Record]:
    """So many answers, a share of them right: the same questions for ways of the same share, more for a higher one."""
    drawn = random.Random(0)
    hard = [drawn.random() for _ in range(count)]
    return [
        Record(
            problem=i,
            way=way.name,
            expected="1",
            answer="1" if hard[i] < right else "2",
            majority="1" if hard[i] < right else "2",
            right=hard[i] < right,
            majority_right=hard[i] < right,
            any_right=True,
            chains_right=right,
            wall_s=seconds * (1 + 0.1 * hard[i]),
            prompt_s=0.02,
            spans={"draft": Span(busy_s=0.3, chain_s=1.5)},
            stats=stats(**changed),
        )
        for i in range(count)
    ]


def bare(**changed: Any) -> BareRates:
    values: dict[str, Any] = {
        "problem": 0,
        "chains": 8,
        "draft": 4000.0,
        "score": 4000.0,
        "takeover": 500.0,
        "alone": 1000.0,
        "batches": {"draft": 5, "verify": 2, "takeover": 2, "alone": 8},
    }
    return BareRates(**(values | changed))
