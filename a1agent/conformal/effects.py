"""Predicting the right level: how strange is this question, and what is under way now?

All of this lives on the scale z = probit(p). There z is standard normal over the stream, as p is uniform, whatever
the models, the score and its tails are; so one set of constants serves every stream. `z = effect + rest` splits it
into a part that the steps of a question share and one that they do not (a random-effects model), and the share of
variance between questions, the intraclass correlation, is learned from the stream. Where questions do not differ it
tends to 0, and nothing is predicted.

The draft's scores are left out: a level that follows the draft's score of the very step it judges undoes part of what
the target found.
"""

import math
from collections import OrderedDict
from statistics import NormalDist

from a1agent.conformal.feedback import RateBudget

__all__ = ["OpenQuestion", "QuestionEffects", "probit", "probit_inverse"]

_NORMAL = NormalDist()
_ROOT_HALF = math.sqrt(0.5)
_EDGE = 1e-4  # keeps z within 3.7: beyond that a p-value says more about the size of the set than about the step

PRIOR_SHARE = 0.1  # intraclass correlation before any data, worth PRIOR_STEPS products
PRIOR_STEPS = 20.0
MAX_SHARE = 0.9
SHARE_FORGETTING = 1 / 2000  # a step's weight in the intraclass correlation decays over thousands of steps,
STEP_FORGETTING = 1 / 100  # in its question's effect over a hundred (later turns resemble each other more)
TRAFFIC_FORGETTING = 1 / 64  # and in what is under way over dozens
MAX_OPEN = 4096  # questions never closed are forgotten after this many others


def probit(p: float) -> float:
    """Quantile of the standard normal, with p kept off 0 and 1."""
    return _NORMAL.inv_cdf(_EDGE if p < _EDGE else p if p < 1.0 - _EDGE else 1.0 - _EDGE)


def probit_inverse(z: float) -> float:
    """Distribution function of the standard normal."""
    return 0.5 * math.erfc(-z * _ROOT_HALF)


class OpenQuestion:
    """Discounted sums over the steps of one open question, its share of what is under way, and its takeovers."""

    __slots__ = ("budget", "count", "effect", "seen_at", "total", "traffic")

    def __init__(self, now: int) -> None:
        self.count = self.total = 0.0
        self.effect = 0.0
        self.budget = RateBudget()
        self.traffic = 0.0  # discounted number of its steps in the stream, as of `seen_at`
        self.seen_at = now


class QuestionEffects:
    """Posterior effects of the open questions; every call is O(1). Not locked: its owner is."""

    def __init__(self) -> None:
        self._questions: OrderedDict[str, OpenQuestion] = OrderedDict()
        self._products = PRIOR_SHARE * PRIOR_STEPS
        self._weights = PRIOR_STEPS
        self.share = PRIOR_SHARE  # of the variance of z that lies between questions, up to MAX_SHARE
        self._now = 0
        self._traffic_effect = self._traffic = 0.0

    def arrive(self, question: str) -> OpenQuestion:
        """A step of `question` is about to be decided: it counts as under way. Good until the next call."""
        entry = self._questions.get(question)
        if entry is None:
            entry = self._questions[question] = OpenQuestion(self._now)
            if len(self._questions) > MAX_OPEN:
                self.close(next(iter(self._questions)))
        else:
            self._questions.move_to_end(question)
        self._now += 1
        keep = 1.0 - TRAFFIC_FORGETTING
        self._age_traffic(entry)
        self._traffic_effect = self._traffic_effect * keep + entry.effect
        self._traffic = self._traffic * keep + 1.0
        entry.traffic += 1.0
        return entry

    def of_question(self, entry: OpenQuestion) -> tuple[float, float]:
        """Mean of the question's effect and spread (standard deviation) of its next z, predicted from its steps so far.

        Conjugate normal model with variances `share` between questions and `1 - share` within.
        """
        share = self.share
        precision = entry.count * share + 1.0 - share
        return share * entry.total / precision, math.sqrt((1.0 - share) * (1.0 + share / precision))

    def of_traffic(self) -> float:
        """Mean effect of the questions under way, weighted by how many of the latest steps were theirs."""
        return self._traffic_effect / self._traffic

    def learn(self, entry: OpenQuestion, z: float) -> None:
        """The step of a question that just arrived turned out to be `z`."""
        if entry.count > 0.0:
            # The product of two steps of one question has the mean `share`; a mean over more of them is less noisy.
            weight = entry.count / (entry.count + 4.0)
            keep = 1.0 - SHARE_FORGETTING
            self._products = self._products * keep + weight * z * entry.total / entry.count
            self._weights = self._weights * keep + weight
            self.share = min(max(self._products / self._weights, 0.0), MAX_SHARE)
        keep = 1.0 - STEP_FORGETTING
        entry.count = entry.count * keep + 1.0
        entry.total = entry.total * keep + z
        effect = self.share * entry.total / (entry.count * self.share + 1.0 - self.share)
        self._traffic_effect += entry.traffic * (effect - entry.effect)
        entry.effect = effect

    def close(self, question: str) -> None:
        """Forget the question; it is no longer under way. Unknown ones are ignored."""
        entry = self._questions.pop(question, None)
        if entry is None:
            return
        self._age_traffic(entry)
        self._traffic_effect -= entry.traffic * entry.effect
        self._traffic = max(self._traffic - entry.traffic, 0.0)
        if not self._questions:  # sums start afresh, so that rounding never adds up
            self._traffic_effect = self._traffic = 0.0

    def _age_traffic(self, entry: OpenQuestion) -> None:
        entry.traffic *= (1.0 - TRAFFIC_FORGETTING) ** (self._now - entry.seen_at)
        entry.seen_at = self._now
