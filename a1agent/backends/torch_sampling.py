"""Tokens drawn from logits, and their log-probabilities, for many sequences at once, where the logits are."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, cast

import torch

from a1agent.backends.base import Sampling
from a1agent.backends.batching.runner import END

__all__ = ["Sampler", "draw", "log_probabilities", "there"]

_BLOCK = 256
_CANDIDATES = 512
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}  # logits in single precision at once: a processor's cache, a GPU's pace


class Sampler:
    """How the tokens of one call are drawn, with a stream of random numbers of its own."""

    __slots__ = ("floor", "sharpness", "top_k", "top_p", "uniform")

    def __init__(self, sampling: Sampling) -> None:
        self.uniform = random.Random(sampling.seed).random
        self.sharpness = 1 / sampling.temperature
        self.top_k = max(0, sampling.top_k)
        self.top_p = sampling.top_p
        self.floor = math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf

    @property
    def cuts(self) -> bool:
        """Whether it needs to know the most probable tokens in order."""
        return self.top_k > 0 or self.top_p < 1


def draw(logits: torch.Tensor, samplers: Sequence[Sampler | None]) -> list[int]:
    """One token for each row of logits [rows, vocabulary]; a sampler None takes the most probable one.

    The truncations apply to the distribution at temperature 1, top-k before top-p, as llama.cpp does. What a row gets
    depends on its logits and its sampler only, not on the other rows. Of logits that are not finite: the first token.
    """
    chances = [each for each in samplers if each is not None]
    if not chances:
        return _listed(logits.argmax(-1))
    if len(chances) == len(samplers):
        return _listed(_draw(logits.float(), chances))
    rows = there([i for i, each in enumerate(samplers) if each is not None], torch.long, logits.device)
    picked = _draw(logits.index_select(0, rows).float(), chances)
    return _listed(logits.argmax(-1).index_copy_(0, rows, picked))


def log_probabilities(logits: torch.Tensor, targets: list[int], ends: torch.Tensor) -> list[float]:
    """Natural log-probability of one target for each row [rows, vocabulary]; `END` stands for any id of `ends`."""
    ids = there(targets, torch.long, logits.device)
    result = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    step = max(1, _CHUNK.get(logits.device.type, 1 << 22) // logits.shape[1])
    for start in range(0, len(targets), step):
        chunk = logits[start : start + step].float()
        wanted = ids[start : start + step]
        chosen = chunk.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
        result[start : start + step] = chosen - chunk.logsumexp(-1)
    at_end = [row for row, target in enumerate(targets) if target == END]
    if at_end:
        rows = there(at_end, torch.long, logits.device)
        result.index_copy_(0, rows, _end_log_probability(logits.index_select(0, rows).float(), ends))
    return _listed(result)


def there(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers on a device, without waiting for what it does now."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def _listed(values: torch.Tensor) -> list[Any]:
    return cast("list[Any]", values.tolist())  # pyright: ignore[reportUnknownMemberType]


def _end_log_probability(logits: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    if not len(ends):
        return logits.new_full((len(logits),), -torch.inf)
    return logits[:, ends.to(logits.device)].logsumexp(-1) - logits.logsumexp(-1)


def _draw(logits: torch.Tensor, samplers: list[Sampler]) -> torch.Tensor:
    """Inverse transform sampling: [rows, vocabulary] -> [rows]."""
    device = logits.device
    floors = there([each.floor for each in samplers], torch.float32, device)
    thresholds = logits.amax(-1) + floors
    cut = [row for row, each in enumerate(samplers) if each.cuts]
    if cut:
        rows = there(cut, torch.long, device)
        lowest = _lowest_kept(logits.index_select(0, rows), [samplers[row] for row in cut])
        thresholds.index_copy_(0, rows, torch.maximum(thresholds.index_select(0, rows), lowest))
    if cut or any(each.floor > -math.inf for each in samplers):
        logits = logits.masked_fill(logits < thresholds[:, None], -torch.inf)
    sharpness = there([each.sharpness for each in samplers], torch.float32, device)
    weights = (logits * sharpness[:, None]).softmax(-1)
    uniform = there([each.uniform() for each in samplers], torch.float64, device)
    return _locate(weights, uniform)


def _lowest_kept(logits: torch.Tensor, samplers: list[Sampler]) -> torch.Tensor:
    """The smallest logit that top-k and top-p keep in each row, from a few candidates where those suffice."""
    device, vocabulary = logits.device, logits.shape[1]
    ranks = there([min(each.top_k or vocabulary, vocabulary) for each in samplers], torch.long, device)
    share = there([each.top_p for each in samplers], torch.float32, device)
    width = min(vocabulary, max(_CANDIDATES, *(each.top_k for each in samplers)))
    while True:
        values = logits.topk(width, -1).values
        known = torch.arange(width, device=device) < ranks[:, None]
        inside = values.masked_fill(~known, -torch.inf)
        total = torch.where(ranks <= width, inside.logsumexp(-1), logits.logsumexp(-1))
        mass = (inside - total[:, None]).exp().cumsum(-1)
        kept = torch.minimum(1 + (mass < share[:, None]).sum(-1), ranks)
        if width == vocabulary or bool(((kept <= width) | (share >= 1) & (ranks <= width)).all()):
            return values.gather(1, (kept.clamp(max=width) - 1)[:, None])[:, 0]
        width = min(vocabulary, 8 * width)


def _locate(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulative weights [rows, vocabulary] pass `uniform` [rows] of their sum.

    First a block of tokens, then a token in it: no cumulative sum over the vocabulary, and few roundings.
    """
    rows, vocabulary = weights.shape
    whole = vocabulary // _BLOCK * _BLOCK
    sums = weights[:, :whole].view(rows, -1, _BLOCK).sum(-1) if whole else weights[:, :0]
    if whole < vocabulary:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], -1)
    block, rest = _pass(sums.double(), uniform * sums.double().sum(-1))
    at = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, at.clamp(max=vocabulary - 1)).double().masked_fill_(at >= vocabulary, 0)
    return block * _BLOCK + _pass(inside, rest)[0]


def _pass(weights: torch.Tensor, aim: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where cumulative weights pass `aim`, and what is left of it there; never at an entry without weight."""
    sums = weights.cumsum(-1)
    count = torch.arange(weights.shape[1], device=weights.device)
    last = ((weights > 0) * count).amax(-1)
    at = torch.minimum((sums <= aim[:, None]).sum(-1), last)
    before = (sums - weights).gather(1, at[:, None])[:, 0]
    return at, aim - before
