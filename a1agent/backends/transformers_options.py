"""Options of transformers models, and how much memory a model takes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from a1agent.backends.chat_options import CHAT_CHOICES, CHAT_OPTIONS, ChatOptions
from a1agent.backends.hf_files import ModelShape
from a1agent.backends.hub import REVISION
from a1agent.backends.memory import DEFAULT_CONTEXT, cells_in_memory
from a1agent.backends.options import check_names, check_values
from a1agent.errors import InvalidOption

__all__ = [
    "DTYPES",
    "OPTIONS",
    "TransformersOptions",
    "buffers_of",
    "cells_of",
    "context_of",
    "gpu_weights_of",
    "is_lengthened",
    "least_memory_of",
    "memory_of",
    "outputs_of",
]

DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}

OPTIONS: dict[str, tuple[type, str]] = {
    "n_ctx": (
        int,
        "most tokens of one sequence; 0: 8192 or what the model was trained with, if less; with LongRoPE (Phi-4-mini) "
        "what it takes with the frequencies of short texts: beyond that all texts get those of long ones",
    ),
    "kv_tokens": (
        int,
        "tokens of all sequences together in the KV cache; 0: four full sequences, at least 16384, on a GPU what fits",
    ),
    "keep_tokens": (int, "tokens of older prompts that stay cached beside the last one; 0: none at all stays"),
    "n_threads": (int, "threads; 0: one a physical core"),
    "n_batch": (int, "most tokens of one forward; 0: 512, on a GPU 4096"),
    "max_sequences": (int, "most sequences in the cache at once; more wait in line"),
    "at_once": (int, "chains that run at a time, further questions wait in line; 0: all that fit"),
    "dtype": (str, f"type of weights and cache: auto, {', '.join(DTYPES)}; auto: float32, on a GPU the checkpoint's"),
    "device": (str, "where it runs: auto, cpu, cuda, cuda:1, ..."),
    "device_map": (str, "spread over devices by accelerate: auto, balanced, sequential; empty: one device"),
    "cache": (str, "slots: all sequences in one forward; lanes: a forward each, for any model; auto: slots if it can"),
    "revision": REVISION,
    "adapter": (str, "a PEFT adapter, folder or hub name, merged into the weights"),
    **CHAT_OPTIONS,
    "trust_remote_code": (bool, "run Python code that comes with the model"),
}

_LOGIT_BYTES = {"cpu": 64 << 20, "gpu": 1 << 30}
_LIBRARY_BYTES = 400 << 20
_GPU_FLOATS = 2 << 26  # a piece of the logits in single precision and what its logsumexp takes
_GPU_GRAPHS = 256  # the rows of the largest decode step that is captured; its logits are there twice
_GPU_DRAWN = 5 * 256  # the rows from which all sequences draw a token, and what that takes of each
_LIMITS = {
    "n_ctx": (0, 2**24),
    "kv_tokens": (0, 2**26),
    "keep_tokens": (0, 2**26),
    "n_threads": (0, 512),
    "n_batch": (0, 2**16),
    "max_sequences": (1, 256),
    "at_once": (0, 256),
}
_CHOICES = {
    "dtype": ("auto", *DTYPES),
    "device_map": ("", "auto", "balanced", "balanced_low_0", "sequential"),
    "cache": ("auto", "slots", "lanes"),
    **CHAT_CHOICES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersOptions(ChatOptions):
    """How to load a model with transformers; `OPTIONS` says what each means."""

    n_ctx: int = 0
    kv_tokens: int = 0
    keep_tokens: int = 512
    n_threads: int = 0
    n_batch: int = 0
    max_sequences: int = 256
    at_once: int = 0
    dtype: str = "auto"
    device: str = "auto"
    device_map: str = ""
    cache: str = "auto"
    revision: str = ""
    adapter: str = ""
    trust_remote_code: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TransformersOptions:
        """Checked options. Raises `InvalidOption` for an unknown name (naming the nearest) or a value out of range."""
        check_names(options, OPTIONS, "transformers")
        checked = cls(**options)
        check_values(asdict(checked), OPTIONS, _LIMITS, _CHOICES)
        return checked


def context_of(shape: ModelShape, options: TransformersOptions) -> int:
    """Most tokens of one sequence. Raises `InvalidOption` where the positions of a text depend on its length."""
    if shape.rope_limit and options.n_ctx > shape.rope_limit:
        what = (
            f"beyond {shape.rope_limit} tokens this model's rotary embedding changes with the longest text of a batch"
        )
        raise InvalidOption(what, f"use n_ctx={shape.rope_limit} or less")
    bounds = (
        options.n_ctx or DEFAULT_CONTEXT,
        shape.context,
        shape.rope_limit,
        0 if options.n_ctx else shape.short_context,
    )
    return min(bound for bound in bounds if bound)


def is_lengthened(shape: ModelShape, options: TransformersOptions) -> bool:
    """Whether every text gets the second of two sets of rotary frequencies, those of long texts.

    Keys in the cache keep the set that they were written with, so one model can have only one; it goes by `n_ctx`, as
    in vLLM and llama.cpp. LongRoPE: arXiv 2402.13753.
    """
    return 0 < shape.short_context < context_of(shape, options)


def cells_of(shape: ModelShape, options: TransformersOptions, width: int) -> int:
    """Tokens that the KV cache holds in main memory; `width`: bytes a value."""
    return cells_in_memory(context_of(shape, options), options.kv_tokens, shape.cell_values * width)


def outputs_of(vocabulary: int, batch: int, kind: str, width: int) -> int:
    """Most rows of logits of one forward: 64 MiB of them, on a GPU 1 GiB, at least 64 rows."""
    return min(batch, max(64, _LOGIT_BYTES[kind] // (width * max(1, vocabulary))))


def memory_of(shape: ModelShape, options: TransformersOptions) -> int:
    """Bytes that a model takes once loaded: weights, KV cache, and the buffers of a forward; from its files alone."""
    width = DTYPES.get(options.dtype, 4 if options.device in ("auto", "cpu") else 2)
    batch = options.n_batch or 512
    weights = shape.stored_bytes if shape.quantized else shape.parameters * width
    if width == 4:  # the largest layer is there twice while it is laid out, or for good where embeddings share it
        weights += shape.vocabulary * shape.width * width
    cache = cells_of(shape, options, width) * shape.cell_values * width
    return _LIBRARY_BYTES + weights + cache + buffers_of(shape, batch, "cpu", width)


def least_memory_of(stored: int, config: Mapping[str, Any], options: TransformersOptions) -> int:
    """Bytes that weights take at least of which only their size in files is known, and what config.json says."""
    if "quantization_config" in config:
        return stored
    kept = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return stored * DTYPES.get(options.dtype, 4) // DTYPES.get(kept, 4)


def gpu_weights_of(shape: ModelShape, options: TransformersOptions) -> tuple[int, int]:
    """Bytes of a model's weights on a GPU, and of a value there; from its files alone."""
    if options.dtype != "auto":
        width = DTYPES[options.dtype]
        return (shape.stored_bytes if shape.quantized else shape.parameters * width), width
    width = 4 if not shape.quantized and shape.stored_bytes >= 4 * shape.parameters else 2
    return max(shape.stored_bytes, 0 if shape.quantized else shape.parameters * width), width


def buffers_of(shape: ModelShape, batch: int, kind: str, width: int) -> int:
    """Bytes that a forward of `batch` tokens takes for a while: the rows of its layers, and its logits.

    In main memory those are there twice in single precision, on a GPU as they are, but for those looked at together;
    there what captured decode steps keep for themselves is included.
    """
    row = (6 * shape.width + 3 * shape.inner) * width
    outputs = outputs_of(shape.vocabulary, batch, kind, width)
    if kind == "cpu":
        return batch * row + 2 * outputs * shape.vocabulary * 4
    logits = (outputs + 2 * _GPU_GRAPHS) * shape.vocabulary * width
    return (batch + _GPU_GRAPHS) * row + logits + 4 * max(_GPU_FLOATS, _GPU_DRAWN * shape.vocabulary)
