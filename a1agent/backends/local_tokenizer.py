"""A tokenizer and chat template in this process for a model that runs on a server: exact, and without asking it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from a1agent.backends.chat_options import ChatOptions
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.hub import find_gguf, find_tokenizer, is_gguf, is_repository
from a1agent.backends.vocabulary import Prompt, TextVocabulary
from a1agent.errors import InvalidOption, MissingExtra, ModelLoadError, ModelNotFound
from a1agent.types import Question

__all__ = ["LocalTokenizer", "load_tokenizer"]


class LocalTokenizer:
    """Text to ids and back, and prompts. `bos`: the text of the token that begins a prompt, if there is one."""

    exact = True

    def __init__(
        self,
        vocabulary: TextVocabulary,
        template: ChatTemplate,
        bos: str,
        name: str,
        free: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.fingerprint = vocabulary.fingerprint
        self.size = vocabulary.size
        self.end_ids = vocabulary.end_ids
        self.marks = vocabulary.marks
        self.piece = vocabulary.piece
        self.tokenize = vocabulary.tokenize
        self._vocabulary = vocabulary
        self._template = template
        self._free = free
        self._bos = bos

    def set(self, options: ChatOptions) -> None:
        """Tells the chat template what the options say; frees all when that raises `InvalidOption`."""
        try:
            self._template.set(options)
        except InvalidOption:
            self.close()
            raise

    async def learn(self, text: str) -> list[int]:
        """Ids of a text that continues another."""
        return self._vocabulary.tokenize(text)

    async def encode(self, question: Question) -> Prompt:
        """The prompt of a question in token ids. Raises `UsageError` when the template refuses it."""
        return await asyncio.to_thread(self._vocabulary.encode, question, self._template)

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
    file = Path(os.path.expanduser(path))
    if not file.exists() and is_gguf(path):
        file = find_gguf(path, extra="llama-cpp")
    if file.suffix == ".gguf":
        return _from_gguf(file)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        if not is_repository(path):
            hint = "name a .gguf, a tokenizer.json, or a folder or hub name with one"
            raise ModelNotFound(f"there is no tokenizer {path!r}", hint)
        file = find_tokenizer(path)
    return _from_json(file)


def _from_json(file: Path) -> LocalTokenizer:
    try:
        from a1agent.backends.json_tokenizer import read_tokenizer_json
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the tokenizer {file.name}", "transformers") from error
    vocabulary, template, bos = read_tokenizer_json(file)
    return LocalTokenizer(vocabulary, template, bos, str(file))


def _from_gguf(file: Path) -> LocalTokenizer:
    from a1agent.backends._llama_api import llama_api
    from a1agent.backends.gguf_info import read_gguf
    from a1agent.backends.llama_check import check_vocabulary
    from a1agent.backends.llama_vocab import LlamaVocabulary

    header = read_gguf(file)
    check_vocabulary(header)
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

    source, for_tools = (header.metadata.get(f"tokenizer.chat_template{kind}") for kind in ("", ".tool_use"))
    variables = vocabulary.template_variables
    template = ChatTemplate(source, vocabulary.control, variables, file.name, for_tools)
    return LocalTokenizer(vocabulary, template, variables["bos_token"], file.name, free)
