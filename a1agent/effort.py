"""How hard to think, in the words of other APIs: the same presets wherever they are asked for.

effort           chains   turns   rejection rate    with A1's defaults
none, minimal    1        x 1/2   x 2/3             1 chain, 8 turns, 0.2
low              x 1/2    x 1/2   x 2/3             4 chains, 8 turns, 0.2
medium           x 1      x 1     x 1               8 chains, 15 turns, 0.3
high             x 2      x 2     x 4/3             16 chains, 30 turns, 0.4
xhigh            x 4      x 2     x 4/3             32 chains, 30 turns, 0.4
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from a1agent.config import Options
from a1agent.errors import InvalidOption, nearest

__all__ = ["Effort", "preset", "with_effort"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

_SHARES: Mapping[str, tuple[float, float, float]] = {
    "none": (0, 1 / 2, 2 / 3),
    "minimal": (0, 1 / 2, 2 / 3),
    "low": (1 / 2, 1 / 2, 2 / 3),
    "medium": (1, 1, 1),
    "high": (2, 2, 4 / 3),
    "xhigh": (4, 2, 4 / 3),
}
"""What chains, turns and rate are multiplied with; there is always one chain and one turn."""


def preset(effort: str, options: Options | None = None) -> dict[str, Any]:
    """The chains, turns and rejection rate of an effort, for an agent with these options (None: A1's defaults).

    Raises `InvalidOption` for an effort that is none.
    """
    if effort not in _SHARES:
        raise InvalidOption(f"the effort is {effort!r}", nearest(effort, get_args(Effort)))
    usual = options or Options()
    chains, turns, rate = _SHARES[effort]
    return {
        "chains": max(1, round(usual.chains * chains)),
        "turns": max(1, round(usual.turns * turns)),
        "rejection_rate": min(1.0, round(usual.rejection_rate * rate, 4)),
    }


def with_effort(options: Options, effort: str) -> Options:
    """The options with what an effort sets. Raises `InvalidOption`."""
    return options.replace(**preset(effort, options))
