"""What llama.cpp ends the whole process over instead of refusing it, found in the header of a GGUF file."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from a1agent.backends.gguf_info import GGUFInfo
from a1agent.errors import ModelLoadError

__all__ = ["check_header", "check_vocabulary"]

_NONE = ("none", "no_vocab")
_MOST_LAYERS = 512
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_HALVES = {1: "float16", 30: "bfloat16"}  # types of tensors
_IN_TEXTS = [byte for byte in range(0xF5) if byte not in (0xC0, 0xC1)]  # bytes that occur in UTF-8


def check_header(header: GGUFInfo) -> None:
    """Raises `ModelLoadError` for a model that would end the process, while it is loaded or when it first runs."""
    check_vocabulary(header)
    layers = header.largest("block_count", 1)
    if not 0 < layers <= _MOST_LAYERS:
        _refuse(header, f"says that it has {layers} layers")
    scaling = header.get("rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        _refuse(header, f"scales positions by rules called {scaling!r}, which llama.cpp does not know")
    for tensor in header.tensors:
        if len(tensor.shape) == 1 and tensor.kind in _HALVES:
            _refuse(header, f"has {tensor.name} in {_HALVES[tensor.kind]}, where llama.cpp takes float32 only")


def check_vocabulary(header: GGUFInfo) -> None:
    """Raises `ModelLoadError` for a vocabulary that would end the process, while it is loaded or by some text."""
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind in _NONE:
        _refuse(header, "holds no vocabulary")
    stored: Any = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(stored, list) or not all(isinstance(token, bytes) for token in cast("list[Any]", stored)):
        return  # it is refused
    # As llama.cpp reads them: up to a zero, and under a name of its own what is empty.
    tokens = [token.partition(b"\0")[0] or b"[EMPTY_%d]" % i for i, token in enumerate(cast("list[bytes]", stored))]
    known = set(tokens)
    if len(known) < len(tokens):
        token, count = Counter(tokens).most_common(1)[0]
        _refuse(header, f"has the token {token.decode(errors='replace')!r} {count} times in its vocabulary")
    if kind == "llama":
        missing = [byte for byte in _IN_TEXTS if not known & {b"<0x%02X>" % byte, bytes([byte])}]
        if missing:
            _refuse(header, f"has no tokens for {len(missing)} of the bytes that characters may have to be spelled in")


def _refuse(header: GGUFInfo, what: str) -> None:
    raise ModelLoadError(f"{header.path.name} {what}: it would crash llama.cpp", "use another file of this model")
