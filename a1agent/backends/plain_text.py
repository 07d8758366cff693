"""Texts for servers that take no token ids: a made-up vocabulary whose pieces are what the server streams.

Counts are exact for what the model writes, as far as the server streams token by token, and estimates for other texts.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets

from a1agent.backends.chat_template import PLAIN, ChatTemplate
from a1agent.backends.local_tokenizer import LocalTokenizer
from a1agent.backends.text_marks import TextMarks
from a1agent.backends.vocabulary import Prompt
from a1agent.errors import InvalidQuestion
from a1agent.prompts import opens_thought
from a1agent.types import Question

__all__ = ["PlainText"]

_log = logging.getLogger(__name__)
_TOOLS = (
    "give the model's tokenizer: ?tokenizer=PATH, and api=completions where its server takes tool calls out of a chat"
)
_UNFORMATTED = "%s is sent plain lines of 'User:' and 'Assistant:'; for its chat template write ?tokenizer=PATH"
# About four letters to a token, spaces with the word after them: what most vocabularies come to in English.
_PIECE = re.compile(r"\s?[^\W\d_]{1,5}|\d|\s+?(?=\s[^\W\d_])|\s+|.", re.DOTALL)


class PlainText:
    """Pieces of text with ids of our own. Prompts are text; `local`: the model's tokenizer, which then renders them.

    Without it a prompt is plain lines of role names. `chat`: the server is sent messages and renders them itself, anew
    with each call and what was written as the last of them: no thought that its template opens stays open.
    `stops`: texts at which a model ends its turn that the server may not know for ends.
    """

    exact = True
    size = 2**31

    def __init__(self, name: str, local: LocalTokenizer | None, chat: bool) -> None:
        # Ids are handed out in the order in which pieces turn up: no other vocabulary gives the same ones.
        digest = hashlib.blake2b(f"{name}{secrets.token_hex(8)}".encode(), digest_size=16)
        self.fingerprint = f"text-{digest.hexdigest()}"
        self.end_ids: frozenset[int] = frozenset()
        self.marks: TextMarks | None = None
        self._name = name
        self._local = local
        self._chat = chat
        if not chat and local is None:
            _log.warning(_UNFORMATTED, name)
        self._spelling = None if chat or local is None or local.marks is None else local.marks.spelling
        self.stops = list(self._spelling.ends[:1]) if self._spelling else list[str]()
        self._template = None if local else ChatTemplate(PLAIN, (), {}, name)
        self._pieces = [b""]
        self._ids = {b"": 0}

    def tokenize(self, text: str) -> list[int]:
        """Ids of an estimate of a text's tokens."""
        return [self.id_of(piece) for piece in _PIECE.findall(text)]

    def id_of(self, piece: str) -> int:
        """The id of a piece of text."""
        data = piece.encode(errors="replace")
        if data not in self._ids:
            self._ids[data] = len(self._pieces)
            self._pieces.append(data)
        return self._ids[data]

    def piece(self, token: int) -> bytes:
        """The bytes of a piece."""
        return self._pieces[token]

    def text(self, ids: list[int]) -> str:
        """The text of pieces, as the server reads it."""
        text = b"".join(self._pieces[token] for token in ids).decode(errors="replace")
        return text if self._spelling is None else self._spelling.spelled(text)

    async def learn(self, text: str) -> list[int]:
        """As `tokenize`."""
        return self.tokenize(text)

    async def encode(self, question: Question) -> Prompt:
        """As many empty ids as the prompt has tokens; the prompt itself is sent as text."""
        if self._local is not None:
            ids, thinking = await self._local.encode(question)
            count = len(ids)
        else:
            text = await self.render(question)
            count, thinking = max(1, sum(1 for _ in _PIECE.finditer(text))), opens_thought(text, question)
        return Prompt([0] * count, opens_thought("", question) if self._chat else thinking)

    async def render(self, question: Question) -> str:
        """The prompt as text."""
        return await asyncio.to_thread(self._render, question)

    def _render(self, question: Question) -> str:
        if self._local is not None:
            return self._local.render(question)
        assert self._template is not None
        if question.tools:
            raise InvalidQuestion(f"how tools are shown to {self._name!r} is not known here", _TOOLS, "tools")
        return "".join(piece.text for piece in self._template.pieces(question))

    def close(self) -> None:
        """Frees the local tokenizer."""
        if self._local is not None:
            self._local.close()
