"""Llamas with random weights: what speed is measured on where no model may be downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from platformdirs import user_cache_path

__all__ = ["VOCABULARY", "Shape", "random_model"]

VOCABULARY = 32000


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama. `name` tells its parameters."""

    name: str
    width: int
    layers: int
    inner: int
    heads: int


def random_model(shape: Shape) -> Path:
    """A GGUF file of this shape in the user's cache, Q8_0, written on first use."""
    path = user_cache_path("a1agent") / f"bench-{shape.name}-q8_0.gguf"
    if not path.exists():
        _write(path, shape)
    return path


def _write(path: Path, shape: Shape) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path.with_suffix(".part"), "llama")
    writer.add_name(f"random {shape.name}")
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    _add_vocabulary(writer)

    def add(name: str, rows: int, columns: int) -> None:
        weights = rng.standard_normal((rows, columns), np.float32) * 0.02
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)

    add("token_embd", VOCABULARY, shape.width)
    add("output", VOCABULARY, shape.width)
    writer.add_tensor("output_norm.weight", np.ones(shape.width, np.float32))
    for i in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(shape.width, np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{part}", shape.width, shape.width)
        feed_forward = (("gate", shape.inner, shape.width), ("up", shape.inner, shape.width))
        for part, rows, columns in (*feed_forward, ("down", shape.width, shape.inner)):
            add(f"blk.{i}.ffn_{part}", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").replace(path)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """256 bytes, made-up words, an end token that random weights all but never sample."""
    letters = [chr(b) if 33 <= b < 127 or 161 <= b < 173 or b > 173 else chr(256 + b) for b in range(256)]
    words = [f"w{i}" for i in range(VOCABULARY - 257)]
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*letters, *words, "<|end|>"])
    writer.add_token_types([1] * (VOCABULARY - 1) + [3])
    writer.add_token_merges(["w 1"])
    writer.add_eos_token_id(VOCABULARY - 1)
    writer.add_add_bos_token(False)
