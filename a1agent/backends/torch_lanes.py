"""A model of transformers with one of the library's own caches for each lane: for models that do not run packed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from a1agent.backends.batching.runner import Rows
from a1agent.backends.torch_attention import Layout
from a1agent.backends.torch_packed import numbers_of

__all__ = ["LaneModel"]


class LaneModel:
    """Every lane runs alone, so a forward of n lanes costs n forwards, and each copies the lane's whole cache."""

    def __init__(self, model: Any) -> None:
        self._model: Any = model
        self._device = torch.device(model.device)
        self._caches: dict[int, Any] = {}

    def forward(self, rows: Rows) -> torch.Tensor:
        """Logits of the wanted rows, in their order [wanted, vocabulary]."""
        layout = Layout.of(rows)
        order = layout.keep.argsort()
        wanted = layout.keep[order]
        runs = [(i, i + 1) for i in range(layout.singles)] + [(each.first, each.last) for each in layout.segments]
        logits = [self._run(layout, first, last, wanted) for first, last in runs]
        found = torch.cat(logits)
        return found.index_select(0, torch.as_tensor(order.argsort()).to(found.device))

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives lane `target` the first `length` tokens of lane `source`; growing either makes tensors of its own."""
        self._caches[target] = _cut(_twin(self._caches[source]), length)

    def remove(self, lane: int, start: int) -> None:
        """Drops a lane's tokens from position `start` on."""
        if start == 0:
            self._caches.pop(lane, None)
        elif lane in self._caches:
            _cut(self._caches[lane], start)

    def free(self) -> None:
        """Drops the model and its caches."""
        self._caches.clear()
        self._model = None

    def _run(self, layout: Layout, first: int, last: int, wanted: npt.NDArray[np.int64]) -> torch.Tensor:
        """Logits of the wanted rows among `first:last`, which belong to one lane."""
        cache = self._caches.setdefault(int(layout.lanes[first]), DynamicCache())
        tokens, positions = (
            torch.as_tensor(part[first:last])[None].to(self._device) for part in (layout.tokens, layout.positions)
        )
        keep = wanted[(wanted >= first) & (wanted < last)] - first
        found = self._model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=numbers_of(self._model, keep),
        )
        return found.logits[0]


def _twin(cache: Any) -> Any:
    """A cache of its own over the same tensors: they are never written to, growing makes new ones."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def _cut(cache: Any, length: int) -> Any:
    surplus = cache.get_seq_length() - length
    if surplus > 0:
        cache.crop(-surplus)
    return cache
