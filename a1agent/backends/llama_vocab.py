"""The vocabulary of a loaded GGUF model: text to ids and back."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from a1agent.backends.chat_template import Piece
from a1agent.backends.sentinel import find_sentinel
from a1agent.errors import BackendClosed

__all__ = ["LlamaVocabulary"]

_UNKNOWN, _CONTROL, _LSTRIP, _RSTRIP = 1, 8, 128, 256


class LlamaVocabulary:
    """Ids of one model. `fingerprint`: equal for vocabularies that give equal ids for any text."""

    def __init__(self, api: Any, model: Any, fingerprint: str) -> None:
        self._api = api
        self._vocab = api.llama_model_get_vocab(model)
        self.fingerprint = fingerprint
        self.size = int(api.llama_vocab_n_tokens(self._vocab))
        self._attributes = [int(api.llama_vocab_get_attr(self._vocab, i)) for i in range(self.size)]
        self.end_ids = frozenset(i for i in range(self.size) if api.llama_vocab_is_eog(self._vocab, i))
        self.control = {
            self.text_of(i): i for i, attributes in enumerate(self._attributes) if attributes & (_UNKNOWN | _CONTROL)
        }
        self._pieces: dict[int, bytes] = {}
        self._users: list[None] = []
        self._closed = False
        self._sentinel = ("", list[int]()) if self._spells("a b") == "a b" else find_sentinel(self._tokenize)

    @property
    def handle(self) -> Any:
        """The vocabulary as llama.cpp's functions take it."""
        return self._vocab

    @property
    def bos(self) -> int | None:
        """The id that begins every prompt, where the vocabulary wants one."""
        wanted = self._api.llama_vocab_get_add_bos(self._vocab)
        token = int(self._api.llama_vocab_bos(self._vocab))
        return token if wanted and token >= 0 else None

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

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text that continues another: no BOS, no added space, control tokens are plain text."""
        if not text:
            return []
        prefix, ids = self._sentinel
        return self._tokenize(prefix + text)[len(ids) :]

    def tokenize_pieces(self, pieces: list[Piece]) -> list[int]:
        """Ids of a rendered chat template: control tokens as such, runs between them as llama.cpp would."""
        ids: list[int] = []
        strip = False
        for i, piece in enumerate(pieces):
            if piece.control:
                token = self.control[piece.text]
                ids.append(token)
                strip = bool(self._attributes[token] & _RSTRIP)
                continue
            text = piece.text.lstrip() if strip else piece.text
            if i + 1 < len(pieces) and self._attributes[self.control[pieces[i + 1].text]] & _LSTRIP:
                text = text.rstrip()
            ids.extend(self._tokenize(text) if text else [])
            strip = False
        if self.bos is not None and ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

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
        size = 64
        with self._in_use():
            while True:
                buffer = ctypes.create_string_buffer(size)
                length = self._api.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
                if length >= 0:
                    return buffer.raw[:length]
                size = -length

    def _tokenize(self, text: str) -> list[int]:
        data = text.encode(errors="replace")
        room = len(data) + 16
        with self._in_use():
            while True:
                ids = (ctypes.c_int32 * room)()
                count = self._api.llama_tokenize(self._vocab, data, len(data), ids, room, False, False)
                if count >= 0:
                    return ids[:count]
                room = -count

    def _spells(self, text: str) -> str:
        pieces = b"".join(self._read_piece(token) for token in self._tokenize(text))
        return pieces.decode(errors="replace")
