"""Selectivity: do decisions follow the scores, or only keep the rate?"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

__all__ = ["selectivity"]


def selectivity(items: Iterable[tuple[str, float, bool]]) -> float | None:
    """Chance that a rejected step scored worse than an accepted one of the same question, ties counted one half.

    `items`: (question, score, rejected) of each step. An area under the ROC curve within each question, weighted by
    its number of (rejected, accepted) pairs: 1 where decisions follow scores only, 0.5 where they ignore them. None
    without any pair. Infinite scores count; steps whose score is nan have no place in the order and are left out.
    O(n log n).
    """
    questions: dict[str, tuple[list[float], list[float]]] = {}
    for question, score, rejected in items:
        if score == score:
            questions.setdefault(question, ([], []))[rejected].append(score)
    won = pairs = 0.0
    for accepted, rejected_scores in questions.values():
        ordered = sorted(accepted)
        won += sum(bisect_left(ordered, s) + bisect_right(ordered, s) for s in rejected_scores) / 2
        pairs += len(accepted) * len(rejected_scores)
    return won / pairs if pairs else None
