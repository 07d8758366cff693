"""What the figures of a run say, in sentences. Where the target alone is the better choice, that comes first."""

from __future__ import annotations

import math

from a1agent.bench.figures import Figures, WayFigures, compare

__all__ = ["verdicts"]

_SURE = 0.05
_MANY = 200


def verdicts(found: Figures) -> list[str]:
    """One to four sentences, most important first."""
    return [line for line in (_choice(found), _control(found), _barrier(found), _small(found)) if line]


def _choice(found: Figures) -> str:
    """A1 or the target alone. A way is a choice when it is faster and not shown to be right less often."""
    ours = [f for f in found.of("a1") if f.speedup is not None]
    target = found.alone(ours[0].way) if ours else None
    if target is None:
        return ""
    worse = [f for f in ours if _worse(found, f, target)]
    faster = [f for f in ours if f.speedup is not None and f.speedup.low > 1]
    good = [f for f in faster if f not in worse]
    if good:
        best = max(good, key=_speedup)
        return (
            f"A1 at a rate of {best.way.rate:g} is the better choice: {_speedup(best):.2f} times as fast as the target "
            f"alone, and {_right(best, target)}, a difference that this run cannot tell from chance."
        )
    if faster:
        best = max(faster, key=_speedup)
        return (
            f"A1 buys speed with accuracy: at a rate of {best.way.rate:g} it is {_speedup(best):.2f} times as fast as "
            f"the target alone, and {_right(best, target)}."
        )
    best = max(ours, key=_speedup)
    more = [f for f in ours if _worse(found, target, f)]
    if more:
        surest = max(more, key=lambda f: f.vote.value)
        return (
            f"No rate of A1 is shown to be faster than the target alone; at a rate of {surest.way.rate:g} A1 is "
            f"{_right(surest, target)}, at {_speedup(surest):.2f} times the speed."
        )
    return (
        f"The target alone is the better choice here: at its fastest (rate {best.way.rate:g}) A1 is "
        f"{_speedup(best):.2f} times as fast, and at no rate is it shown to be right more often than the target "
        f"({target.vote.value:.3f} of the questions)."
    )


def _right(f: WayFigures, target: WayFigures) -> str:
    return f"right on {f.vote.value:.3f} of the questions against {target.vote.value:.3f}"


def _control(found: Figures) -> str:
    """Whether the scores are worth anything."""
    controls = {f.way.rate: f for f in found.of("a1-random")}
    pairs = [(f, controls[f.way.rate]) for f in found.of("a1") if f.way.rate in controls and 0 < f.way.rate < 1]
    if not pairs:
        return ""
    beaten = {
        "by majority": [f for f, control in pairs if _worse(found, control, f, "majority")],
        "chain by chain": [f for f, control in pairs if _better_chains(found, f, control)],
    }
    said = [f"{how} at {_list([f'{f.way.rate:g}' for f in ways])}" for how, ways in beaten.items() if ways]
    if not said:
        return (
            f"Scoring has shown nothing on these {found.questions} questions: at no rate does A1 beat as many "
            "takeovers on random steps."
        )
    return f"Scores tell which steps to take over: A1 beats as many takeovers on random steps {', '.join(said)}."


def _better_chains(found: Figures, one: WayFigures, other: WayFigures) -> bool:
    return found.bootstrap.mean(one.column("chains_right") - other.column("chains_right")).low > 0


def _barrier(found: Figures) -> str:
    barriers = {f.way.rate: f for f in found.of("a1-sync")}
    ratios = [
        found.bootstrap.ratio(barriers[f.way.rate].column("wall_s"), f.column("wall_s"))
        for f in found.of("a1")
        if f.way.rate in barriers
    ]
    if not ratios:
        return ""
    values = sorted(ratio.value for ratio in ratios)
    between = f"{values[0]:.2f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}"
    return f"With the barrier of a synchronous ranking the same rates take {between} times as long."


def _small(found: Figures) -> str:
    if found.questions >= _MANY:
        return ""
    margin = 0.98 / math.sqrt(found.questions)  # 1.96 standard errors of a share of one half
    return f"On {found.questions} questions a share of right answers is uncertain by up to {margin:.2f}."


def _worse(found: Figures, one: WayFigures, other: WayFigures, vote: str = "vote") -> bool:
    """Whether `one` is right less often than `other`, and not by chance."""
    compared = compare(one, other, vote, found.bootstrap)
    return compared.difference.value < 0 and compared.p_value < _SURE


def _speedup(f: WayFigures) -> float:
    return f.speedup.value if f.speedup is not None else 0.0


def _list(rates: list[str]) -> str:
    return rates[0] if len(rates) == 1 else f"{', '.join(rates[:-1])} and {rates[-1]}"
