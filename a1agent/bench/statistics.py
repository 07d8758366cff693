"""Estimates with bootstrap intervals, and the paired test. Questions are what is resampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bootstrap", "Estimate", "Values", "paired_p_value", "sign_flip_p_value", "sure_of"]

_DRAWS = 4000
_LEVEL = 0.95
_ENUMERATED = 12
"""Differences up to which all signs are gone through: 2**12 of them."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % bootstrap interval; nan of one question, which shows nothing of how others vary."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Percentile intervals over resamples of `count` questions, the same ones for every value: pairs stay pairs."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._weights = (
            np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_DRAWS).astype(np.float64)
        )

    def mean(self, values: Values) -> Estimate:
        """Of one value a question."""
        return self._estimate(float(values.mean()), self._weights @ values / len(values))

    def bounded(self, values: Values, least: float, most: float) -> Estimate:
        """As `mean`, of values between `least` and `most`: resamples show no spread where all questions agree.

        None of n questions is of a kind that is up to 1 - 0.025**(1/n) of all there are (Clopper and Pearson 1934). The
        interval reaches as far as so many questions at the bounds would move the mean.
        """
        seen, unseen = self.mean(values), 1 - ((1 - _LEVEL) / 2) ** (1 / len(values))
        low, high = seen.value - unseen * (seen.value - least), seen.value + unseen * (most - seen.value)
        return Estimate(seen.value, float(np.fmin(seen.low, low)), float(np.fmax(seen.high, high)))

    def ratio(self, above: Values, below: Values) -> Estimate:
        """Of sums over questions."""
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = (self._weights @ above) / (self._weights @ below)
        return self._estimate(float(above.sum() / below.sum()), draws)

    def _estimate(self, value: float, draws: Values) -> Estimate:
        if self._count == 1:
            return Estimate(value, math.nan, math.nan)
        low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return Estimate(value, float(low), float(high))


def paired_p_value(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Two-sided exact McNemar test: how surprising the split of the questions that only one of two ways got right is.

    Under the null hypothesis each such question is a fair coin (McNemar 1947; exact binomial form).
    """
    only, other_only = int((right & ~other).sum()), int((other & ~right).sum())
    count, least = only + other_only, min(only, other_only)
    tail = sum(math.comb(count, k) for k in range(least + 1)) / 2**count
    return min(1.0, 2 * tail)


def sign_flip_p_value(differences: Values) -> float:
    """Two-sided sign-flip test: how surprising the mean of paired differences is, were each as likely the other way.

    Exact for few differences that are not 0, by drawn signs for more (the drawn p-value counts what was seen as one
    draw, so that it is never 0). Few questions can never show much: n of them at best 2 / 2**n. Fisher 1935.
    """
    values = differences[differences != 0]
    count = len(values)
    signs, extra = (_all_signs(count), 0) if count <= _ENUMERATED else (_drawn_signs(count), 1)
    least = abs(float(values.sum())) * (1 - 1e-9)
    extreme = int((np.abs(signs @ values) >= least).sum())
    return (extreme + extra) / (len(signs) + extra)


def _all_signs(count: int) -> Values:
    """Every choice of signs, shape [2**count, count]."""
    numbers: NDArray[np.int64] = np.arange(2**count, dtype=np.int64).reshape(-1, 1)
    bits: NDArray[np.int64] = np.right_shift(numbers, np.arange(count, dtype=np.int64)) % 2
    return 1.0 - 2.0 * bits.astype(np.float64)


def _drawn_signs(count: int) -> Values:
    """Some choices of signs, the same ones every time, shape [`_DRAWS`, count]."""
    return 1.0 - 2.0 * np.random.default_rng(0).integers(0, 2, (_DRAWS, count)).astype(np.float64)


def sure_of(p_values: Sequence[float], level: float) -> list[bool]:
    """Which of several findings stand when they are looked for together: with probability 1 - `level` none by chance.

    Step-down method of Holm (1979).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    stand = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - rank):
            break
        stand[i] = True
    return stand
