"""A model of transformers with our own cache: one packed forward for all lanes, in every layer our own attention."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface

from a1agent.backends.batching.runner import Rows
from a1agent.backends.torch_attention import KEYWORD, NAME, Attention, Layout, SdpaAttention, Traits, attend
from a1agent.backends.torch_cuda import DecodeGraphs, VarlenAttention
from a1agent.backends.torch_slots import LayerShape, SlotCache

__all__ = ["LayerKind", "PackedModel", "Unpackable", "numbers_of", "probe", "spread"]

Numbers = torch.Tensor | list[int]

_interface: Any = AttentionInterface
_interface.register(NAME, attend)


class Unpackable(Exception):
    """Why a model cannot run packed."""


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A layer's shape in the cache and how it attends."""

    shape: LayerShape
    traits: Traits


class _Probe:
    """Stands in for attention once, to see what each layer asks of it."""

    def __init__(self) -> None:
        self.found: dict[int, LayerKind] = {}

    def __call__(
        self, layer: int, traits: Traits, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        if layer in self.found:
            raise Unpackable(f"two layers call themselves number {layer}")
        shape = LayerShape(key.shape[1], key.shape[2], value.shape[2], key.dtype, key.device)
        self.found[layer] = LayerKind(shape, traits)
        return value.new_zeros(*query.shape[:2], value.shape[2])


def probe(model: Any) -> list[LayerKind]:
    """What the layers of a model keep and do, found by one forward of two tokens. Raises `Unpackable`."""
    if not getattr(model, "_supports_attention_backend", False):
        raise Unpackable(f"{type(model).__name__} does not let its attention be replaced")
    seen = _Probe()
    model.set_attn_implementation(NAME)
    tokens = torch.zeros(2, dtype=torch.long, device=model.device)
    try:
        run(model, tokens, torch.arange(2, device=model.device), numbers_of(model, np.zeros(1, np.int64)), seen)
    except Exception as error:
        raise Unpackable(f"its layers do not take our attention ({error!r})") from error
    config = model.config.get_text_config()
    if sorted(seen.found) != list(range(config.num_hidden_layers)):
        raise Unpackable("not every layer keeps keys and values of its own")
    kinds = [seen.found[layer] for layer in range(len(seen.found))]
    _check_windows(config, kinds)
    return kinds


def numbers_of(model: Any, rows: npt.NDArray[np.int64]) -> Numbers:
    """The rows whose logits are wanted, as a model takes them.

    One that is spread over devices gets a list: a tensor would be sent to its first device, the rows are on its last.
    """
    if len(set(_placed(model).values())) > 1:
        return rows.tolist()
    return torch.as_tensor(rows).to(model.device, non_blocking=True)


def spread(model: Any) -> dict[torch.device, float]:
    """Which share of a model's layers each device runs. Those whose weights are elsewhere run on the first GPU."""
    home = torch.device(model.device)
    where = [place for name, place in _placed(model).items() if name.rpartition(".")[2].isdigit()]
    devices = [torch.device("cuda", at) if isinstance(at, int) else home for at in where] or [home]
    return {device: count / len(devices) for device, count in Counter(devices).items()}


def _placed(model: Any) -> dict[str, Any]:
    """Where accelerate put each part of a model: a GPU's number, a name, or a device; empty where it was not asked."""
    found: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    return {name: at.index if isinstance(at, torch.device) and at.type == "cuda" else at for name, at in found.items()}


def _check_windows(config: Any, kinds: list[LayerKind]) -> None:
    """Layers that the configuration calls sliding must have told their window."""
    types: list[str] = getattr(config, "layer_types", None) or []
    unknown = {kind for kind in types if kind not in ("full_attention", "sliding_attention")}
    if unknown:
        raise Unpackable(f"it has layers of the kind {', '.join(sorted(unknown))}")
    for layer, kind in enumerate(types):
        if (kind == "sliding_attention") != bool(kinds[layer].traits.window):
            raise Unpackable("a layer does not tell its sliding window")
    if not types and getattr(config, "sliding_window", None) and not any(kind.traits.window for kind in kinds):
        raise Unpackable("its layers do not tell their sliding window")


def run(model: Any, tokens: torch.Tensor, positions: torch.Tensor, keep: Numbers, attention: Any) -> torch.Tensor:
    """Logits of the rows `keep` of a packed forward: [tokens] -> [kept, vocabulary]."""
    found = model(
        input_ids=tokens[None],
        position_ids=positions[None],
        use_cache=False,
        logits_to_keep=keep,
        **{KEYWORD: attention},
    )
    return found.logits[0]


class PackedModel:
    """A model and its slots. Lanes do not share cells: a fork copies. `flash`: by the kernel and graphs of a GPU."""

    def __init__(self, model: Any, kinds: list[LayerKind], lanes: int, length: int, *, flash: bool = False) -> None:
        self._model = model
        model.set_attn_implementation(NAME)
        shapes = [kind.shape for kind in kinds]
        self._device = torch.device(model.device)
        self._dtype = shapes[0].dtype
        self._flash = flash
        # One lane more than the scheduler knows of: padding of graphs writes there.
        self._cache = SlotCache(shapes, lanes + flash, length)
        self._graphs = DecodeGraphs(self._cache, self._run, self._device) if flash else None

    def forward(self, rows: Rows) -> torch.Tensor:
        """Logits of the wanted rows, in their order [wanted, vocabulary]."""
        layout = Layout.of(rows)
        replayed = self._graphs.run(layout) if self._graphs is not None else None
        if replayed is not None:
            return replayed
        tokens, positions = (
            torch.as_tensor(part).to(self._device, non_blocking=True) for part in (layout.tokens, layout.positions)
        )
        return self._run(tokens, positions, numbers_of(self._model, layout.keep), self._attention(layout))

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives lane `target` the first `length` tokens of lane `source`."""
        self._cache.copy(source, target, length)

    def remove(self, lane: int, start: int) -> None:
        """Drops a lane's tokens from position `start` on: what is not asked for is not there."""
        if start == 0:
            self._cache.forget(lane)

    def free(self) -> None:
        """Drops the model and its cache."""
        self._graphs = None
        self._cache.free()
        self._model = None

    def _attention(self, layout: Layout) -> Attention:
        if self._flash:
            return VarlenAttention.of(self._cache, layout, self._device)
        return SdpaAttention(self._cache, layout, self._dtype)

    def _run(self, tokens: torch.Tensor, positions: torch.Tensor, keep: Numbers, attention: Attention) -> torch.Tensor:
        return run(self._model, tokens, positions, keep, attention)
