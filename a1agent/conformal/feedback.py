"""Correcting the level by what was decided: the terms of feedback, and the bound on the rate that they keep."""

import math

__all__ = [
    "GLOBAL_GAIN",
    "RATE_MARGIN",
    "RATE_STEPS",
    "TURN_GAIN",
    "GlobalTerm",
    "RateBudget",
    "moved",
    "rate_gap_bound",
]

GLOBAL_GAIN = 0.025
TURN_GAIN = 0.01
RATE_MARGIN = 0.15
RATE_STEPS = 16
_PULL = 0.5  # on the probit scale, where a question is at the end of its margin


class GlobalTerm:
    """The feedback term over all steps, which has the last word: it keeps the overall rate, whatever happens.

    After a step that was asked for the rate r_t and decided x_t (1 rejected, 0 accepted) the term moves by
    g * (r_t - x_t), g = `GLOBAL_GAIN`, as in adaptive conformal inference (Gibbs & Candès 2021, arXiv 2106.00170).
    Above 1 it forces a rejection and below -1 an acceptance.

    Claim. For any scores, in any order, from any number of threads (`last_word` and `move` of a step run under one
    lock), for every T >= 1

        | sum of x_t - sum of r_t | <= (1 + g) / g        hence  | overall rate - asked rate | <= (1 + g) / (g T).

    Proof. The term starts at 0, and |g * (r - x)| <= g as r and x lie in [0, 1]. Suppose |term| <= 1 + g before a
    step. If |term| <= 1, then |term| <= 1 + g after it. If term > 1, the step is rejected (x = 1) and the term moves
    by g * (r - 1), which lies in [-g, 0]: it stays in [1 - g, 1 + g], and g <= 1. If term < -1, it is accepted and the
    mirror image holds. So |term| <= 1 + g throughout. The term is g times the sum of (r_t - x_t); divide by g. QED.
    Where r is exactly 0 or 1 nothing is forced: deciding x = r moves the term by 0, and that keeps the claim as well.

    Other feedback terms and every prediction only choose x where |term| <= 1, which the proof leaves free.

    A score that is not finite must be a takeover (x = 1) whatever the term says. It is charged like any rejection, and
    the proof covers it, unless an acceptance was due (term < -1): then the term moves no lower than -1 - g. With k such
    steps the lower bound is untouched, and the sum exceeds its upper bound by less than k:
    sum of x_t - sum of r_t <= (1 + g) / g + k. Over the other steps alone the claim holds as it stands, up to the part
    of a step that the floor left uncharged. Charging them in full would only look better: once the model recovers,
    the debt would have to be paid by accepting that many steps unseen.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def last_word(self, rejected: bool, asked_rate: float) -> bool:
        """What becomes of a step with a finite score that the level would reject or accept."""
        if asked_rate in (0.0, 1.0):
            return asked_rate == 1.0
        if abs(self.value) > 1.0:
            return self.value > 0.0
        return rejected

    def move(self, rejected: bool, asked_rate: float) -> None:
        """Take in the decision; the floor is reached by takeovers of non-finite scores only (see above)."""
        floor = -1.0 - GLOBAL_GAIN
        value = self.value + GLOBAL_GAIN * (asked_rate - rejected)
        self.value = value if value > floor else floor


def rate_gap_bound(steps: int) -> float:
    """Largest possible |overall rate - asked rate| after `steps` decisions with finite scores."""
    return math.inf if steps < 1 else (1.0 + GLOBAL_GAIN) / (GLOBAL_GAIN * steps)


class RateBudget:
    """The takeovers of a stream of steps beyond those asked for, kept within a margin: a cap, and a floor.

    The stream is one question's with conditional coverage, and otherwise that of all steps, of whose first hundreds the
    bound of `GlobalTerm` says little. Let e be the sum of (x_t - r_t) over its n steps so far, and b(n) = `RATE_MARGIN`
    * max(n, `RATE_STEPS`). A rejection that would leave e > b(n) becomes an acceptance, an acceptance that would leave
    e < -b(n) a rejection; before it comes to that, `pull` moves the level the more, the closer e is to b.

    Claim. |e| <= b(n) after every step, hence |rate of the stream - asked rate| <= `RATE_MARGIN` from its
    `RATE_STEPS`-th step on, for any scores in any order.

    Proof. e = 0 at first, b never falls, and b >= 1. Say |e| <= b before a step and rejecting would leave
    e + 1 - r > b. The step is accepted, and e - r > b - 1 >= -b, e - r <= e <= b. The mirror image holds for
    e - r < -b; otherwise the decision itself keeps the claim. QED.

    Where rates differ between steps, the asked rate is their mean. A question that was closed starts anew.

    Steps that were decided by others (the overall bound, whose word is the last; a score that is not finite) may leave
    the margin. They count up to its edge and no further, so that no question has to pay for long afterwards; by the
    part that was not counted the rate can be off further. In the stream of all steps the overall bound never does so:
    it rejects where e is far below 0, and accepts where it is far above.
    """

    __slots__ = ("_excess", "_steps")

    def __init__(self) -> None:
        self._excess = 0.0
        self._steps = 0

    @property
    def pull(self) -> float:
        """What to take from the level, on the probit scale: in proportion to how much of its margin is used up."""
        return _PULL * self._excess / self._margin(self._steps)

    def last_word(self, rejected: bool, asked_rate: float) -> bool:
        """What becomes of a step with a finite score that the level would reject or accept."""
        margin = self._margin(self._steps + 1)
        if rejected:
            return self._excess + 1.0 - asked_rate <= margin
        return self._excess - asked_rate < -margin

    def move(self, rejected: bool, asked_rate: float) -> None:
        """Take in the decision."""
        self._steps += 1
        margin = self._margin(self._steps)
        self._excess = min(max(self._excess + rejected - asked_rate, -margin), margin)

    @staticmethod
    def _margin(steps: int) -> float:
        return RATE_MARGIN * max(steps, RATE_STEPS)


def moved(term: float, gain: float, rejected: bool, asked_rate: float) -> float:
    """A term after a decision: moved like the global one but without its guarantee, and kept within [-1, 1]."""
    term += gain * (asked_rate - rejected)
    return term if -1.0 <= term <= 1.0 else math.copysign(1.0, term)  # a term of 1 outweighs everything already
