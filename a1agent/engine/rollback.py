"""Rollback: of a rejected step stays what the target would have written too, up to the first token that it would not.

As the rollback of BiLD (*Speculative Decoding with Big Little Decoder*, arXiv 2302.07863), but whether a step is
rejected is the calibrator's to say, so that the rate is kept; here is only said from where on it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from a1agent.backends.base import Sequence as ModelSequence
from a1agent.backends.base import TokenScores
from a1agent.prompts import BLANK_LINE, THINK_CLOSE, THINK_OPEN

__all__ = ["NOTHING", "Kept", "first_strange", "kept_of"]

_STRANGE = 0.25
"""Share of the step's largest negative log-likelihood from which on a token is strange."""
_CHARACTER = 4
"""Most bytes, and so tokens, of a character."""


class Kept(NamedTuple):
    """What of a rejected step stays: its text, and its tokens under the target with their log-probabilities."""

    text: str = ""
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


NOTHING = Kept()


def first_strange(logprobs: Sequence[float]) -> int:
    """The first token that is at most as likely as the fourth root of the least likely one's probability.

    Follow-up errors are strange too, so that the least likely token may stand after the first mistake. A number that is
    not finite is strange.
    """
    strangeness = [-value if math.isfinite(value) else math.inf for value in logprobs]
    limit = _STRANGE * max(strangeness, default=0.0)
    return next((i for i, value in enumerate(strangeness) if value >= limit), 0)


def kept_of(step: str, scores: TokenScores, target: ModelSequence, strings: tuple[str, ...]) -> Kept:
    """What stays of a rejected `step`, which the target has scored.

    It is whole characters, as the step has them, and does not end in the beginning of a stop text, of a blank line, or
    of what opens or closes a thought: what the target writes after it would complete it unseen.
    """
    end = () if scores.end is None else (scores.end,)
    ends = (BLANK_LINE, THINK_OPEN, THINK_CLOSE, *strings)
    ids = scores.ids[: first_strange((*scores.logprobs, *end))]
    for count, length in reversed(_borders(step, ids, target)):
        if not _is_open(step[:length], ends):
            return Kept(step[:length], ids[:count], scores.logprobs[:count])
    return NOTHING


def _borders(step: str, ids: tuple[int, ...], target: ModelSequence) -> list[tuple[int, int]]:
    """After how many of the tokens, and of the step's characters, a character ends, as far as they spell the step."""
    found, first, length = list[tuple[int, int]](), 0, 0
    for count in range(1, len(ids) + 1):
        part = target.text_of(ids[first:count])
        if part is None and count - first < _CHARACTER:
            continue
        if part is None or not step.startswith(part, length):
            break
        first, length = count, length + len(part)
        found.append((count, length))
    return found


def _is_open(text: str, ends: tuple[str, ...]) -> bool:
    return any(text.endswith(end[:length]) for end in ends for length in range(1, len(end)))
