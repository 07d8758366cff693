"""Attention and graphs of NVIDIA GPUs: a variable-length flash kernel over the slots, decode steps replayed whole."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from a1agent.backends.torch_attention import Layout, Traits
from a1agent.backends.torch_slots import LayerShape, SlotCache

__all__ = ["DecodeGraphs", "VarlenAttention", "can_use_varlen", "present"]

_log = logging.getLogger(__name__)
_BUCKETS = (1, 2, 4, 8, *range(16, 257, 16))
_WIDEST_HEAD = 256
_capturing = threading.Lock()  # PyTorch allows one capture at a time in a process

Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], torch.Tensor]


def present(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the present one of this thread, as the kernels of some models take for granted."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def can_use_varlen(shapes: list[LayerShape], traits: list[Traits]) -> bool:
    """Whether the flash kernel does all that a model's layers need, and PyTorch's takes lengths apart from places."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    known = inspect.signature(varlen_attn).parameters
    return (
        {"scale", "window_size", "enable_gqa", "seqused_k"} <= set(known)
        and all(
            shape.device.type == "cuda" and torch.cuda.get_device_capability(shape.device) >= (8, 0) for shape in shapes
        )
        and all(shape.dtype in (torch.float16, torch.bfloat16) for shape in shapes)
        and all(shape.key == shape.value <= _WIDEST_HEAD and shape.key % 8 == 0 for shape in shapes)
        and len({shape.device for shape in shapes}) == 1
        and not any(each.cap or each.sinks is not None for each in traits)
    )


class VarlenAttention:
    """One kernel call a layer for all lanes, whatever they do: the kernel finds each lane's keys by its own start.

    `lanes`, `positions`: of each token [tokens]; `begins`: where each lane's tokens begin, and their count [runs + 1];
    `places`: where each run's keys begin in the flattened slots [runs + 1]; `lengths`: how many it has [runs].
    The tensors may be those of a graph, filled anew before each replay.
    """

    def __init__(
        self,
        cache: SlotCache,
        lanes: torch.Tensor,
        positions: torch.Tensor,
        begins: torch.Tensor,
        places: torch.Tensor,
        lengths: torch.Tensor,
        longest: tuple[int, int],
    ) -> None:
        self._cache = cache
        self._lanes, self._positions = lanes, positions
        self._begins, self._places, self._lengths = begins, places, lengths
        self._longest = longest

    @classmethod
    def of(cls, cache: SlotCache, layout: Layout, device: torch.device) -> VarlenAttention:
        """For one forward."""
        firsts = [*range(layout.singles), *(segment.first for segment in layout.segments)]
        begins = np.asarray([*firsts, len(layout.tokens)], np.int32)
        runs = layout.lanes[firsts]
        lengths = layout.positions[begins[1:] - 1] + 1
        places = np.append(runs * cache.length, cache.lanes * cache.length)
        parts = (layout.lanes, layout.positions, begins, places.astype(np.int32), lengths.astype(np.int32))
        own, at, begin, place, length = (torch.as_tensor(part).to(device, non_blocking=True) for part in parts)
        longest = (int(np.diff(begins).max()), int(lengths.max()))
        return cls(cache, own, at, begin, place, length, longest)

    def __call__(
        self, layer: int, traits: Traits, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn

        keys, values = (part[layer].transpose(1, 2) for part in (self._cache.keys, self._cache.values))
        keys.index_put_((self._lanes, self._positions), key)
        values.index_put_((self._lanes, self._positions), value)
        found = varlen_attn(
            query.contiguous(),
            keys.flatten(0, 1),
            values.flatten(0, 1),
            self._begins,
            self._places,
            *self._longest,
            scale=traits.scale,
            window_size=self._window(traits),
            enable_gqa=query.shape[1] != keys.shape[2],
            seqused_k=self._lengths,
        )
        assert isinstance(found, torch.Tensor)
        return found

    def _window(self, traits: Traits) -> tuple[int, int]:
        """How far a token sees to its left and its right.

        A token that is the last of its lane sees to its right what it sees without a border: nothing. Without borders
        the kernel reads keys once for all heads of a group, and splits long lanes over the processors.
        """
        if self._longest[0] == 1 and not traits.window:
            return -1, -1
        return traits.window - 1 if traits.window else -1, 0


class DecodeGraphs:
    """CUDA graphs of forwards that decode one token in each lane, one graph for each of a few batch sizes.

    All are captured on one stream, as graphs that share their memory must be, and run one at a time. Rows that fill a
    batch up write to the last lane of the cache, which nothing else uses.
    """

    def __init__(self, cache: SlotCache, forward: Forward, device: torch.device) -> None:
        self._cache = cache
        self._forward = forward
        self._device = device
        self._graphs: dict[int, _Graph] = {}
        self._logits: torch.Tensor | None = None
        with torch.cuda.device(device):  # a thread begins on the first device
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(device)
        self._usable = True

    def run(self, layout: Layout) -> torch.Tensor | None:
        """Logits [wanted, vocabulary], valid until the next run; None when there is no graph for such a forward."""
        if layout.segments or not self._usable or layout.singles > _BUCKETS[-1]:
            return None
        size = next(bucket for bucket in _BUCKETS if bucket >= layout.singles)
        graph = self._graphs.get(size) or self._capture(size)
        return None if graph is None else graph.replay(layout)

    def _capture(self, size: int) -> _Graph | None:
        try:
            # A capture that fails leaves its stream the present one: the outer context takes that back.
            with _capturing, torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream()):
                graph = _Graph(self._cache, self._forward, size, self._room, self._stream, self._pool)
        except RuntimeError as error:
            _log.warning("decode steps run without CUDA graphs, more slowly: %s", error)
            self._usable = False
            return None
        self._graphs[size] = graph
        return graph

    def _room(self, logits: torch.Tensor) -> torch.Tensor:
        """Where graphs leave their logits: one place for all, since each is read before the next one runs."""
        if self._logits is None:
            rows = next(bucket for bucket in _BUCKETS if bucket >= min(self._cache.lanes, _BUCKETS[-1]))
            self._logits = logits.new_empty(rows, logits.shape[1])
        return self._logits


class _Graph:
    """One captured decode step; the host fills `_input`, a row each of tokens, positions, lanes and wanted rows.

    A graph knows addresses only: whatever it reads is held here for as long as it may run.
    """

    def __init__(
        self,
        cache: SlotCache,
        forward: Forward,
        size: int,
        room: Callable[[torch.Tensor], torch.Tensor],
        stream: torch.cuda.Stream,
        pool: Any,
    ) -> None:
        device = cache.keys[0].device
        self._spare = cache.lanes - 1
        self._host = torch.zeros(4, size, dtype=torch.int64).pin_memory()
        self._input = torch.zeros(4, size, dtype=torch.int64, device=device)
        self._fill(np.zeros((3, 0), np.int64), np.zeros(0, np.int64))
        tokens, positions, lanes, keep = self._input
        self._begins = torch.arange(size + 1, dtype=torch.int32, device=device)
        self._end = torch.full((1,), cache.lanes * cache.length, dtype=torch.int32, device=device)

        def step() -> torch.Tensor:
            places = torch.cat([(lanes * cache.length).to(torch.int32), self._end])
            lengths = (positions + 1).to(torch.int32)
            attention = VarlenAttention(cache, lanes, positions, self._begins, places, lengths, (1, cache.length))
            return forward(tokens, positions, keep, attention)

        self._graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries set themselves up, which must not be captured
            step()
            logits = step()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._logits = room(logits)[:size]
        del logits
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._logits.copy_(step())

    def replay(self, layout: Layout) -> torch.Tensor:
        """Logits of the wanted rows [wanted, vocabulary]."""
        self._fill(np.stack([layout.tokens, layout.positions, layout.lanes]), layout.keep)
        self._graph.replay()
        return self._logits[: len(layout.keep)]

    def _fill(self, rows: np.ndarray[Any, np.dtype[np.int64]], keep: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self._host.zero_()
        self._host[2].fill_(self._spare)
        self._host[:3, : rows.shape[1]] = torch.as_tensor(rows)
        self._host[3, : len(keep)] = torch.as_tensor(keep)
        self._input.copy_(self._host, non_blocking=True)
