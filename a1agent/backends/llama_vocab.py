"""The vocabulary of a loaded GGUF model: text to ids and back."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from a1agent.backends.vocabulary import TextVocabulary
from a1agent.errors import BackendClosed

__all__ = ["LlamaVocabulary"]

_UNKNOWN, _CONTROL, _USER, _LSTRIP, _RSTRIP = 1, 8, 16, 128, 256
# Control tokens of gpt-oss that llama.cpp makes plain words: texts would show them, and any text would give their ids.
_SHOWN = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")


class LlamaVocabulary(TextVocabulary):
    """Ids of one model. `fingerprint`: equal for vocabularies that give equal ids for any text."""

    def __init__(self, api: Any, model: Any, fingerprint: str) -> None:
        self._api = api
        self._vocab = api.llama_model_get_vocab(model)
        self.fingerprint = fingerprint
        self.size = int(api.llama_vocab_n_tokens(self._vocab))
        self._attributes = [int(api.llama_vocab_get_attr(self._vocab, i)) for i in range(self.size)]
        self.end_ids = frozenset(i for i in range(self.size) if api.llama_vocab_is_eog(self._vocab, i))
        control = (i for i, attributes in enumerate(self._attributes) if attributes & (_UNKNOWN | _CONTROL))
        users = {self.text_of(i): i for i, attributes in enumerate(self._attributes) if attributes & _USER}
        shown = {text: users[text] for text in _SHOWN if text in users}
        self.control = {self.text_of(i): i for i in control} | shown
        self.added = users | self.control
        self._hidden = frozenset(shown.values())
        self._inside = re.compile("|".join(f"(?<=<)(?={re.escape(text[1:])})" for text in shown) or "(?!)")
        bos = int(api.llama_vocab_bos(self._vocab))
        self.bos = bos if api.llama_vocab_get_add_bos(self._vocab) and bos >= 0 else None
        self._users: list[None] = []
        self._closed = False
        super().__init__()

    @property
    def handle(self) -> Any:
        """The vocabulary as llama.cpp's functions take it."""
        return self._vocab

    @property
    def template_variables(self) -> dict[str, str]:
        """What chat templates call `bos_token` and `eos_token`."""
        bos, eos = self._api.llama_vocab_bos(self._vocab), self._api.llama_vocab_eos(self._vocab)
        return {
            "bos_token": self.text_of(bos) if bos >= 0 else "",
            "eos_token": self.text_of(eos) if eos >= 0 else "",
        }

    def text_of(self, token: int) -> str:
        """A token as the vocabulary spells it."""
        text: bytes | None = self._api.llama_vocab_get_text(self._vocab, token)
        return (text or b"").decode(errors="replace")

    def close(self) -> None:
        """Waits for those who use the vocabulary now and refuses those who come later: the model is about to go."""
        self._closed = True
        while self._users:
            time.sleep(0.001)

    @contextmanager
    def _in_use(self) -> Generator[None]:
        """Several threads tokenize while another may free the model. Appending before asking makes that safe."""
        self._users.append(None)
        try:
            if self._closed:
                raise BackendClosed("the model was closed", "load it again")
            yield
        finally:
            self._users.pop()

    def _read_piece(self, token: int) -> bytes:
        if token in self._hidden:
            return b""
        size = 64
        with self._in_use():
            while True:
                buffer = ctypes.create_string_buffer(size)
                length = self._api.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
                if length >= 0:
                    return buffer.raw[:length]
                size = -length

    def _strips(self, token: int) -> tuple[bool, bool]:
        attributes = self._attributes[token]
        return bool(attributes & _LSTRIP), bool(attributes & _RSTRIP)

    def _encode(self, text: str) -> list[int]:
        return [token for part in self._inside.split(text) for token in self._encode_part(part)]

    def _encode_part(self, text: str) -> list[int]:
        data = text.encode(errors="replace")
        room = len(data) + 16
        with self._in_use():
            while True:
                ids = (ctypes.c_int32 * room)()
                count = self._api.llama_tokenize(self._vocab, data, len(data), ids, room, False, False)
                if count >= 0:
                    return ids[:count]
                room = -count
