"""Tiny checkpoints in transformers' format that tests write themselves, with the vocabularies of `tiny`."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from a1agent.backends.gguf_info import read_gguf
from a1agent.backends.gguf_tokenizer import build_tokenizer
from tests.backends import tiny

_CUT = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXTENTS = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,
}


def bpe() -> Tokenizer:
    """The byte-level vocabulary of `tiny.bpe_words`."""
    words = tiny.bpe_words()
    merges = [tuple(merge.split(" ")) for merge in words.merges]
    vocabulary = {token: i for i, token in enumerate(words.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    cut = pre_tokenizers.Split(Regex(_CUT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return _with_control(tokenizer, words)


def sentencepiece() -> Tokenizer:
    """A vocabulary with byte fallback that puts a space before a text, as those converted from SentencePiece do."""
    words = tiny.spm_words()
    vocabulary = {token: i for i, token in enumerate(words.tokens)}
    merges = [
        (token[:cut], token[cut:])
        for token in sorted(words.tokens, key=lambda token: -words.scores[vocabulary[token]])
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary and not token.startswith("<")
    ]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_control(tokenizer, words)


def _with_control(tokenizer: Tokenizer, words: tiny.Words) -> Tokenizer:
    special = [t for t, kind in zip(words.tokens, words.types, strict=True) if kind in (tiny.CONTROL, tiny.UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def config_of(kind: str, vocabulary: int, **changes: Any) -> Any:
    """A configuration of an architecture: small extents, and ends that random weights will hardly sample."""
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return transformers.AutoConfig.for_model(kind, **{**EXTENTS, **ids, "vocab_size": vocabulary, **changes})


def random_model(config: Any, seed: int = 0) -> Any:
    """A model with random weights, large enough that attention matters to its logits."""
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def write(folder: Path, kind: str, tokenizer: Tokenizer, words: tiny.Words, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint: weights, tokenizer, chat template."""
    model = random_model(config_of(kind, len(words.tokens), eos_token_id=words.eos, **changes), seed)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": words.tokens[words.bos],
        "eos_token": words.tokens[words.eos],
        "chat_template": words.template,
    }
    text = json.dumps({key: value for key, value in settings.items() if value is not None})
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return folder


def thinker_checkpoint(folder: Path, gguf: Path) -> Path:
    """A GGUF file of `thinkers` as servers that read no GGUF take it; its control tokens are special."""
    metadata = read_gguf(gguf).metadata
    embedded_checkpoint(folder, gguf)
    build_tokenizer(metadata).save(str(folder / "tokenizer.json"))
    end = metadata["tokenizer.ggml.tokens"][metadata["tokenizer.ggml.eos_token_id"]].decode()
    template = metadata["tokenizer.chat_template"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


def embedded_checkpoint(folder: Path, gguf: Path) -> Path:
    """A GGUF file of the embedded pair as servers that read no GGUF take it: float32 weights, tokenizer, template."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    read = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    shape = read.config.to_dict()
    shape.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder
