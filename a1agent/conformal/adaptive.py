"""The adaptive calibrator: predict the level at which the asked share will be rejected, then correct by feedback."""

import math
from collections.abc import Iterable
from functools import lru_cache
from statistics import NormalDist

from a1agent.conformal.effects import OpenQuestion, QuestionEffects, probit, probit_inverse
from a1agent.conformal.feedback import GLOBAL_GAIN, TURN_GAIN, GlobalTerm, RateBudget, moved
from a1agent.conformal.pvalue import p_value
from a1agent.conformal.values import Coverage, Decision, Observed, turn_bucket
from a1agent.conformal.window import ScoreWindow, ranks_in

__all__ = ["AdaptiveRule"]

THIN = 50  # a bucket with fewer scores is compared with all of them instead
TRAFFIC_WEIGHT = 0.75  # how much of the questions under way marginal coverage compensates; the rest follows difficulty

_DENSITY_FLOOR = 0.1  # at rates under 0.05 a step of feedback would otherwise move the level by more than the rate
_NORMAL = NormalDist()


class AdaptiveRule:
    """Scores grouped by turn bucket, and a level that is predicted and corrected. Not locked: its calibrator is.

    level = Phi(probit(rate) * spread + effect + (sum of feedback terms) / density - pull), Phi the normal distribution
    function and density its slope at the asked rate: to first order the sum of the terms is added to the level, but
    the level stays within [0, 1]. With nothing learned it is the rate. `effect` and `spread` come from `effects.py`.

    Steps may be asked for different rates. The term over all of them alone would let some pay for others: what easy
    questions asked for 0.1 leave to be taken over, hard ones asked for 0.6 would be charged with. So half of it is the
    term of the asked rate; where all ask for one rate the two are the same.

    Marginal coverage takes the effect of all questions under way: one alone on the machine is kept close to the rate,
    among many each may follow its difficulty. Conditional coverage takes that of this question. What has the rate to
    keep, all steps or this question, pulls the level by how far it is off, and stays within a margin (`RateBudget`).
    """

    def __init__(self, coverage: Coverage, capacity: int, initial: Iterable[tuple[int, float]]) -> None:
        self._conditional = coverage == "conditional"
        self._capacity = capacity
        self._effects = QuestionEffects()
        self._global = GlobalTerm()
        self._all = RateBudget()
        self._rates: dict[float, float] = {}  # a term for each asked rate, to a hundredth
        self._turns: dict[int, float] = {}  # a term for each bucket; there are few
        grouped: dict[int, list[float]] = {}
        for turn, score in initial:
            grouped.setdefault(turn_bucket(turn), []).append(score)
        self._windows = {bucket: ScoreWindow(capacity, scores) for bucket, scores in grouped.items()}

    def __len__(self) -> int:
        return sum(len(window) for window in self._windows.values())

    def decide(self, step: Observed, rate: float, u: float) -> Decision:
        """p-value, decision, feedback and memory of one step."""
        bucket = turn_bucket(step.turn)
        question = self._effects.arrive(step.question)
        level = self._level(question, bucket, rate)
        if math.isfinite(step.score):
            decision = self._judge(step, question, bucket, rate, level, u)
            self._effects.learn(question, probit(decision.p_value))
            self._remember(bucket, step.score)
        else:
            size = self._calibration_size(bucket)
            decision = Decision(p_value=math.nan, level=level, rejected=True, calibration_size=size, forced=True)
        self._feed_back(question, bucket, decision.rejected, rate)
        return decision

    def close_question(self, question: str) -> None:
        self._effects.close(question)

    def _judge(
        self, step: Observed, question: OpenQuestion, bucket: int, rate: float, level: float, u: float
    ) -> Decision:
        own = self._windows.get(bucket)
        if own is not None and len(own) >= THIN:
            above, equal = own.ranks(step.score)
            size = len(own)
        else:  # which scores are compared with depends on counts only, so that p stays uniform
            above, equal, size = ranks_in(self._windows.values(), step.score)
        p = p_value(above, equal, size, u)
        rejected = self._budget(question).last_word(p <= level, rate)
        rejected = self._global.last_word(rejected, rate)
        return Decision(
            p_value=p, level=level, rejected=rejected, calibration_size=size, forced=rejected != (p <= level)
        )

    def _level(self, question: OpenQuestion, bucket: int, rate: float) -> float:
        if rate in (0.0, 1.0):
            return rate
        z, density = _at_rate(rate)
        if self._conditional:
            effect, spread = self._effects.of_question(question)
        else:
            effect, spread = TRAFFIC_WEIGHT * self._effects.of_traffic(), 1.0
        return probit_inverse(z * spread + effect + self._terms(bucket, rate) / density - self._budget(question).pull)

    def _terms(self, bucket: int, rate: float) -> float:
        """Sum of the feedback terms: half of that over all steps, half of this rate's, and the turn's."""
        return 0.5 * (self._global.value + self._rates.get(round(rate, 2), 0.0)) + self._turns.get(bucket, 0.0)

    def _feed_back(self, question: OpenQuestion, bucket: int, rejected: bool, rate: float) -> None:
        self._global.move(rejected, rate)
        asked = round(rate, 2)
        self._rates[asked] = moved(self._rates.get(asked, 0.0), GLOBAL_GAIN, rejected, rate)
        self._turns[bucket] = moved(self._turns.get(bucket, 0.0), TURN_GAIN, rejected, rate)
        self._budget(question).move(rejected, rate)

    def _budget(self, question: OpenQuestion) -> RateBudget:
        """What the rate of this question, or of all steps, may be off by."""
        return question.budget if self._conditional else self._all

    def _calibration_size(self, bucket: int) -> int:
        own = self._windows.get(bucket)
        return len(self) if own is None or len(own) < THIN else len(own)

    def _remember(self, bucket: int, score: float) -> None:
        window = self._windows.get(bucket)
        if window is None:
            window = self._windows[bucket] = ScoreWindow(self._capacity)
        window.add(score)


@lru_cache(maxsize=256)
def _at_rate(rate: float) -> tuple[float, float]:
    """Where the normal distribution function reaches `rate`, and its slope there."""
    z = _NORMAL.inv_cdf(rate)
    return z, max(_NORMAL.pdf(z), _DENSITY_FLOOR)
