"""A tokenizer and chat template in this process for a model that runs on a server: exact, and without asking it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from a1agent.backends.batching.runner import Vocabulary
from a1agent.backends.chat_template import ChatTemplate, Piece
from a1agent.errors import MissingExtra, ModelLoadError, ModelNotFound
from a1agent.types import Question

__all__ = ["LocalTokenizer", "load_tokenizer"]

_FILES = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja")


class _Spelling(Vocabulary, Protocol):
    """A vocabulary that also takes rendered templates."""

    control: dict[str, int]

    @property
    def template_variables(self) -> dict[str, str]: ...

    def tokenize_pieces(self, pieces: list[Piece]) -> list[int]: ...


class LocalTokenizer:
    """Text to ids and back, and prompts."""

    exact = True

    def __init__(
        self, vocabulary: _Spelling, template: ChatTemplate, name: str, free: Callable[[], None] | None = None
    ) -> None:
        self.name = name
        self.fingerprint = vocabulary.fingerprint
        self.size = vocabulary.size
        self.end_ids = vocabulary.end_ids
        self.piece = vocabulary.piece
        self.tokenize = vocabulary.tokenize
        self._vocabulary = vocabulary
        self._template = template
        self._free = free
        self._bos = vocabulary.template_variables["bos_token"]

    async def learn(self, text: str) -> list[int]:
        """Ids of a text that continues another."""
        return self._vocabulary.tokenize(text)

    async def encode(self, question: Question) -> list[int]:
        """The prompt of a question in token ids. Raises `UsageError` when the template refuses it."""
        return await asyncio.to_thread(self._encode, question)

    def _encode(self, question: Question) -> list[int]:
        return self._vocabulary.tokenize_pieces(self._template.pieces(question))

    def render(self, question: Question) -> str:
        """The prompt of a question as text, for servers that put a BOS before it and parse control tokens anywhere.

        Those spelled out in messages are kept apart by a character without width.
        """
        pieces = self._template.pieces(question)
        if pieces and pieces[0].control and pieces[0].text == self._bos:
            del pieces[0]
        return "".join(piece.text if piece.control else self._broken(piece.text) for piece in pieces)

    def _broken(self, text: str) -> str:
        for spelled in self._vocabulary.control:
            text = text.replace(spelled, spelled[0] + "\u200b" + spelled[1:])
        return text

    def close(self) -> None:
        """Frees it."""
        if self._free is not None:
            self._free()
            self._free = None


def load_tokenizer(path: str) -> LocalTokenizer:
    """The tokenizer of a GGUF file, a `tokenizer.json`, or a folder or hub name that holds one.

    Raises `ModelNotFound`, `ModelLoadError`, `MissingExtra`.
    """
    file = Path(path).expanduser()
    if file.suffix == ".gguf":
        return _from_gguf(file)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        file = _from_hub(path)
    return _from_json(file)


def _from_json(file: Path) -> LocalTokenizer:
    from a1agent.backends.json_vocab import JsonVocabulary

    vocabulary = JsonVocabulary(file)
    beside = file.with_name("chat_template.jinja")
    source = beside.read_text(encoding="utf-8") if beside.is_file() else vocabulary.template
    template = ChatTemplate(source, vocabulary.control, vocabulary.template_variables, str(file))
    return LocalTokenizer(vocabulary, template, str(file))


def _from_gguf(file: Path) -> LocalTokenizer:
    from a1agent.backends._llama_api import llama_api
    from a1agent.backends.gguf_info import read_gguf
    from a1agent.backends.llama_vocab import LlamaVocabulary

    header = read_gguf(file)
    api = llama_api()
    params = api.llama_model_default_params()
    params.vocab_only = True
    model = api.llama_model_load_from_file(os.fsencode(file), params)
    if not model:
        raise ModelLoadError(f"{file.name} holds no vocabulary that loads", "choose another file of this model")
    vocabulary = LlamaVocabulary(api, model, header.tokenizer_fingerprint())

    def free() -> None:
        vocabulary.close()
        api.llama_model_free(model)

    source: str | None = header.metadata.get("tokenizer.chat_template")
    template = ChatTemplate(source, vocabulary.control, vocabulary.template_variables, file.name)
    return LocalTokenizer(vocabulary, template, file.name, free)


def _from_hub(name: str) -> Path:
    """The `tokenizer.json` of a hub name, with the files beside it."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelNotFound(f"there is no tokenizer {name!r}", "name a .gguf, a tokenizer.json, or a folder with one")
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the hub name {name}", "transformers") from error
    try:
        file = Path(hub.hf_hub_download(name, "tokenizer.json"))
    except Exception as error:
        what = f"the hub gave no tokenizer of {name!r}: {error}"
        raise ModelNotFound(what, "check the name; without a network name a file or folder") from error
    for beside in _FILES:
        with contextlib.suppress(Exception):  # not every model has all of them
            hub.hf_hub_download(name, beside)
    return file
