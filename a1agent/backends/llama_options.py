"""Options of llama.cpp models, and how much memory a model takes with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a1agent.backends.chat_options import CHAT_CHOICES, CHAT_OPTIONS, ChatOptions
from a1agent.backends.control_groups import processors
from a1agent.backends.gguf_info import GGUFInfo
from a1agent.backends.hub import REVISION
from a1agent.backends.memory import DEFAULT_CONTEXT, cells_in_memory
from a1agent.backends.options import check_names, check_values
from a1agent.errors import InvalidOption

__all__ = [
    "AT_ONCE",
    "KV_TYPES",
    "OPTIONS",
    "LlamaOptions",
    "Room",
    "asks_for_gpu",
    "context_of",
    "linux_cores",
    "memory_of",
    "outputs_of",
    "physical_cores",
    "room_of",
    "uses_flash",
]

KV_TYPES: dict[str, tuple[int, float]] = {  # number in ggml, bytes per value
    "f32": (0, 4.0),
    "f16": (1, 2.0),
    "bf16": (30, 2.0),
    "q8_0": (8, 34 / 32),
    "q5_1": (7, 24 / 32),
    "q5_0": (6, 22 / 32),
    "q4_1": (3, 20 / 32),
    "q4_0": (2, 18 / 32),
}

OPTIONS: dict[str, tuple[type, str]] = {
    "n_ctx": (int, "most tokens of one sequence; 0: 8192 or what the model was trained with, if less"),
    "kv": (str, "the KV cache: shared (one pool of cells), or apart (n_ctx cells for each sequence; for long chains)"),
    "kv_tokens": (int, "tokens of all sequences together in the KV cache; 0: four full sequences, at least 16384"),
    "keep_tokens": (int, "tokens of older prompts that stay cached beside the last one; 0: none at all stays"),
    "n_threads": (int, "threads; 0: one a physical core, one for models under 8 MiB"),
    "n_batch": (int, "most tokens of one forward"),
    "n_gpu_layers": (int, "layers on the GPU; -1, or more than there are: all, 0: none"),
    "flash_attn": (str, "flash attention: auto, on or off"),
    "type_k": (str, f"type of cached keys: {', '.join(KV_TYPES)}"),
    "type_v": (str, f"type of cached values: {', '.join(KV_TYPES)}; other than f32, f16 and bf16 need flash attention"),
    "max_sequences": (
        int,
        "most sequences in the cache at once, more wait; 0: 256, or twice at_once where kv is apart",
    ),
    "at_once": (int, "chains that run at a time, further questions wait in line; 0: 16 on a CPU, else all that fit"),
    "revision": REVISION,
    **CHAT_OPTIONS,
    "verbose": (bool, "show llama.cpp's log"),
}

AT_ONCE = 16
"""Chains on a CPU: more at a time gain little, or lose where they read through each other's cells."""

_MOST_LANES = 256
_PAGE = 256  # llama.cpp rounds the cells of a sequence to it
_MOST_STATES = 64  # of models that keep one state a sequence, and no cells
_LOGIT_BYTES = 64 << 20
_LIBRARY_BYTES = 32 << 20
_LIMITS = {
    "n_ctx": (0, 2**24),
    "kv_tokens": (0, 2**26),
    "keep_tokens": (0, 2**26),
    "n_threads": (0, 512),
    "n_batch": (1, 8192),
    "n_gpu_layers": (-1, 2**15),
    "max_sequences": (0, _MOST_LANES),
    "at_once": (0, 256),
}
_PLAIN_VALUES = ("f16", "f32", "bf16")
_CHOICES = {
    "kv": ("shared", "apart"),
    "type_k": tuple(KV_TYPES),
    "type_v": tuple(KV_TYPES),
    "flash_attn": ("auto", "on", "off"),
    **CHAT_CHOICES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions(ChatOptions):
    """How to load a GGUF file; `OPTIONS` says what each means."""

    n_ctx: int = 0
    kv: str = "shared"
    kv_tokens: int = 0
    keep_tokens: int = 512
    n_threads: int = 0
    n_batch: int = 512
    n_gpu_layers: int = 0
    flash_attn: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    max_sequences: int = 0
    at_once: int = 0
    revision: str = ""
    verbose: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> LlamaOptions:
        """Checked options. Raises `InvalidOption` for an unknown name (naming the nearest) or a value out of range."""
        check_names(options, OPTIONS, "llama.cpp")
        checked = cls(**options)
        check_values(asdict(checked), OPTIONS, _LIMITS, _CHOICES)
        if checked.flash_attn == "off" and checked.type_v not in _PLAIN_VALUES:
            raise InvalidOption(f"type_v={checked.type_v!r} needs flash attention", "use flash_attn=auto")
        return checked


def context_of(info: GGUFInfo, options: LlamaOptions) -> int:
    """Most tokens of one sequence."""
    trained = info.largest("context_length") or DEFAULT_CONTEXT
    return min(options.n_ctx or DEFAULT_CONTEXT, trained)


@dataclass(frozen=True, slots=True)
class Room:
    """A KV cache of `cells` tokens for at most `lanes` sequences.

    `apart`: each sequence has an equal part of the cells for itself. A token is compared with cells of its own sequence
    only, and what sequences have in common is copied. Otherwise cells lie in one pool: common ones are shared, none is
    set aside, and every token is compared with the cells of all sequences, most of them masked.
    """

    lanes: int
    cells: int
    apart: bool


def room_of(info: GGUFInfo, options: LlamaOptions, can_rewind: bool = True) -> Room:
    """The KV cache of a model. Recurrent ones, which cannot rewind, keep a state for each sequence and no cells.

    Raises `InvalidOption` where cells are to be apart and `kv_tokens` holds no full sequence.
    """
    most = options.max_sequences or _MOST_LANES
    if options.kv == "shared" or not can_rewind:
        cells = cells_in_memory(context_of(info, options), options.kv_tokens, _cell_bytes(info, options))
        return Room(most if can_rewind else min(most, _MOST_STATES), _paged(cells), apart=False)
    context = _paged(context_of(info, options))
    lanes = options.max_sequences or min(_MOST_LANES, 2 * (options.at_once or AT_ONCE))
    if options.kv_tokens:
        lanes = min(lanes, options.kv_tokens // context)
    if not lanes:
        what = f"kv=apart with kv_tokens={options.kv_tokens} has no room for one sequence of {context} tokens"
        raise InvalidOption(what, "raise kv_tokens, lower n_ctx, or use kv=shared")
    return Room(lanes, lanes * context, apart=True)


def _paged(cells: int) -> int:
    return -(-cells // _PAGE) * _PAGE


def outputs_of(vocabulary: int, options: LlamaOptions) -> int:
    """Most rows of logits of one forward: 64 MiB of them, at least 64 rows."""
    return min(options.n_batch, max(64, _LOGIT_BYTES // (4 * max(1, vocabulary))))


def memory_of(info: GGUFInfo, options: LlamaOptions, *, has_gpu: bool = False) -> int:
    """Bytes of main memory that a loaded model takes: weights, KV cache, and the buffers of a forward.

    From the header alone. With `has_gpu`, what `n_gpu_layers` puts into a memory of the GPU's own does not count.
    """
    room = room_of(info, options)
    vocabulary = len(info.metadata.get("tokenizer.ggml.tokens") or ())
    width = info.largest("embedding_length")
    inner, heads = info.largest("feed_forward_length"), info.largest("attention.head_count")
    logits = 2 * outputs_of(vocabulary, options) * vocabulary * 4
    rows = options.n_batch * (6 * width + 3 * inner) * 4
    seen = room.cells // room.lanes if room.apart else room.cells
    mask = options.n_batch * seen * (6 if uses_flash(options, room) else 4 * (1 + heads))
    kept = info.size + room.cells * _cell_bytes(info, options)
    return int(_LIBRARY_BYTES + kept * (1 - _share_on_gpu(info, options, has_gpu)) + logits + rows + mask)


def asks_for_gpu(info: GGUFInfo, options: LlamaOptions) -> bool:
    """Whether all layers are to be on the GPU: -1 says so, and so does any number that is large enough."""
    return options.n_gpu_layers < 0 or options.n_gpu_layers > info.largest("block_count")


def _share_on_gpu(info: GGUFInfo, options: LlamaOptions, has_gpu: bool) -> float:
    """Share of the weights and the cache that is on the GPU; llama.cpp counts the output as one layer more."""
    if not has_gpu:
        return 0.0
    return 1.0 if asks_for_gpu(info, options) else options.n_gpu_layers / (info.largest("block_count") + 1)


def uses_flash(options: LlamaOptions, room: Room) -> bool:
    """Whether flash attention may be used. It pays where masked cells are skipped, and quantized values need it."""
    if options.flash_attn == "auto" and room.apart and options.type_v in _PLAIN_VALUES:
        return False
    return options.flash_attn != "off"


def _cell_bytes(info: GGUFInfo, options: LlamaOptions) -> float:
    """Bytes of one token in the KV cache, over all layers."""
    keys, values = info.cell_values
    return keys * KV_TYPES[options.type_k][1] + values * KV_TYPES[options.type_v][1]


def physical_cores() -> int:
    """Cores that this process may use, two threads of one core counted once, within the limits of a container."""
    affinity: Any = getattr(os, "sched_getaffinity", None)
    allowed: set[int] | None = affinity(0) if affinity else None
    logical = len(allowed) if allowed is not None else os.cpu_count() or 1
    if sys.platform == "linux":
        found = len(linux_cores(allowed or set()))
    elif sys.platform == "darwin":
        found = _macos_cores()
    else:
        found = (logical + 1) // 2
    quota = processors()  # threads beyond it spin at barriers until the system stops them all
    return max(1, min(found or logical, logical, logical if quota is None else int(quota)))


def linux_cores(allowed: set[int]) -> list[list[int]]:
    """The logical processors of each core, of those allowed; nothing where the system does not tell."""
    cores: dict[str, list[int]] = {}
    for processor in sorted(allowed):
        path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        try:
            cores.setdefault(path.read_text(encoding="ascii").strip(), []).append(processor)
        except OSError:
            return []
    return list(cores.values())


def _macos_cores() -> int:
    """The fast cores only: a slow one would hold the others up at every barrier."""
    command = ["/usr/sbin/sysctl", "-n", "hw.perflevel0.physicalcpu"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(text) if re.fullmatch(r"\s*\d+\s*", text) else 0
