"""What vocabularies have in common: steps without an added space, prompts whose control tokens come from a template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import NamedTuple, Protocol

from a1agent.backends.batching.runner import Vocabulary
from a1agent.backends.chat_template import ChatTemplate, Piece
from a1agent.backends.sentinel import find_sentinel
from a1agent.backends.text_marks import TextMarks, find_marks
from a1agent.prompts import opens_thought
from a1agent.types import Question

__all__ = ["ChatTokenizer", "Prompt", "TextVocabulary", "byte_letters"]


class Prompt(NamedTuple):
    """A prompt in token ids. `thinking`: it ends inside a thought."""

    ids: list[int]
    thinking: bool


class ChatTokenizer(Vocabulary, Protocol):
    """Text to ids and back, and prompts. `exact`: it knows the bytes of every id."""

    @property
    def exact(self) -> bool: ...

    @property
    def marks(self) -> TextMarks | None: ...

    async def learn(self, text: str) -> list[int]:
        """Ids of a text that continues another."""
        ...

    async def encode(self, question: Question) -> Prompt:
        """The prompt of a question in token ids."""
        ...

    def close(self) -> None:
        """Frees it."""
        ...


class TextVocabulary(ABC):
    """Text to ids and back. `control`: ids of control tokens by text; `bos`: what begins every prompt, if anything.

    `added`: these and the others that stand for a text as a whole. `fingerprint` is equal for vocabularies that give
    equal ids for any text.
    """

    fingerprint: str
    size: int
    end_ids: frozenset[int]
    control: dict[str, int]
    added: dict[str, int]
    bos: int | None

    def __init__(self) -> None:
        # Whether a text after a control token is tokenized like one that stands alone, with a space if those get one.
        self.spaced = True
        self._pieces: dict[int, bytes] = {}
        added = self._spells("a b") != "a b"  # a space, to the start of a text
        self._sentinel = find_sentinel(self._encode) if added else ("", list[int]())
        self.marks = find_marks(self.added, self.control, self._continue)
        if self.marks is not None:
            self.end_ids |= {*self.marks.ends}

    @property
    def channels(self) -> bool:
        """Whether its model says of each message what kind it is."""
        return self.marks is not None and self.marks.channels

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """Ids of a text that stands alone; control tokens in it are plain text."""

    @abstractmethod
    def _read_piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text."""

    @abstractmethod
    def _strips(self, token: int) -> tuple[bool, bool]:
        """Whether a control token swallows the white space to its left and to its right."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text that continues another: no BOS, no added space, control tokens are plain text.

        All but the marks of thoughts and of calls, which are tokens where they are tokens of the model.
        """
        if not text:
            return []
        return self._continue(text) if self.marks is None else self.marks.tokenize(text, self._continue)

    def _continue(self, text: str) -> list[int]:
        prefix, ids = self._sentinel
        return self._encode(prefix + text)[len(ids) :]

    def encode(self, question: Question, template: ChatTemplate) -> Prompt:
        """The prompt of a question. Raises `UsageError` when the template refuses it."""
        pieces = template.pieces(question)
        text = "".join(piece.text for piece in pieces)
        text = text if self.marks is None else self.marks.as_text(text)
        return Prompt(self.tokenize_pieces(pieces), opens_thought(text, question))

    def tokenize_pieces(self, pieces: list[Piece]) -> list[int]:
        """Ids of a rendered chat template: control tokens as such, the runs between them as the vocabulary has them."""
        ids: list[int] = []
        strip = False
        for i, piece in enumerate(pieces):
            if piece.control:
                token = self.control[piece.text]
                ids.append(token)
                strip = self._strips(token)[1]
                continue
            text = piece.text.lstrip() if strip else piece.text
            if i + 1 < len(pieces) and self._strips(self.control[pieces[i + 1].text])[0]:
                text = text.rstrip()
            if text:
                ids.extend(self._encode(text) if self.spaced or not ids else self._continue(text))
            strip = False
        if self.bos is not None and ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for a control token that is no mark of a thought or a call."""
        piece = self._pieces.get(token)
        if piece is None:
            mark = None if self.marks is None else self.marks.pieces.get(token)
            piece = self._pieces[token] = self._read_piece(token) if mark is None else mark
        return piece

    def _spells(self, text: str) -> str:
        pieces = b"".join(self._read_piece(token) for token in self._encode(text))
        return pieces.decode(errors="replace")


@cache
def byte_letters() -> dict[str, int]:
    """The letters that stand for bytes in byte-level vocabularies: printable bytes as they are, others from U+0100."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
