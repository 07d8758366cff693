"""Calibrators: from the score of a step to the decision whether the target takes over.

| name | compared with | level |
|---|---|---|
| `static` | a fixed set | the rejection rate |
| `online` | the newest scores of the stream | the rejection rate |
| `adaptive` | the newest scores of the same turn bucket | predicted, and corrected by feedback |

The guarantees of `adaptive` are on rates of takeover, not on answers being right: on the overall one
(`rate_gap_bound`), from its first steps on, or with conditional coverage on that of each question (`RateBudget`); rates
per turn are empirical.
"""

import math
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Protocol

from a1agent.conformal.adaptive import AdaptiveRule
from a1agent.conformal.pvalue import p_value
from a1agent.conformal.values import Coverage, Decision, Observed, check_rate, hashed_uniform, turn_bucket, unknown_name
from a1agent.conformal.window import ScoreWindow

__all__ = ["Calibrator", "make_calibrator"]

_WINDOW = 10_000  # resolves p-values to 1e-4, and follows a slow change of models or prompts

_NAMES = ("static", "online", "adaptive")

OnScore = Callable[[int, float], None]


def make_calibrator(
    name: str,
    *,
    rejection_rate: float,
    coverage: Coverage = "marginal",
    seed: int = 0,
    initial: Iterable[tuple[int, float]] = (),
    window: int = _WINDOW,
    on_score: OnScore | None = None,
) -> "Calibrator":
    """A calibrator by name (see the module's table).

    `initial`: (turn, score) pairs to start from, oldest first; those that are not finite are left out. `window`:
    scores kept per group, the newest (`static` keeps all of `initial`). `on_score(turn, score)` is called after each
    decision that stored a score, outside the lock. Raises ValueError for an unknown name or coverage, for conditional
    coverage with a calibrator that does not adapt, for a rate outside [0, 1] and for a window under 1.
    """
    if name not in _NAMES:
        raise unknown_name("calibrator", name, _NAMES)
    if coverage not in ("marginal", "conditional"):
        raise unknown_name("coverage", coverage, ("marginal", "conditional"))
    if coverage == "conditional" and name != "adaptive":
        raise ValueError(f"coverage 'conditional' needs the calibrator 'adaptive': {name!r} has no level per question")
    if window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    rule = _rule(name, coverage, window, [(turn, score) for turn, score in initial if math.isfinite(score)])
    return Calibrator(check_rate(rejection_rate), seed, rule, on_score if name != "static" else None)


def _rule(name: str, coverage: Coverage, window: int, initial: list[tuple[int, float]]) -> "_Rule":
    if name == "adaptive":
        return AdaptiveRule(coverage, window, initial)
    scores = [score for _, score in initial]
    if name == "online":
        return _FixedLevelRule(ScoreWindow(window, scores), grows=True)
    return _FixedLevelRule(ScoreWindow(max(1, len(scores)), scores), grows=False)


class _Rule(Protocol):
    """What a calibrator does under its lock."""

    def decide(self, step: Observed, rate: float, u: float) -> Decision: ...
    def close_question(self, question: str) -> None: ...
    def __len__(self) -> int: ...


class _FixedLevelRule:
    """One set of scores for all turns and the asked rate as the level: `static`, or `online` where it grows."""

    def __init__(self, scores: ScoreWindow, *, grows: bool) -> None:
        self._scores = scores
        self._grows = grows

    def __len__(self) -> int:
        return len(self._scores)

    def decide(self, step: Observed, rate: float, u: float) -> Decision:
        size = len(self._scores)
        if not math.isfinite(step.score):
            return Decision(p_value=math.nan, level=rate, rejected=True, calibration_size=size, forced=True)
        above, equal = self._scores.ranks(step.score)
        p = p_value(above, equal, size, u)
        if self._grows:
            self._scores.add(step.score)
        return Decision(p_value=p, level=rate, rejected=p <= rate, calibration_size=size, forced=False)

    def close_question(self, question: str) -> None:
        """Nothing is kept by question."""


class Calibrator:
    """Turns scores into decisions that keep a rejection rate. A lock makes it safe to share between threads."""

    def __init__(self, rejection_rate: float, seed: int, rule: _Rule, on_score: OnScore | None) -> None:
        self._rejection_rate = rejection_rate
        self._seed = seed
        self._rule = rule
        self._on_score = on_score
        self._lock = Lock()

    def __len__(self) -> int:
        """Scores stored, over all groups."""
        with self._lock:
            return len(self._rule)

    def decide(self, step: Observed, rejection_rate: float | None = None) -> Decision:
        """Decide about `step` and learn from it, as one atomic act; `rejection_rate` overrides for this step.

        Raises ValueError for a rate outside [0, 1] or a negative turn.
        """
        rate = self._rejection_rate if rejection_rate is None else check_rate(rejection_rate)
        turn_bucket(step.turn)  # refuses a bad turn before anything is learned from the step
        u = hashed_uniform(self._seed, step)
        with self._lock:
            decision = self._rule.decide(step, rate, u)
        if self._on_score is not None and math.isfinite(step.score):
            self._on_score(step.turn, step.score)
        return decision

    def close_question(self, question: str) -> None:
        """Forget what was learned about this one question; its scores stay. Unknown questions are ignored."""
        with self._lock:
            self._rule.close_question(question)
