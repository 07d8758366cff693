"""Attention of a packed forward: tokens of many lanes in one row, each attending to its own lane's keys and values.

One function is registered with transformers; the `Attention` that it calls travels through the model as a keyword.
Registered functions get query [1, heads, tokens, width], key and value [1, key heads, tokens, width], and give back
[1, tokens, heads, width].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from a1agent.backends.batching.runner import Rows
from a1agent.backends.torch_slots import SlotCache

__all__ = ["KEYWORD", "NAME", "Attention", "Layout", "SdpaAttention", "Traits", "attend"]

NAME = "a1agent_packed"
KEYWORD = "a1agent_attention"
_Places = npt.NDArray[np.int64]
_SPREAD = 2  # lanes that a batched call may run over for each lane that it is asked about


@dataclass(frozen=True, slots=True)
class Traits:
    """How a layer attends. `window`: tokens that a token sees, itself included; 0: all. `cap`: soft cap of scores.

    `sinks`: a logit for each head that takes weight from all tokens [heads].
    """

    scale: float
    window: int = 0
    cap: float = 0.0
    sinks: torch.Tensor | None = None


class Attention(Protocol):
    """What one forward does in each of its layers."""

    def __call__(
        self, layer: int, traits: Traits, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Stores key and value [tokens, key heads, width] and attends: [tokens, heads, width] -> the same."""
        ...


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls in each layer; the mask is ours to know."""
    traits = Traits(scaling or query.shape[-1] ** -0.5, sliding_window or 0, softcap or 0.0, s_aux)
    attention: Attention = others[KEYWORD]
    packed = attention(module.layer_idx, traits, *(each[0].transpose(0, 1) for each in (query, key, value)))
    return packed[None], None


@dataclass(frozen=True, slots=True)
class Segment:
    """Several tokens of one lane: rows `first:last` of the forward, at positions `start:stop`."""

    lane: int
    first: int
    last: int
    start: int
    stop: int


@dataclass(slots=True)
class Layout:
    """Rows in the order they run in: lone tokens first, by lane, then the segments.

    `keep`: rows whose logits are wanted, in the caller's order. `singles`: how many lone tokens there are.
    """

    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    lanes: npt.NDArray[np.int64]
    keep: npt.NDArray[np.int64]
    singles: int
    segments: list[Segment] = field(default_factory=list[Segment])

    @classmethod
    def of(cls, rows: Rows) -> Layout:
        """The layout of a forward. A lane's rows stand together and continue each other."""
        lanes = np.asarray(rows.lanes, np.int64)
        starts = np.flatnonzero(np.diff(lanes, prepend=-1))
        counts = np.diff(starts, append=len(lanes))
        alone = starts[counts == 1]
        alone = alone[np.argsort(lanes[alone], kind="stable")]
        runs: list[_Places] = [
            np.arange(start, start + count) for start, count in zip(starts, counts, strict=True) if count > 1
        ]
        order = np.concatenate([alone, *runs]) if runs else alone
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        tokens, positions = np.asarray(rows.tokens, np.int64), np.asarray(rows.positions, np.int64)
        layout = cls(tokens[order], positions[order], lanes[order], place[np.flatnonzero(rows.wanted)], len(alone))
        at = len(alone)
        for run in runs:
            start = int(positions[run[0]])
            layout.segments.append(Segment(int(lanes[run[0]]), at, at + len(run), start, start + len(run)))
            at += len(run)
        return layout


@dataclass(frozen=True, slots=True)
class _Group:
    """Lone tokens that one batched call serves: rows `first:last`, lanes `low:high`.

    `places`: where each row's lane stands among those lanes; None when every lane has a row.
    """

    first: int
    last: int
    low: int
    high: int
    places: torch.Tensor | None
    lengths: torch.Tensor


class SdpaAttention:
    """Attention on views of the slots, never a copy: lone tokens in batches, every segment in a call of its own."""

    def __init__(self, cache: SlotCache, layout: Layout, dtype: torch.dtype) -> None:
        self._cache = cache
        self._layout = layout
        self._dtype = dtype
        self._places: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        self._lanes: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._groups = [self._group(first, last) for first, last in _runs(layout.lanes[: layout.singles])]
        self._masks: dict[tuple[object, int, torch.device], tuple[int, int, torch.Tensor | None]] = {}

    def __call__(
        self, layer: int, traits: Traits, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        places = self._places_on(key.device)
        keys.transpose(1, 2).index_put_(places, key)
        values.transpose(1, 2).index_put_(places, value)
        tokens, heads, _ = query.shape
        query = query.reshape(tokens, keys.shape[1], heads // keys.shape[1], -1)
        parts = [self._attend_group(group, traits, query, keys, values) for group in self._groups]
        parts += [self._attend_segment(segment, traits, query, keys, values) for segment in self._layout.segments]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(tokens, heads, -1)

    def _places_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Lane and position of each token, on the device of a layer."""
        if device not in self._places:
            lanes, positions = (torch.as_tensor(part) for part in (self._layout.lanes, self._layout.positions))
            self._places[device] = (lanes.to(device, non_blocking=True), positions.to(device, non_blocking=True))
        return self._places[device]

    def _lanes_on(self, group: _Group, device: torch.device) -> torch.Tensor | None:
        """The places of a group's lanes, on the device of a layer."""
        key = (group.first, device)
        if group.places is not None and key not in self._lanes:
            self._lanes[key] = group.places.to(device, non_blocking=True)
        return self._lanes.get(key)

    def _attend_group(
        self, group: _Group, traits: Traits, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Lone tokens: [rows, key heads, group, width], the heads of a group as if they were tokens."""
        start, stop, mask = self._group_mask(group, traits.window, query.device)
        asked = query[group.first : group.last]
        places = self._lanes_on(group, query.device)
        if places is not None:
            asked = query.new_zeros(group.high - group.low, *query.shape[1:]).index_copy_(0, places, asked)
        ours = (slice(group.low, group.high), slice(None), slice(start, stop))
        sinks = None if traits.sinks is None else traits.sinks.view(1, *asked.shape[1:3], 1)
        found = _weigh(asked, keys[ours], values[ours], mask, traits, sinks)
        return found if places is None else found.index_select(0, places)

    def _attend_segment(
        self, segment: Segment, traits: Traits, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Tokens of one lane: key heads take the place of the batch, so that no key is repeated for its group."""
        start, stop, mask = self._segment_mask(segment, traits.window, query.device)
        asked = query[segment.first : segment.last].permute(1, 2, 0, 3)
        ours = (segment.lane, slice(None), None, slice(start, stop))
        group = asked.shape[1]
        key, value = (each[ours].expand(-1, group, -1, -1) for each in (keys, values))
        sinks = None if traits.sinks is None else traits.sinks.view(*asked.shape[:2], 1, 1)
        return _weigh(asked, key, value, mask, traits, sinks).permute(2, 0, 1, 3)

    def _group(self, first: int, last: int) -> _Group:
        lanes = self._layout.lanes[first:last]
        low, high = int(lanes[0]), int(lanes[-1]) + 1
        places = None if high - low == last - first else torch.as_tensor(lanes - low)
        own = self._layout.positions[first:last] + 1
        lengths = np.full(high - low, own.min())  # lanes without a row: nobody reads what comes of them
        lengths[lanes - low] = own
        return _Group(first, last, low, high, places, torch.as_tensor(lengths))

    def _group_mask(self, group: _Group, window: int, device: torch.device) -> tuple[int, int, torch.Tensor | None]:
        """The positions that any row sees, and which of them each row does: [lanes, 1, 1, positions]."""
        key = (group.first, window, device)
        if key not in self._masks:
            lengths = group.lengths
            stop = int(lengths.max())
            start = max(0, int(lengths.min()) - window) if window else 0
            at = torch.arange(start, stop)
            seen = at < lengths[:, None]
            if window:
                seen &= at >= lengths[:, None] - window
            self._masks[key] = (start, stop, self._mask(seen, device)[:, None, None])
        return self._masks[key]

    def _segment_mask(
        self, segment: Segment, window: int, device: torch.device
    ) -> tuple[int, int, torch.Tensor | None]:
        """The positions that any token sees, and which of them each does: [tokens, positions]; None: plain causal."""
        key = (segment, window, device)
        if key not in self._masks:
            start = max(0, segment.start + 1 - window) if window else 0
            if segment.start == 0 and (not window or segment.stop <= window):
                self._masks[key] = (0, segment.stop, None)
            else:
                own = torch.arange(segment.start, segment.stop)[:, None]
                at = torch.arange(start, segment.stop)
                seen = at <= own
                if window:
                    seen &= at > own - window
                self._masks[key] = (start, segment.stop, self._mask(seen, device))
        return self._masks[key]

    def _mask(self, seen: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Zero where a token is seen, else minus infinity: converted once, not in every layer."""
        mask = torch.zeros(seen.shape, dtype=self._dtype).masked_fill_(~seen, -torch.inf)
        return mask.to(device, non_blocking=True)


def _runs(lanes: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Stretches of sorted lanes without large gaps."""
    found: list[tuple[int, int]] = []
    first = 0
    for i in range(1, len(lanes) + 1):
        if i == len(lanes) or lanes[i] - lanes[first] + 1 > _SPREAD * (i - first + 1):
            found.append((first, i))
            first = i
    return found


def _weigh(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    traits: Traits,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of [batch, heads, tokens, width]; without a mask each token sees itself and those before it."""
    if traits.cap or sinks is not None:
        return _weigh_plainly(query, key, value, mask, traits, sinks)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None and query.shape[2] > 1, scale=traits.scale
    )


def _weigh_plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    traits: Traits,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """What no fused kernel does: soft caps and sinks, the latter of any shape that fits [batch, heads, tokens, 1]."""
    scores = torch.matmul(query, key.transpose(2, 3)) * traits.scale
    if traits.cap:
        scores = torch.tanh(scores / traits.cap) * traits.cap
    if mask is None:
        mask = torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu(1)
    scores = (scores + mask).float()
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(-1)[..., : key.shape[2]]
    return torch.matmul(weights.to(value.dtype), value)
