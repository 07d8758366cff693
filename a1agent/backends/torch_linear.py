"""Linear layers on a processor, their weights laid out once as its kernels read them.

`torch.nn.Linear` lays its weights out anew for every product of more than a row. With the few rows of a decoding batch
that takes longer than the product: oneDNN's own layout, made when the model is loaded, saves it.

oneDNN makes a kernel for every number of rows that it meets, and keeps it: half a megabyte each. So rows are filled up
to one of a few numbers.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from typing import Any, TypeGuard

import torch
from torch import nn

__all__ = ["PackedLinear", "pack", "unpack"]

_PROCESSORS = ("x86_64", "amd64")  # where it was measured
_LEAST_WEIGHTS = 1 << 18  # a smaller layer gains less than finding its kernel takes
_ROWS = (1, 2, 4, 8, *range(16, 129, 16), *range(160, 513, 32))


class PackedLinear(nn.Module):
    """A linear layer in single precision: [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    @property
    def weight(self) -> torch.Tensor:
        """The weights as they were, copied back at each use."""
        return self._packed.to_dense()

    def unpacked(self) -> nn.Linear:
        """The plain layer again."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight, layer.bias = nn.Parameter(self.weight, requires_grad=False), self.bias
        return layer

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1, self.in_features)
        count = len(flat)
        size = _filled_up(count)
        if size != count:
            filled = flat.new_zeros(size, self.in_features)
            filled[:count] = flat
            flat = filled
        found = torch.ops.mkldnn._linear_pointwise(flat, self._packed, self.bias, "none", [], "")
        return found[:count].reshape(*rows.shape[:-1], self.out_features)


def _filled_up(count: int) -> int:
    """The number of rows that so many are filled up to."""
    return _ROWS[bisect_left(_ROWS, count)] if count <= _ROWS[-1] else -(-count // 128) * 128


def pack(model: nn.Module) -> bool:
    """Lays out the weights of a model's linear layers; returns whether there were any it could.

    Left alone are small layers, and those of other kinds (quantized ones among them), types and devices. A layer's own
    weights are given up as soon as they are laid out, so that no more than one is held twice; those shared with an
    embedding stay.
    """
    if not _available():
        return False
    layers = [(place, layer) for place, layer in _modules(model) if _fits(layer)]
    made: dict[int, PackedLinear] = {}  # a layer may stand in several places
    for place, layer in layers:
        if id(layer) not in made:
            made[id(layer)] = PackedLinear(layer)
            layer.register_parameter("weight", None)
        model.set_submodule(place, made[id(layer)])
    return bool(made)


def unpack(model: nn.Module) -> None:
    """Puts plain linear layers back in the place of those that were laid out."""
    made: dict[int, nn.Linear] = {}
    for place, layer in _modules(model):
        if isinstance(layer, PackedLinear):
            if id(layer) not in made:
                made[id(layer)] = layer.unpacked()
            model.set_submodule(place, made[id(layer)])


def _modules(model: Any) -> list[tuple[str, nn.Module]]:
    """All parts of a model, by every name that they have."""
    return list(model.named_modules(remove_duplicate=False))


def _available() -> bool:
    known: Any = torch.ops.mkldnn
    return (
        platform.machine().lower() in _PROCESSORS
        and torch.backends.mkldnn.is_available()
        and hasattr(known, "_reorder_linear_weight")
        and hasattr(known, "_linear_pointwise")
    )


def _fits(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is the library's plain one, with weights in main memory that nothing swaps while it runs."""
    return (
        type(layer) is nn.Linear
        and layer.weight.numel() >= _LEAST_WEIGHTS
        and layer.weight.dtype == torch.float32
        and layer.weight.device.type == "cpu"
        and not hasattr(layer, "_hf_hook")
    )
