"""Runs a model of transformers for the scheduler: packed forwards or one a lane, sampling on the model's device."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Generator
from typing import Any, Protocol

import torch

from a1agent.backends.base import Sampling
from a1agent.backends.batching.runner import Rows, Vocabulary
from a1agent.backends.torch_cuda import present
from a1agent.backends.torch_guide import Guided, Guides
from a1agent.backends.torch_sampling import Sampler, draw, log_probabilities, there
from a1agent.errors import BackendError

__all__ = ["CachedModel", "TorchRunner"]


class CachedModel(Protocol):
    """A model with a cache of lanes."""

    def forward(self, rows: Rows) -> torch.Tensor:
        """Logits of the wanted rows, in their order [wanted, vocabulary]."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives lane `target` the first `length` tokens of lane `source`."""
        ...

    def remove(self, lane: int, start: int) -> None:
        """Drops a lane's tokens from position `start` on."""
        ...

    def free(self) -> None:
        """Drops the model and its cache."""
        ...


class TorchRunner:
    """A `Runner`. Lanes hold copies of what they have in common (`copies`)."""

    can_rewind = True
    copies = True
    swap: Callable[[int, int], None] | None = None
    share = 1.0

    def __init__(
        self,
        model: CachedModel,
        vocabulary: Vocabulary,
        device: torch.device,
        *,
        cells: int,
        lanes: int,
        batch: int,
        outputs: int,
        threads: int = 0,
    ) -> None:
        self._model = model
        self._size = vocabulary.size
        self._guides = Guides(vocabulary)
        self._device = device
        self._ends = torch.tensor(sorted(vocabulary.end_ids), dtype=torch.long, device=device)
        self._threads = threads
        self._logits = self._none = torch.empty(0, self._size, device=device)
        self.device = "cpu" if device.type == "cpu" else f"gpu{device.index or ''}"
        self.cells = cells
        self.lanes = lanes
        self.batch = batch
        self.outputs = min(outputs, batch)

    @torch.inference_mode()
    def forward(self, rows: Rows) -> None:
        """Runs the model. Raises `BackendError` when it fails for want of memory."""
        # The number of threads belongs to the thread that asks, and another model may have changed it.
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        self._logits = self._none  # those of the last forward are not kept beside the new ones
        with self._at_work():
            self._logits = self._model.forward(rows)
            if self._device.type == "cuda":
                # What a forward takes is measured. Not the whole device: another model may be capturing a graph there.
                torch.cuda.current_stream(self._device).synchronize()

    @contextlib.contextmanager
    def _at_work(self) -> Generator[None]:
        """On the model's device. Raises `BackendError` where its memory runs out."""
        try:
            with present(self._device):
                yield
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # whoever keeps the error must not keep what filled the memory
            raise BackendError(f"{self._device} ran out of memory: {error}", "lower n_batch or kv_tokens") from error

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives lane `target` a copy of the first `length` cells of lane `source`."""
        with self._at_work(), torch.inference_mode():
            self._model.copy(source, target, length)

    def remove(self, lane: int, start: int) -> None:
        """Drops the cells of a lane from position `start` on."""
        with torch.inference_mode():
            self._model.remove(lane, start)

    def holds(self, lane: int, length: int) -> bool:
        """Layers with sliding windows keep what left the window, so a lane can always go back."""
        return True

    def sampler(self, sampling: Sampling) -> Any:
        """None is greedy."""
        sampler = Sampler(sampling) if sampling.temperature > 0 else None
        return sampler if sampling.schema is None else self._guides.guided(sampling.schema, sampler)

    @torch.inference_mode()
    def sample(self, picks: list[tuple[int, Any]]) -> list[int]:
        """One token for each pair of a wanted row's index and a sampler."""
        if not picks:
            return []
        rows = [row for row, _ in picks]
        guided = [(i, sampler) for i, (_, sampler) in enumerate(picks) if isinstance(sampler, Guided)]
        with self._at_work():
            logits = self._logits
            if rows != list(range(len(logits))):
                logits = logits.index_select(0, there(rows, torch.long, logits.device))
            if guided:
                logits = _without_forbidden(logits, guided)
            drawn = draw(logits, [each.sampler if isinstance(each, Guided) else each for _, each in picks])
        for i, sampler in guided:
            sampler.take(drawn[i])
        return drawn

    @torch.inference_mode()
    def log_probabilities(self, targets: list[int]) -> list[float]:
        """Log-probability of one target for each wanted row, in order; `END` is any token that ends the turn."""
        with self._at_work():
            return log_probabilities(self._logits, targets, self._ends)

    def free(self) -> None:
        """Drops the model and the logits."""
        self._logits = self._none
        self._model.free()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _without_forbidden(logits: torch.Tensor, guided: list[tuple[int, Guided]]) -> torch.Tensor:
    """Logits of which some rows are held to a schema; the true ones are still to be read."""
    forbidden = torch.stack([sampler.forbidden() for _, sampler in guided]).to(logits.device, non_blocking=True)
    rows = there([row for row, _ in guided], torch.long, logits.device)
    return logits.index_copy(0, rows, logits.index_select(0, rows).masked_fill(forbidden, -torch.inf))
