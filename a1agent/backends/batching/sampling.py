"""Draws and weighs tokens with numpy: several times faster than a sampler that sorts or copies the vocabulary."""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from a1agent.backends.base import Sampling

__all__ = ["Draw", "LogSumExp", "can_draw"]

Floats = npt.NDArray[np.float32]

_BLOCK = 256
_CACHED = 1 << 18  # logits that are worked on at once: what stays in a core's cache
_PART = 1 << 20  # logits that are worth a thread of their own
_THREADS = 8  # beyond them memory is what is waited for
_LEAST, _MOST = 1e-20, 1e30  # sums of exponentials that neither lost small terms nor overflowed


def can_draw(sampling: Sampling) -> bool:
    """Whether `Draw` covers a way of sampling: all but those that need the vocabulary sorted."""
    return sampling.temperature > 0 and sampling.top_k <= 0 and sampling.top_p >= 1


class Draw:
    """Temperature and min-p sampling of one call, with a random stream of its own.

    Inverse transform sampling in two steps, first a block of the vocabulary, then a token in it, so that no cumulative
    sum over the vocabulary is needed.
    """

    def __init__(self, sampling: Sampling, vocabulary: int) -> None:
        self._uniform = random.Random(sampling.seed).random
        self._sharpness = np.float32(1 / sampling.temperature)
        self._floor = math.log(sampling.min_p) if sampling.min_p > 0 else None
        self._starts = np.arange(0, vocabulary, _BLOCK)

    def __call__(self, logits: Floats, scratch: Floats) -> int:
        """One token; `scratch` has room for the vocabulary. With logits that are not finite: the first token."""
        weights = scratch[: len(logits)]
        np.subtract(logits, logits.max(), out=weights)
        if self._floor is not None:
            weights[weights < self._floor] = -np.inf
        np.multiply(weights, self._sharpness, out=weights)
        np.exp(weights, out=weights)
        sums: Floats = np.add.reduceat(weights, self._starts)
        aim = self._uniform() * float(sums.sum(dtype=np.float64))
        block, rest = _locate(sums, aim)
        start = block * _BLOCK
        token = start + _locate(weights[start : start + _BLOCK], rest)[0]
        # Rounding may aim past the last token that has any weight; a token without weight is never drawn.
        while token > 0 and not weights[token] > 0:
            token -= 1
        return token


class LogSumExp:
    """Of each row of logits: [rows, vocabulary] -> [rows]. Many rows are shared out to threads.

    Exponentials of most models' logits are well within a float: the passes that shift them are for where they are not.
    """

    def __init__(self, vocabulary: int, threads: int = 1) -> None:
        threads = min(threads, _THREADS)
        self._rows = max(1, _CACHED // vocabulary)
        self._buffers = [np.empty((self._rows, vocabulary), np.float32) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "a1-log-sum-exp")

    def __call__(self, logits: Floats) -> Floats:
        result = np.empty(len(logits), np.float32)
        parts = max(1, min(len(self._buffers), logits.size // _PART))
        bounds = [len(logits) * i // parts for i in range(parts + 1)]
        shares = [
            (logits[a:b], result[a:b], buffer)
            for a, b, buffer in zip(bounds[:-1], bounds[1:], self._buffers[:parts], strict=True)
        ]
        others = [self._pool.submit(self._fill, *share) for share in shares[1:]]
        self._fill(*shares[0])
        for other in others:
            other.result()
        return result

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _fill(self, logits: Floats, result: Floats, buffer: Floats) -> None:
        for start in range(0, len(logits), self._rows):
            block = logits[start : start + self._rows]
            result[start : start + self._rows] = _log_sum_exp(block, buffer[: len(block)])


def _log_sum_exp(logits: Floats, work: Floats) -> Floats:
    with np.errstate(over="ignore"):
        total: Floats = np.einsum("ij->i", np.exp(logits, out=work))  # in half the time of `sum`
    if ((total > _LEAST) & (total < _MOST)).all():
        return np.log(total)
    top = logits.max(axis=1)
    np.subtract(logits, top[:, None], out=work)
    np.exp(work, out=work)
    return np.log(work.sum(axis=1)) + top


def _locate(weights: Floats, aim: float) -> tuple[int, float]:
    """The entry in which a cumulative sum passes `aim`, and how much of `aim` is left for that entry."""
    sums: npt.NDArray[np.float64] = np.cumsum(weights, dtype=np.float64)
    at = min(int(np.searchsorted(sums, aim, side="right")), len(sums) - 1)
    return at, aim - (float(sums[at - 1]) if at else 0.0)
