"""Keys and values of all lanes, each lane a row of fixed length: rewinding is forgetting, forking is one copy."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from a1agent.errors import NotEnoughMemory

__all__ = ["LayerShape", "SlotCache"]

_NO_RESERVE = 0x4000 if sys.platform == "linux" else getattr(mmap, "MAP_NORESERVE", 0)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer keeps of a token: heads, width of a key and of a value, their type, and where."""

    heads: int
    key: int
    value: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        """Bytes of one token."""
        return self.heads * (self.key + self.value) * self.dtype.itemsize


class SlotCache:
    """Keys and values: `keys[layer]` is [lanes, heads, length, width], whatever the order in memory.

    On a processor, memory is taken when a lane grows into it and given back when the lane is dropped, so what is in use
    follows the cells in use, not lanes times length. On a GPU it is all taken at once: CUDA graphs need fixed places.
    """

    def __init__(self, shapes: list[LayerShape], lanes: int, length: int) -> None:
        self.lanes = lanes
        self.length = length
        self._blocks: list[_Block] = []
        self.keys = self._places(shapes, lambda shape: shape.key)
        self.values = self._places(shapes, lambda shape: shape.value)

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives lane `target` the first `length` tokens of lane `source`."""
        for block in self._blocks:
            block.tensor[:, target, :, :length].copy_(block.tensor[:, source, :, :length])

    def forget(self, lane: int) -> None:
        """Gives the memory of a lane back."""
        for block in self._blocks:
            block.forget(lane)

    def _places(self, shapes: list[LayerShape], width: Callable[[LayerShape], int]) -> list[torch.Tensor]:
        """Keys or values of each layer, layers of one shape in one block."""
        places: dict[int, torch.Tensor] = {}
        for shape in dict.fromkeys(shapes):
            layers = [layer for layer, each in enumerate(shapes) if each == shape]
            block = _Block(shape, width(shape), len(layers), self.lanes, self.length)
            self._blocks.append(block)
            places.update(zip(layers, block.tensor, strict=True))
        return [places[layer] for layer in range(len(shapes))]

    def free(self) -> None:
        """Drops everything."""
        self.keys.clear()
        self.values.clear()
        self._blocks.clear()


class _Block:
    """Keys or values of all layers of one shape: [layers, lanes, heads, length, width]."""

    def __init__(self, shape: LayerShape, width: int, layers: int, lanes: int, length: int) -> None:
        self._map: mmap.mmap | None = None
        extents = (layers, lanes, shape.heads, length, width)
        if shape.device.type == "cpu":
            # A head's tokens side by side: what a processor reads at once.
            self.tensor = self._reserve(extents, shape.dtype)
        else:
            # A token's heads side by side, as flash attention wants them.
            order = (layers, lanes, length, shape.heads, width)
            self.tensor = _on_device(order, shape).transpose(2, 3)

    def forget(self, lane: int) -> None:
        """Gives the pages of a lane back to the system, as far as no other lane has a part of them."""
        if self._map is None:
            return
        size = self.tensor[0, 0].numel() * self.tensor.element_size()
        lanes = self.tensor.shape[1]
        for layer in range(self.tensor.shape[0]):
            start = (layer * lanes + lane) * size
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _reserve(self, extents: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Address space without memory behind it, where the system has that; else plain memory."""
        if not hasattr(mmap, "MADV_DONTNEED") or sys.platform == "win32":
            return torch.zeros(extents, dtype=dtype)
        count, flags = math.prod(extents), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        try:
            self._map = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            what = f"the system gave no {count * dtype.itemsize / 2**30:.1f} GiB of address space for the KV cache"
            raise NotEnoughMemory(what, "lower max_sequences or n_ctx") from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # a large page would be taken whole for the first token in it
                self._map.madvise(mmap.MADV_NOHUGEPAGE)
        buffer: Any = self._map
        return torch.frombuffer(buffer, dtype=dtype, count=count).view(extents)


def _on_device(extents: tuple[int, ...], shape: LayerShape) -> torch.Tensor:
    try:
        return torch.zeros(extents, dtype=shape.dtype, device=shape.device)
    except torch.OutOfMemoryError as error:
        size = shape.dtype.itemsize * math.prod(extents)
        what = f"{shape.device} has no {size / 2**30:.1f} GiB free for a part of the KV cache"
        raise NotEnoughMemory(what, "lower kv_tokens, max_sequences or n_ctx") from error
