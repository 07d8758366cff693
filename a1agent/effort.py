"""How hard to think, in the words of other APIs: an effort scales the chains and turns that an agent has by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from a1agent.config import Options

__all__ = ["Effort", "with_effort"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

_SHARES: Mapping[Effort, tuple[float, float]] = {
    "none": (0, 0.5),
    "minimal": (0, 0.5),
    "low": (0.5, 0.5),
    "medium": (1, 1),
    "high": (2, 2),
    "xhigh": (4, 2),
}
"""What chains and turns are multiplied with; there is always one of each."""


def with_effort(options: Options, effort: Effort) -> Options:
    """The options with chains and turns scaled."""
    chains, turns = _SHARES[effort]
    return options.replace(chains=max(1, round(options.chains * chains)), turns=max(1, round(options.turns * turns)))
