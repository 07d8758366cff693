"""The tokenizer and the chat template of a `tokenizer.json` and the files beside it, without transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.hf_files import read_json
from a1agent.backends.hf_vocab import HfVocabulary, tokenizer_fingerprint
from a1agent.errors import ModelLoadError

__all__ = ["Sources", "read_tokenizer_json", "with_template"]

Sources = tuple[str | None, str | None]
"""A chat template, and the one for questions with tools where that is another."""


def read_tokenizer_json(file: Path) -> tuple[HfVocabulary, ChatTemplate, str]:
    """The vocabulary, the chat template and the text of BOS ("": none). Raises `ModelLoadError`."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exception
        raise ModelLoadError(f"{file} is no tokenizer: {error}", "name a tokenizer.json") from error
    config = _json_of(file.with_name("tokenizer_config.json"))
    variables = {name: _text(config.get(name)) for name in ("bos_token", "eos_token")}
    ids: dict[str, int] = tokenizer.get_vocab()
    ends: Any = _json_of(file.with_name("generation_config.json")).get("eos_token_id")
    found = {*cast("list[Any]", ends if isinstance(ends, list) else [ends]), ids.get(variables["eos_token"])}
    vocabulary, template = with_template(
        tokenizer,
        max(ids.values(), default=-1) + 1,
        (token for token in found if isinstance(token, int)),
        _sources(file, config),
        variables,
        str(file),
    )
    return vocabulary, template, variables["bos_token"]


def with_template(
    tokenizer: Tokenizer, size: int, ends: Iterable[int], sources: Sources, variables: Mapping[str, str], name: str
) -> tuple[HfVocabulary, ChatTemplate]:
    """A vocabulary of `size` ids, and its template. A template says where BOS goes; without one the tokenizer does."""
    plain, for_tools = sources
    bos = None if plain else _own_bos(tokenizer)
    vocabulary = HfVocabulary(tokenizer, tokenizer_fingerprint(tokenizer), size, ends=ends, bos=bos)
    return vocabulary, ChatTemplate(plain, vocabulary.control, variables, name, for_tools)


def _own_bos(tokenizer: Tokenizer) -> int | None:
    """What the tokenizer puts before a text by itself."""
    bare, dressed = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    return dressed[0] if len(dressed) > len(bare) and dressed[0] != bare[0] else None


def _sources(file: Path, config: dict[str, Any]) -> Sources:
    beside = file.with_name("chat_template.jinja")
    if beside.is_file():
        return beside.read_text(encoding="utf-8"), None
    found: Any = config.get("chat_template")
    if not isinstance(found, list):
        return found, None
    named = {entry["name"]: entry["template"] for entry in cast("list[dict[str, str]]", found)}
    return named.get("default"), named.get("tool_use")


def _text(token: Any) -> str:
    """A token as tokenizer_config.json spells it: a text, or an object with one."""
    return str(cast("dict[str, Any]", token).get("content", "")) if isinstance(token, dict) else token or ""


def _json_of(file: Path) -> dict[str, Any]:
    """What a file holds, nothing where there is none."""
    return read_json(file) if file.is_file() else {}
