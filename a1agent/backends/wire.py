"""What passes between the remote engine and the module that knows what a kind of server calls things."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from a1agent.backends.base import Sampling
from a1agent.backends.http import Line
from a1agent.backends.retries import BadReply

__all__ = [
    "UNKNOWN",
    "Chunk",
    "Read",
    "Scored",
    "Text",
    "TokenIds",
    "Tokens",
    "Wire",
    "parsed",
    "schema_format",
    "tokenized",
]

Reply = TypeVar("Reply", bound=BaseModel)

UNKNOWN = math.nan
"""The log-probability of a token whose server does not tell it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A chain's text as a call sends it: the ids, of which `prompt` are the prompt's, and the question it came from."""

    ids: list[int]
    prompt: int
    source: object = None


@dataclass(frozen=True, slots=True)
class Read:
    """What a server read for a call: tokens of the prompt it got, and how many of them its cache held, if it tells.

    `exact`: they are the ids that were sent; where texts are sent, the server's tokens are not ours.
    """

    tokens: int
    cached: int | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a stream: ids and their log-probabilities, and the text that came with them.

    `finish`: the model ended its turn (the end token is not among the ids; `end` is its log-probability), or no more
    was allowed. Text may lag behind the ids while a character is not whole.
    """

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    text: str = ""
    finish: Literal["end", "length"] | None = None
    end: float | None = None
    read: Read | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of the ids of a text from a position on."""

    logprobs: list[float]
    read: Read


class Wire(Protocol):
    """A kind of server."""

    @property
    def can_score(self) -> bool:
        """Whether it scores a given text."""
        ...

    @property
    def can_constrain(self) -> bool:
        """Whether it can be held to a JSON schema."""
        ...

    def raw(self, sampling: Sampling) -> bool:
        """Whether the log-probabilities that `write` yields are those of the unmodified distribution, or unknown."""
        ...

    async def warm(self, line: Line, text: Text) -> Read | None:
        """Lets the server read a prompt into its cache, where that is worth a request."""
        ...

    def write(self, line: Line, text: Text, limit: int, sampling: Sampling, interval: int) -> AsyncGenerator[Chunk]:
        """Streams up to `limit` tokens after a text, about `interval` a chunk where the server can be asked for that.

        The last chunk has `finish`.
        """
        ...

    async def score(self, line: Line, ids: list[int], start: int) -> Scored:
        """Log-probabilities of `ids[start:]`, each after all before it."""
        ...


class Tokens:
    """Tokens with their bytes, from chunks of ids and text. `piece`: the bytes of an id, where that is known here.

    `marks`: the bytes of ids for which servers may send no text, or another. For the others text is dealt out to the
    ids it came with: the last gets it, but for the first bytes of a character that those before it began.
    """

    def __init__(self, piece: Callable[[int], bytes] | None, marks: Mapping[int, bytes]) -> None:
        self._piece = piece
        self._marks = marks
        self._held: list[tuple[int, float]] = []

    def of(self, chunk: Chunk) -> Iterator[tuple[int, bytes, float]]:
        """(id, bytes, log-probability) of each token whose text is known by now."""
        pairs = zip(chunk.ids, chunk.logprobs, strict=True)
        if self._piece is not None:
            yield from ((token, self._piece(token), logprob) for token, logprob in pairs)
            return
        text = chunk.text
        for i, (token, logprob) in enumerate(pairs):
            if token not in self._marks:
                self._held.append((token, logprob))
                continue
            before, text = self._around(token, text, last=i + 1 == len(chunk.ids))
            if self._held:
                yield from self._deal(before, cut=False)
                self._held.clear()
            yield token, self._marks[token], logprob
        if self._held and (text or chunk.finish):
            yield from self._deal(text, chunk.finish == "length")
            self._held.clear()

    def _around(self, token: int, text: str, last: bool) -> tuple[str, str]:
        """What of a chunk's text stands before a mark and after it.

        Where the server leaves the mark out, text with tokens on both sides is taken for that of the later ones.
        """
        before, shown, after = text.partition(self._marks[token].decode())
        if shown:
            return before, after
        return (text, "") if last and self._held else ("", text)

    def _deal(self, text: str, cut: bool) -> Iterator[tuple[int, bytes, float]]:
        data = text.encode(errors="replace")
        if cut and text.endswith("\ufffd"):  # the server flushed a character that is not whole
            data = text.rstrip("\ufffd").encode() + b"\xf0"
        begun = min(len(self._held) - 1, len(text[:1].encode(errors="replace")) - 1)
        for i, (token, logprob) in enumerate(self._held[:-1]):
            yield token, data[i : i + 1] if i < begun else b"", logprob
        token, logprob = self._held[-1]
        yield token, data[max(0, begun) :], logprob


def schema_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema as servers with OpenAI's API take it, the value of `response_format`."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}


class TokenIds(BaseModel):
    """What `/tokenize` replies: vLLM's, SGLang's, and llama-server's without the length."""

    tokens: list[int]
    max_model_len: int | None = None


async def tokenized(line: Line, body: Mapping[str, Any]) -> TokenIds:
    """What the server's `/tokenize` makes of a body."""
    return parsed(TokenIds, await line.post("/tokenize", body), line)


def parsed(kind: type[Reply], reply: Any, line: Line) -> Reply:
    """A reply as what it must be. Raises `BadReply` where something is missing or of another type."""
    try:
        return kind.model_validate(reply)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the reply"
        raise BadReply(f"{line.url} replied with a wrong {where}: {first['msg']}", "see the server's log") from None
