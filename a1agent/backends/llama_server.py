"""llama.cpp's own server, which offers more than OpenAI's API: texts as token ids, its tokenizer, its chat template."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel

from a1agent.backends.base import Sampling
from a1agent.backends.http import Line
from a1agent.backends.llama_grammar import grammar_of
from a1agent.backends.wire import UNKNOWN, Chunk, Read, Scored, Text, parsed, tokenized
from a1agent.errors import CannotScore

__all__ = ["LlamaServerWire", "Props"]


class _Settings(BaseModel):
    n_ctx: int


class Props(BaseModel):
    """What `/props` replies, as far as it matters; `n_ctx` is that of one slot."""

    default_generation_settings: _Settings


class _Prompt(BaseModel):
    prompt: str


class _Logprob(BaseModel):
    logprob: float


class _Timings(BaseModel):
    cache_n: int | None = None


class _Event(BaseModel):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = "none"
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    completion_probabilities: list[_Logprob] = []
    timings: _Timings | None = None


class LlamaServerWire:
    """What llama-server calls things. It scores nothing: it tells no log-probabilities of a prompt."""

    can_score = False
    can_constrain = True

    def raw(self, sampling: Sampling) -> bool:
        """Its log-probabilities are those before all samplers."""
        return True

    async def ids(self, line: Line, text: str) -> list[int]:
        """Ids of a text; control tokens in it are plain text."""
        return await self._tokenize(line, text, add_special=False, parse_special=False)

    async def control_ids(self, line: Line, text: str) -> list[int]:
        """Ids of a text in which control tokens count."""
        return await self._tokenize(line, text, add_special=False, parse_special=True)

    async def prompt(self, line: Line, body: dict[str, Any]) -> list[int]:
        """Ids of a conversation; one that ends with the assistant stays open by itself."""
        asked = {key: value for key, value in body.items() if key in ("messages", "tools", "chat_template_kwargs")}
        text = parsed(_Prompt, await line.post("/apply-template", asked), line).prompt
        return await self._tokenize(line, text, add_special=True, parse_special=True)

    async def _tokenize(self, line: Line, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return (await tokenized(line, body)).tokens

    async def warm(self, line: Line, text: Text) -> Read | None:
        """Its slots are few, and a chain may land in any: nothing to gain."""
        return None

    async def write(
        self, line: Line, text: Text, limit: int, sampling: Sampling, interval: int
    ) -> AsyncGenerator[Chunk]:
        """Streams a completion. The token that ended the turn comes like any other, before the last event."""
        body: dict[str, Any] = {
            "prompt": text.ids,
            "n_predict": limit,
            "stream": True,
            "cache_prompt": True,
            "return_tokens": True,
            "n_probs": 1,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "seed": sampling.seed & 0x7FFFFFFF,
            "samplers": ["top_k", "top_p", "min_p", "temperature"],
        }
        if sampling.schema is not None:
            body |= await asyncio.to_thread(_held_to, sampling.schema)  # the first one loads a library
        held, seen = Chunk(), 0
        async with aclosing(line.events("/completion", body)) as events:
            async for data in events:
                event = parsed(_Event, data, line)
                if event.stop:
                    yield _last(held, event)
                    continue
                yield held
                held = await self._chunk(line, event, event.tokens_predicted - seen)
                seen = event.tokens_predicted

    async def _chunk(self, line: Line, event: _Event, count: int) -> Chunk:
        """Of the tokens that make up one character it streams the last only: such text is tokenized anew.

        What stands before them then is the space that some vocabularies put before a text.
        """
        ids, told = event.tokens, [entry.logprob for entry in event.completion_probabilities]
        if len(ids) != count:
            ids, told = await self.ids(line, event.content), []
            ids = ids[max(0, len(ids) - count) :]
        logprobs = told if len(told) == len(ids) else [UNKNOWN] * len(ids)
        return Chunk(ids=tuple(ids), logprobs=tuple(logprobs), text=event.content)

    async def score(self, line: Line, ids: list[int], start: int) -> Scored:
        """Raises `CannotScore`."""
        raise CannotScore("llama-server tells no log-probabilities of a given text", "use it as draft")


def _held_to(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What holds the server to a schema: a grammar made here where that can be done, else whatever it makes of it.

    Servers built with llguidance make one that allows white space without end, and of some vocabularies none at all.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return {"json_schema": dict(schema)}
    grammar = grammar_of(schema)
    return {} if grammar is None else {"grammar": grammar.decode()}


def _last(held: Chunk, event: _Event) -> Chunk:
    read = Read(event.tokens_evaluated, event.timings.cache_n if event.timings else None)
    if event.stop_type == "eos":
        told = held.logprobs[-1] if held.logprobs else UNKNOWN
        end = None if told != told else told
        return Chunk(ids=held.ids[:-1], logprobs=held.logprobs[:-1], text=held.text, finish="end", end=end, read=read)
    return Chunk(ids=held.ids, logprobs=held.logprobs, text=held.text + event.content, finish="length", read=read)
