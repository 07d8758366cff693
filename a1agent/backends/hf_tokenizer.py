"""The tokenizer and the chat template of a checkpoint."""

from __future__ import annotations

from typing import Any, cast

import transformers as _transformers
from tokenizers import Tokenizer

from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.gguf_tokenizer import build_tokenizer, wants_bos
from a1agent.backends.hf_files import ModelFiles, reason_of
from a1agent.backends.hf_vocab import HfVocabulary
from a1agent.backends.json_tokenizer import with_template
from a1agent.backends.transformers_options import TransformersOptions
from a1agent.errors import ModelLoadError

transformers: Any = _transformers

__all__ = ["read_tokenizer"]


def read_tokenizer(files: ModelFiles, options: TransformersOptions, model: Any) -> tuple[HfVocabulary, ChatTemplate]:
    """The vocabulary of a model, and its chat template.

    Raises `ModelLoadError` when the tokenizer is missing, damaged, or not of a kind known here.
    """
    size = int(model.config.get_text_config().vocab_size)
    if files.gguf is not None:
        return _of_gguf(files, size)
    tokenizer = _load(files, options)
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        what = f"{files.name} has no tokenizer of the fast kind (tokenizer.json)"
        raise ModelLoadError(what, "convert its tokenizer, or choose another model")
    stored: Any = tokenizer.chat_template
    named = cast("dict[str, str]", stored) if isinstance(stored, dict) else {"default": cast("str | None", stored)}
    sources = (named.get("default"), named.get("tool_use"))
    variables = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    variables = {"bos_token": "", "eos_token": "", **variables}
    return with_template(backend, size, _ends(tokenizer, model), sources, variables, files.name)


def _of_gguf(files: ModelFiles, size: int) -> tuple[HfVocabulary, ChatTemplate]:
    assert files.gguf is not None
    metadata = files.gguf.metadata
    tokenizer = build_tokenizer(metadata)
    tokens: list[bytes] = metadata["tokenizer.ggml.tokens"]

    def named(kind: str) -> int | None:
        token = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        return token if token is not None and 0 <= token < len(tokens) else None

    ends = [token for token in map(named, ("eos", "eot", "eom")) if token is not None]
    first = named("bos")
    bos = first if wants_bos(metadata) else None
    vocabulary = HfVocabulary(tokenizer, files.gguf.tokenizer_fingerprint(), size, ends=ends, bos=bos)
    special = {"bos_token": first, "eos_token": named("eos")}
    variables = {name: "" if token is None else tokens[token].decode() for name, token in special.items()}
    plain, for_tools = (metadata.get(f"tokenizer.chat_template{kind}") for kind in ("", ".tool_use"))
    return vocabulary, ChatTemplate(plain, vocabulary.control, variables, files.name, for_tools)


def _load(files: ModelFiles, options: TransformersOptions) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(files.path), trust_remote_code=options.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        hint = "download all its files again"
        if "trust_remote_code" in str(error):
            hint = "it brings code of its own: read it, then add trust_remote_code=true"
        what = f"the tokenizer of {files.name} does not load: {reason_of(error)}"
        raise ModelLoadError(what, hint) from error


def _ends(tokenizer: Any, model: Any) -> set[int]:
    """Every id that the checkpoint's files call an end."""
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer):
        ids: Any = getattr(source, "eos_token_id", None)
        several = cast("list[Any]", ids) if isinstance(ids, list) else [ids]
        found |= {token for token in several if isinstance(token, int)}
    return found
