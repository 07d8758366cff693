"""Models of the transformers library in process, on a processor or a GPU.

    hf:ORG/NAME            a model of the hub, through its client's cache
    hf:PATH                the folder of a checkpoint in safetensors format
    hf:PATH/model.gguf     a GGUF file, its weights spread out to full precision
    hf:ORG/REPO:FILE.gguf  one of the hub

`n_ctx` bounds one sequence, `kv_tokens` all of them together; a prompt that chains share counts once for each chain.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a1agent.backends.base import ModelInfo
from a1agent.backends.batching.worker import Engine
from a1agent.backends.gguf_info import sample
from a1agent.backends.hf_files import ModelFiles, ahead, locate, read_files
from a1agent.backends.llama_options import physical_cores
from a1agent.backends.memory import available_memory
from a1agent.backends.prompted import PromptedBackend
from a1agent.backends.transformers_options import (
    OPTIONS,
    TransformersOptions,
    buffers_of,
    cells_of,
    context_of,
    gpu_weights_of,
    is_lengthened,
    least_memory_of,
    memory_of,
    outputs_of,
)
from a1agent.errors import MissingExtra, NotEnoughMemory

if TYPE_CHECKING:
    import torch

__all__ = ["OPTIONS", "TransformersBackend", "bytes_ahead", "estimate_memory", "load", "load_before"]

_NEEDED = ("torch", "transformers", "tokenizers", "safetensors")
_turn = threading.RLock()  # transformers sets torch's global defaults while it reads a model
_GPU_SHARE = 0.85  # most of what is free once the weights are there


class TransformersBackend(PromptedBackend):
    """A model of transformers."""


def load(path: str, **options: Any) -> TransformersBackend:
    """A backend for a folder, GGUF file or hub name; takes as long as reading it does. `OPTIONS` lists the options.

    Raises `InvalidOption`, `MissingExtra`, `ModelNotFound`, `ModelLoadError`, `NotEnoughMemory`.
    """
    return load_before(path, (), **options)


def load_before(path: str, others: Sequence[tuple[str, Mapping[str, Any]]], **options: Any) -> TransformersBackend:
    """As `load`; a cache on a GPU leaves room for the `others`, paths and options of models that are loaded next."""
    checked = TransformersOptions.of(options)
    _expect_library(path)
    files = _read(locate(path, checked.revision, checked.trust_remote_code))
    context = context_of(files.shape, checked)
    import torch

    with _turn, torch.inference_mode():
        return _assemble(files, checked, context, others)


def estimate_memory(path: str, **options: Any) -> int:
    """Bytes of main memory that the model would take (weights, KV cache, buffers), read from its files alone.

    0 for a model that goes to a GPU. Those of a hub name are fetched.
    """
    checked = TransformersOptions.of(options)
    if _leaves_memory(checked):
        return 0
    return memory_of(_read(locate(path, checked.revision, checked.trust_remote_code)).shape, checked)


def bytes_ahead(path: str, **options: Any) -> int:
    """Bytes of main memory that a model takes at least whose weights the hub's cache has not yet; 0 for others."""
    checked = TransformersOptions.of(options)
    _expect_library(path)
    if _leaves_memory(checked):
        return 0
    count, config = ahead(path, checked.revision, checked.trust_remote_code)
    return least_memory_of(count, config, checked)


def _expect_library(path: str) -> None:
    if not _has_library():
        raise MissingExtra(f"the model {path}", "transformers")


def _has_library() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in _NEEDED)


def _read(path: Path) -> ModelFiles:
    """What a checkpoint says of itself, completed by the library where that is there."""
    files = read_files(path)
    if files.gguf is not None or not _has_library():
        return files
    from a1agent.backends.hf_model import complete

    with _turn:
        return complete(files)


def _leaves_memory(options: TransformersOptions) -> bool:
    """Whether the model goes somewhere else than to main memory."""
    if options.device != "auto" or options.device_map:
        return options.device != "cpu"
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _assemble(
    files: ModelFiles, options: TransformersOptions, context: int, others: Sequence[tuple[str, Mapping[str, Any]]]
) -> TransformersBackend:
    from a1agent.backends.hf_model import batched, enough_memory, load_model, place
    from a1agent.backends.hf_tokenizer import read_tokenizer
    from a1agent.backends.torch_cuda import present
    from a1agent.backends.torch_guide import draws_guided
    from a1agent.backends.torch_packed import spread
    from a1agent.backends.torch_runner import TorchRunner

    device = place(options)
    options = replace(options, device=str(device))
    _check_memory(files, options, device)
    model = load_model(files, options, device)
    width = model.dtype.itemsize
    kind = "cpu" if model.device.type == "cpu" else "gpu"
    vocabulary, template = read_tokenizer(files, options, model)
    template.set(options)
    batch = options.n_batch or (512 if kind == "cpu" else 4096)
    later = [] if kind == "cpu" else [_companion(path, given) for path, given in others]
    lanes, cells = _room(files, options, context, spread(model), width, batch, later)
    with enough_memory(files, options), present(model.device):
        cached = batched(model, files.name, options, lanes, context)
    runner = TorchRunner(
        cached,
        vocabulary,
        model.device,
        cells=cells,
        lanes=lanes,
        batch=min(batch, cells),
        outputs=outputs_of(vocabulary.size, batch, kind, width),
        threads=options.n_threads or physical_cores(),
    )
    info = ModelInfo(
        name=files.name,
        fingerprint=options.keyed(_fingerprint(files, options)),
        tokenizer_fingerprint=vocabulary.fingerprint,
        context_length=context,
        at_once=min(lanes, options.at_once or lanes),
        scores_as_it_writes=True,
        can_constrain=draws_guided() and bool(vocabulary.end_ids),
        processor=runner.device,
        channels=vocabulary.channels,
    )
    return TransformersBackend(Engine(runner, options.keep_tokens), info, vocabulary, template)


def _fingerprint(files: ModelFiles, options: TransformersOptions) -> str:
    """Of the weights, those of an adapter included, and of the positions where the options choose them."""
    more = b"long" if is_lengthened(files.shape, options) else b""
    if options.adapter:
        more += sample(locate(options.adapter) / "adapter_model.safetensors")
    if not more:
        return files.fingerprint()
    return hashlib.blake2b(files.fingerprint().encode() + more, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Companion:
    """What a model that is loaded next will take: `fixed` bytes, and `lane` bytes for each sequence.

    `device` None: it is spread over all GPUs.
    """

    fixed: int
    lane: int
    device: torch.device | None

    def share(self, device: torch.device) -> float:
        """Which part of it a GPU will hold."""
        import torch

        if self.device is None:
            return 1 / max(1, torch.cuda.device_count())
        return float(self.device.type == device.type and (self.device.index or 0) == (device.index or 0))


def _companion(path: str, options: Mapping[str, Any]) -> Companion:
    """Read from the files of a model."""
    from a1agent.backends.hf_model import place

    checked = TransformersOptions.of(options)
    shape = _read(locate(path, checked.revision, checked.trust_remote_code)).shape
    weights, width = gpu_weights_of(shape, checked)
    token = max(1, shape.cell_values) * width
    fixed = weights + buffers_of(shape, checked.n_batch or 4096, "gpu", width) + checked.kv_tokens * token
    lane = 0 if checked.kv_tokens else context_of(shape, checked) * token
    return Companion(fixed, lane, None if checked.device_map else place(checked))


def _room(
    files: ModelFiles,
    options: TransformersOptions,
    context: int,
    devices: dict[torch.device, float],
    width: int,
    batch: int,
    later: Sequence[Companion] = (),
) -> tuple[int, int]:
    """Lanes and cells. A GPU's lanes are all there from the start, each for a full sequence; forwards need room too.

    `devices`: the share of a lane that each holds. Models that come `later` get as many lanes.
    """
    if any(device.type == "cpu" for device in devices):
        cells = cells_of(files.shape, options, width)
        return min(options.max_sequences, cells), cells
    import torch

    lane = context * max(1, files.shape.cell_values) * width
    lanes = options.kv_tokens // context
    if not options.kv_tokens:
        torch.cuda.empty_cache()  # what loading left behind counts as taken
        buffers = buffers_of(files.shape, batch, "gpu", width)

        def fitting(device: torch.device, share: float) -> int:
            free = torch.cuda.mem_get_info(device)[0] - sum(each.fixed * each.share(device) for each in later)
            taken = lane * share + sum(each.lane * each.share(device) for each in later)
            return int(min(free * _GPU_SHARE, free - buffers) / taken)

        lanes = min(fitting(device, share) for device, share in devices.items()) - 1
    lanes = max(1, min(options.max_sequences, lanes))
    return lanes, lanes * context


def _check_memory(files: ModelFiles, options: TransformersOptions, device: torch.device) -> None:
    free = available_memory() if device.type == "cpu" else None
    need = memory_of(files.shape, options)
    if free is not None and need > free:
        what = f"{files.name} and its cache need about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        raise NotEnoughMemory(what, "use a smaller or quantized model, dtype=bfloat16, or less kv_tokens")
