"""Tiny GGUF models that tests write themselves: random ones, and parrots that say a given text."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import numpy as np

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
CORPUS = (
    "the sum of the two numbers is the answer and we add the parts then we take the rest of it. "
    "first we split the number into ones and tens. so the result is in the box.\n\nnext we add them.\n\n"
) * 3


@dataclass(frozen=True)
class Words:
    """A vocabulary as GGUF stores it; `add_bos` None: it does not say."""

    model: str
    tokens: list[str]
    types: list[int]
    bos: int
    eos: int
    template: str | None
    add_bos: bool | None = False
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    pre: str = "qwen2"


@cache
def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


@cache
def bpe_words(template: str | None = CHATML) -> Words:
    """A byte-level BPE vocabulary, pre-tokenizer qwen2, no BOS, merges learned from a few sentences."""
    return learned(_pieces(CORPUS), 120, template)


def learned(pieces: Sequence[str], count: int, template: str | None = CHATML, pre: str = "qwen2") -> Words:
    """A byte-level BPE vocabulary with at most `count` merges, learned within these pieces of text."""
    letters = byte_letters()
    words = [[letters[b] for b in piece.encode()] for piece in pieces]
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in itertools.pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    tokens = [letters[b] for b in range(256)] + list(dict.fromkeys(a + b for a, b in merges))
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    types = [NORMAL] * len(tokens) + [CONTROL] * len(control)
    tokens += control
    ends, joins = (len(tokens) - 3, len(tokens) - 1), tuple(map(" ".join, merges))
    return Words("gpt2", tokens, types, *ends, template, merges=joins, pre=pre)


@cache
def spm_words(template: str | None = LLAMA) -> Words:
    """A SentencePiece vocabulary with byte fallback, BOS, and a space before the first word."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    words = [f"▁{word}" for word in CORPUS.split()]
    pieces = dict.fromkeys(word[:n] for word in sorted(set(words)) for n in range(2, len(word) + 1))
    singles = ["▁", *(chr(c) for c in range(33, 127))]
    pieces = {piece: None for piece in pieces if piece not in singles}
    scores = [0.0] * len(tokens) + [-float(len(p)) for p in pieces] + [-100.0 - i for i in range(len(singles))]
    types += [NORMAL] * (len(pieces) + len(singles))
    tokens += [*pieces, *singles]
    return Words("llama", tokens, types, 1, 2, template, True, (), tuple(scores))


def write_random(
    path: Path, words: Words, *, seed: int = 0, context: int = 1024, window: int = 0, quantized: bool = False
) -> Path:
    """A two-layer model with random weights. `window`: sliding-window attention in every other layer (gemma2).

    `quantized`: in 8 bits a weight (Q8_0).
    """
    rng = np.random.default_rng(seed)
    width, inner, layers, heads = 64, 128, 2, 4
    arch = "gemma2" if window else "llama"
    writer = _header(path, arch, words, width, inner, layers, heads, context)
    if window:
        writer.add_sliding_window(window)
        writer.add_key_length(width // heads)
        writer.add_value_length(width // heads)
    vocabulary = len(words.tokens)

    def add(name: str, *shape: int, scale: float) -> None:
        weights = (rng.standard_normal(shape) * scale).astype(np.float32)
        if quantized:
            eight_bits = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(weights, eight_bits), raw_dtype=eight_bits)
        else:
            writer.add_tensor(f"{name}.weight", weights)

    add("token_embd", vocabulary, width, scale=0.15 if window else 1.0)
    for i in range(layers):
        for norm in ("attn_norm", "ffn_norm", *(("post_attention_norm", "post_ffw_norm") if window else ())):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(width, np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{part}", width, width, scale=0.1)
        for part, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            add(f"blk.{i}.ffn_{part}", *shape, scale=0.1)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    if not window:
        add("output", vocabulary, width, scale=0.2)
    return _finish(writer, path)


def write_recurrent(path: Path, words: Words, *, context: int = 1024) -> Path:
    """A two-layer Mamba with random weights: its state only grows."""
    rng = np.random.default_rng(0)
    width, inner, kernel, state, rank = 64, 128, 4, 16, 4
    writer = _header(path, "mamba", words, width, 0, 2, 1, context)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * 0.1).astype(np.float32))

    letters = rng.standard_normal((len(words.tokens), width)) * 0.1
    writer.add_tensor("token_embd.weight", letters.astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for i in range(2):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(width, np.float32))
        add(f"blk.{i}.ssm_in.weight", 2 * inner, width)
        add(f"blk.{i}.ssm_conv1d.weight", inner, kernel)
        add(f"blk.{i}.ssm_conv1d.bias", inner)
        add(f"blk.{i}.ssm_x.weight", rank + 2 * state, inner)
        add(f"blk.{i}.ssm_dt.weight", inner, rank)
        add(f"blk.{i}.ssm_dt.bias", inner)
        writer.add_tensor(f"blk.{i}.ssm_a", -np.ones((inner, state), np.float32))
        writer.add_tensor(f"blk.{i}.ssm_d", np.ones(inner, np.float32))
        add(f"blk.{i}.ssm_out.weight", width, inner)
    return _finish(writer, path)


def write_parrot(path: Path, words: Words, says: Sequence[int], *, context: int = 256) -> Path:
    """A model in which each token of `says` is followed by the next one, whatever stood before. Ids must be unique."""
    assert len(set(says)) == len(says)
    rng = np.random.default_rng(0)
    width, inner = 256, 32
    writer = _header(path, "llama", words, width, inner, 1, 4, context)
    letters = rng.choice([-1.0, 1.0], (len(words.tokens), width)).astype(np.float32)
    output = np.zeros_like(letters)
    for token, following in itertools.pairwise(says):
        output[following] = letters[token] * 0.25
    writer.add_tensor("token_embd.weight", letters)
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{norm}.weight", np.ones(width, np.float32))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{part}.weight", np.zeros((width, width), np.float32))
    for part, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
        writer.add_tensor(f"blk.0.ffn_{part}.weight", np.zeros(shape, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    return _finish(writer, path)


def _header(
    path: Path, arch: str, words: Words, width: int, inner: int, layers: int, heads: int, context: int
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    add_words(writer, words)
    return writer


def add_words(writer: gguf.GGUFWriter, words: Words) -> None:
    """Writes a vocabulary."""
    writer.add_vocab_size(len(words.tokens))
    writer.add_tokenizer_model(words.model)
    if words.model == "gpt2":
        writer.add_tokenizer_pre(words.pre)
        writer.add_token_merges(list(words.merges))
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.scores:
        writer.add_token_scores(list(words.scores))
    writer.add_bos_token_id(words.bos)
    writer.add_eos_token_id(words.eos)
    if words.add_bos is not None:
        writer.add_add_bos_token(words.add_bos)
    if words.template:
        writer.add_chat_template(words.template)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _pieces(text: str) -> list[str]:
    """Words with the space before them, and runs of line breaks with the full stop before them."""
    pieces: list[str] = []
    for block in text.split("\n\n"):
        words = block.split()
        pieces += [word if i == 0 else f" {word}" for i, word in enumerate(words)]
        pieces += [".\n\n"]
    return pieces


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged
