"""What the figures of a run say, in sentences. Where the target alone is the better choice, that comes first."""

from __future__ import annotations

import math
from typing import TypeVar

from a1agent.bench.figures import Figures, WayFigures, compare
from a1agent.bench.statistics import sign_flip_p_value, sure_of

__all__ = ["verdicts"]

T = TypeVar("T")

_SURE = 0.05
_MARGIN = 0.05
"""A way is called as good as another when it cannot well be right on a larger share of questions less, and may be
right on as many."""
_MANY = 200


def verdicts(found: Figures) -> list[str]:
    """One to four sentences, most important first."""
    return [line for line in (_choice(found), _control(found), _barrier(found), _small(found)) if line]


def _choice(found: Figures) -> str:
    """A1 or the target alone. A way is a choice when it is shown to be faster and not shown to be right less often."""
    ours = found.of("a1")
    target = found.alone(ours[0].way) if ours else None
    if target is None:
        return ""
    if not found.timed:
        return "No question was answered in every way, so that nothing can be said of speed: see what failed, below."
    worse = [f for f in ours if _less_right(found, f, target)]
    faster = _surely(ours, [_quicker(f, target) for f in ours])
    good = [f for f in faster if f not in worse]
    if good:
        best = max(good, key=_speedup)
        return f"A1 at a rate of {best.way.rate:g} is {_better(found, best, target)}"
    if faster:
        best = max(faster, key=_speedup)
        return (
            f"A1 buys speed with accuracy: at a rate of {best.way.rate:g} it is {_speedup(best):.2f} times as fast as "
            f"the target alone, and {_right(best, target)}."
        )
    more = _surely(ours, [_more_right(found, f, target) for f in ours])
    if more:
        surest = max(more, key=lambda f: f.vote.value)
        return (
            f"No rate of A1 is shown to be faster than the target alone; at a rate of {surest.way.rate:g} A1 is "
            f"{_right(surest, target)}, at {_speedup(surest):.2f} times the speed."
        )
    return _neither(max(ours, key=_speedup), target)


def _better(found: Figures, best: WayFigures, target: WayFigures) -> str:
    """What is said of the fastest way that is not shown to be right less often: how sure that is, too."""
    apart = compare(best, target, "vote", found.bootstrap).difference
    fast = f"{_speedup(best):.2f} times as fast as the target alone, and {_right(best, target)}"
    if _more_right(found, best, target) < _SURE:
        return f"the better choice: {fast}, which is more than chance makes."
    if apart.low >= -_MARGIN and apart.high >= 0:
        return f"the better choice: {fast}, a difference that this run cannot tell from chance."
    return (
        f"the faster choice: {fast}; whether it is right as often takes more questions to tell (the difference lies "
        f"between {apart.low:+.3f} and {apart.high:+.3f})."
    )


def _neither(best: WayFigures, target: WayFigures) -> str:
    """Nothing is shown; where A1 may yet be faster, that is not held against it."""
    if best.speedup is not None and not best.speedup.high <= 1:
        low, high = best.speedup.low, best.speedup.high
        between = "" if math.isnan(low) else f", between {low:.2f} and {high:.2f}"
        return (
            f"This run does not show A1 to be faster than the target alone (at a rate of {best.way.rate:g}: "
            f"{_speedup(best):.2f} times as fast{between}), nor to be right more often than it "
            f"(it is right in {target.vote.value:.3f} of the questions): use the target alone."
        )
    return (
        f"The target alone is the better choice here: at its fastest (rate {best.way.rate:g}) A1 is "
        f"{_speedup(best):.2f} times as fast, and at no rate is it shown to be right more often than the target "
        f"({target.vote.value:.3f} of the questions)."
    )


def _right(f: WayFigures, target: WayFigures) -> str:
    return f"right on {f.vote.value:.3f} of the questions against {target.vote.value:.3f}"


def _control(found: Figures) -> str:
    """Whether the scores are worth anything: two measures at several rates, all looked for together."""
    controls = {f.way.rate: f for f in found.of("a1-random")}
    pairs = [(f, controls[f.way.rate]) for f in found.of("a1") if f.way.rate in controls and 0 < f.way.rate < 1]
    if not pairs:
        return ""
    looked_for = [("by majority", f, _more_right(found, f, control, "majority")) for f, control in pairs]
    looked_for += [("chain by chain", f, _better_chains(f, control)) for f, control in pairs]
    beaten: dict[str, list[str]] = {}
    for how, f, _ in _surely(looked_for, [p_value for _, _, p_value in looked_for]):
        beaten.setdefault(how, []).append(f"{f.way.rate:g}")
    if not beaten:
        return (
            f"Scoring has shown nothing on {_questions(found)}: at no rate does A1 beat as many "
            "takeovers on random steps."
        )
    said = ", ".join(f"{how} at {_list(rates)}" for how, rates in beaten.items())
    return f"Scores tell which steps to take over: A1 beats as many takeovers on random steps {said}."


def _better_chains(one: WayFigures, other: WayFigures) -> float:
    """The p-value of more of the chains being right; 1 where fewer are."""
    apart = one.column("chains_right") - other.column("chains_right")
    return sign_flip_p_value(apart) if apart.sum() > 0 else 1.0


def _quicker(one: WayFigures, other: WayFigures) -> float:
    """The p-value of taking less time; 1 where it takes more."""
    saved = other.walls - one.walls
    return sign_flip_p_value(saved) if saved.sum() > 0 else 1.0


def _more_right(found: Figures, one: WayFigures, other: WayFigures, vote: str = "vote") -> float:
    """The p-value of being right more often; 1 where it is right less often."""
    compared = compare(one, other, vote, found.bootstrap)
    return compared.p_value if compared.difference.value > 0 else 1.0


def _less_right(found: Figures, one: WayFigures, other: WayFigures) -> bool:
    """Whether it is right less often, and not by chance. Each way is looked at alone: that is the careful side."""
    return _more_right(found, other, one) < _SURE


def _surely(findings: list[T], p_values: list[float]) -> list[T]:
    """Those that stand when all are looked for together."""
    return [finding for finding, sure in zip(findings, sure_of(p_values, _SURE), strict=True) if sure]


def _barrier(found: Figures) -> str:
    barriers = {f.way.rate: f for f in found.of("a1-sync")}
    pairs = [(f, barriers[f.way.rate]) for f in found.of("a1") if f.way.rate in barriers]
    if not pairs or not found.timed:
        return ""
    values = sorted(barrier.walls.sum() / f.walls.sum() for f, barrier in pairs)
    between = f"{values[0]:.2f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}"
    sure = _surely(pairs, [sign_flip_p_value(barrier.walls - f.walls) for f, barrier in pairs])
    unsure = "" if sure else ", which this run cannot tell from 1"
    return f"With the barrier of a synchronous ranking the same rates take {between} times as long{unsure}."


def _small(found: Figures) -> str:
    if found.questions >= _MANY:
        return ""
    margin = 0.98 / math.sqrt(found.questions)  # 1.96 standard errors of a share of one half
    return f"On {_questions(found)} a share of right answers is uncertain by up to {margin:.2f}."


def _questions(found: Figures) -> str:
    return "one question" if found.questions == 1 else f"{found.questions} questions"


def _speedup(f: WayFigures) -> float:
    return f.speedup.value if f.speedup is not None else 0.0


def _list(rates: list[str]) -> str:
    return rates[0] if len(rates) == 1 else f"{', '.join(rates[:-1])} and {rates[-1]}"
