"""Models served by vLLM: `vllm:http://HOST:8000#MODEL`, as draft or target.

    VLLM_USE_V2_MODEL_RUNNER=1 vllm serve MODEL --port 8000 --enable-scale-out --enable-prompt-tokens-details

Texts are sent as token ids to `/v1/completions`. The prompt comes from the server's chat template through `/tokenize`,
or from a local tokenizer (`tokenizer=`). Steps are scored in one of two ways, tried at start-up:

* `/inference/v1/generate` with `prompt_logprob_token_ids` reads the prefix cache and runs the step only. It came with
  0.31, is there with the newer model runner, which the variable asks for, and is answered with `--enable-scale-out`;
* `prompt_logprobs` of `/v1/completions` does not: each score reads the whole chain again. The statistics count this
  (`reread_tokens`).

What else the cache held is known only from a server that was started with `--enable-prompt-tokens-details`. One that
was started with `--data-parallel-size N` shares requests out by its queues, to engines with a cache each: a chain finds
its text there by chance. With `?data_parallel=N` it stays with one engine, named in a header of its requests.

Under a schema the server may let a model write blanks between the parts of an object for as long as it likes;
`--structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'` forbids that.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from pydantic import BaseModel

from a1agent.backends.base import Sampling
from a1agent.backends.http import Http, Line, NotOffered
from a1agent.backends.remote import RemoteBackend
from a1agent.backends.retries import BadReply
from a1agent.backends.server_check import (
    TOKENIZER_HINT,
    Served,
    alike,
    assemble,
    connect,
    find_model,
    given_tokenizer,
    tells_raw,
    why_it_cannot_score,
    with_context,
)
from a1agent.backends.server_options import OPTIONS, ServerAddress, ServerOptions
from a1agent.backends.server_tokenizer import PROBE, ServerTokenizer
from a1agent.backends.vocabulary import ChatTokenizer
from a1agent.backends.wire import Chunk, Read, Scored, Text, parsed, schema_format, tokenized
from a1agent.errors import A1Error, InvalidOption

__all__ = ["OPTIONS", "VllmWire", "check_path", "load"]

check_path = ServerAddress.of

_TOKEN_ID = re.compile(r"token_id:(\d+)")
_NUMBERS = re.compile(r"v?(\d+)\.(\d+)")
_NAMELESS = (0, 12)
"""The first version without `guided_json`; before 0.10 completions took a schema by that name only."""
_BY_INTERVAL = (0, 27)
"""The first version with `stream_interval` in a request."""
_CLAMP = -9999.0
_NEUTRAL = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "skip_special_tokens": True,
}
"""What the model's generation_config.json may set where a request leaves it out."""
_COMPLETIONS = "/v1/completions"
_TOKENS = "/inference/v1/generate"
_FINISHES: dict[str, Literal["end", "length"]] = {"stop": "end", "length": "length", "repetition": "length"}


class _Version(BaseModel):
    version: str


class _Cached(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens_details: _Cached | None = None


class _Told(BaseModel):
    tokens: list[str] = []
    token_logprobs: list[float] = []


class _Logprob(BaseModel):
    logprob: float


class _Choice(BaseModel):
    text: str = ""
    token_ids: list[int] | None = None
    logprobs: _Told | None = None
    finish_reason: str | None = None
    prompt_logprobs: list[dict[int, _Logprob] | None] | None = None
    prompt_token_id_logprobs: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    prompt_token_id_logprobs: str | None = None

    @property
    def cached(self) -> int | None:
        """Prompt tokens found in the cache, where the server tells (`--enable-prompt-tokens-details`)."""
        details = self.usage.prompt_tokens_details if self.usage else None
        return details.cached_tokens if details else None


class VllmWire:
    """What vLLM calls things. `scores_steps`: it has the endpoint that scores without reading the chain again.

    `guides_by_name`: it knows a schema by its own name for it too, and in completions perhaps by that only.
    `sends_by_interval`: it can be asked to send several tokens at a time.
    """

    can_constrain = True

    def __init__(self, model: str) -> None:
        self.model = model
        self.can_score = True
        self.scores_steps = False
        self.guides_by_name = False
        self.sends_by_interval = False
        self.tells_raw = True
        self._tells_cached: set[str] = set()

    def raw(self, sampling: Sampling) -> bool:
        """As the server was started (`--logprobs-mode`); never where a schema forbids tokens."""
        return self.tells_raw and sampling.schema is None

    async def ids(self, line: Line, text: str) -> list[int]:
        """Ids of a text."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        return (await tokenized(line, body)).tokens

    async def ids_as_read(self, line: Line, text: str) -> list[int]:
        """Ids of a text, all but the first, where a router does not pass `/tokenize` on: those of a prompt's tokens."""
        try:
            return await self.ids(line, text)
        except NotOffered:
            body = {"model": self.model, "prompt": text, "max_tokens": 1, "prompt_logprobs": 0}
            reply = parsed(_Completion, await line.post(_COMPLETIONS, body), line)
        table = reply.choices[0].prompt_logprobs if reply.choices else None
        return [token for entry in table or [] for token in entry or {}]

    async def prompt(self, line: Line, body: dict[str, Any]) -> list[int]:
        """Ids of a conversation."""
        body = {"model": self.model, "add_special_tokens": False, **body}
        return (await tokenized(line, body)).tokens

    async def warm(self, line: Line, text: Text) -> Read:
        """Reads the prompt into the prefix cache."""
        reply = await line.post(_COMPLETIONS, self._body(text.ids, 1, temperature=0.0))
        return self._read(_COMPLETIONS, parsed(_Completion, reply, line), text.ids)

    async def write(
        self, line: Line, text: Text, limit: int, sampling: Sampling, interval: int
    ) -> AsyncGenerator[Chunk]:
        """Streams a completion."""
        body = self._body(
            text.ids,
            limit,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            min_p=sampling.min_p,
            **_NEUTRAL,
            seed=sampling.seed & 0x7FFFFFFF,
            stream=True,
            stream_options={"include_usage": True},
            logprobs=1,
            return_token_ids=True,
            return_tokens_as_token_ids=True,
        )
        if sampling.schema is not None:
            body["response_format"] = schema_format(sampling.schema)
            if self.guides_by_name:
                body["guided_json"] = dict(sampling.schema)
        if self.sends_by_interval and interval > 1:
            body["stream_interval"] = interval
        async with aclosing(line.events(_COMPLETIONS, body)) as events:
            async for event in events:
                reply = parsed(_Completion, event, line)
                for choice in reply.choices:
                    yield _chunk(line, choice)
                if reply.usage is not None:
                    yield Chunk(read=self._read(_COMPLETIONS, reply, text.ids))

    async def score(self, line: Line, ids: list[int], start: int) -> Scored:
        """Log-probabilities of `ids[start:]`."""
        if self.scores_steps:
            return await self.score_step(line, ids, start)
        return await self.score_chain(line, ids, start)

    async def score_chain(self, line: Line, ids: list[int], start: int) -> Scored:
        """By the log-probabilities of the whole prompt."""
        body = self._body(ids, 1, temperature=0.0, prompt_logprobs=0)
        reply = parsed(_Completion, await line.post(_COMPLETIONS, body), line)
        table = reply.choices[0].prompt_logprobs if reply.choices else None
        try:
            found = [_unclamped(((table or [])[i] or {})[ids[i]].logprob) for i in range(start, len(ids))]
        except (KeyError, IndexError):
            raise BadReply(f"{line.url} returned no log-probabilities of the prompt", "see the server's log") from None
        return Scored(found, Read(len(ids), 0))

    async def score_step(self, line: Line, ids: list[int], start: int) -> Scored:
        """By those of the step alone, the chain being read from the cache."""
        for skip in (False, True):  # with the step itself in the cache, nothing is computed and nothing returned
            params = {
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprob_token_ids": [[token] for token in ids[start:]],
                "prompt_logprob_start": start - 1,
                "skip_reading_prefix_cache": skip,
            }
            body = {"model": self.model, "token_ids": ids, "sampling_params": params}
            reply = parsed(_Completion, await line.post(_TOKENS, body), line)
            inner = reply.choices[0].prompt_token_id_logprobs if reply.choices else None
            data = reply.prompt_token_id_logprobs or inner
            if data is not None:
                return Scored(_rows(line, data), Read(len(ids), 0) if skip else self._read(_TOKENS, reply, ids))
        raise BadReply(f"{line.url} returned no log-probabilities of the step", "see the server's log")

    def _read(self, path: str, reply: _Completion, ids: list[int]) -> Read:
        """What a reply says was read. Some versions leave the number out when it is 0, and only then."""
        if reply.cached is not None:
            self._tells_cached.add(path)
        return Read(len(ids), reply.cached or (0 if path in self._tells_cached else None))

    def _body(self, ids: list[int], limit: int, **more: Any) -> dict[str, Any]:
        return {"model": self.model, "prompt": ids, "max_tokens": limit, "add_special_tokens": False, **more}


def _chunk(line: Line, choice: _Choice) -> Chunk:
    told = choice.logprobs or _Told()
    ids, logprobs, end = choice.token_ids, told.token_logprobs, None
    if ids is None:  # older servers spell ids in the place of tokens
        ids = [int(match[1]) for token in told.tokens if (match := _TOKEN_ID.fullmatch(token))]
    if len(ids) != len(logprobs):
        raise BadReply(f"{line.url} streamed {len(ids)} tokens with {len(logprobs)} log-probabilities")
    finish = choice.finish_reason
    if finish is not None and finish not in _FINISHES:  # "abort": it is being stopped, or its weights are replaced
        raise BadReply(f"{line.url} gave the request up ({finish})", "see the server's log")
    if finish == "stop" and ids:  # we ask for no stop strings: the last token ended the turn
        ids, logprobs, end = ids[:-1], logprobs[:-1], logprobs[-1]
    return Chunk(
        ids=tuple(ids),
        logprobs=tuple(logprobs),
        text=choice.text,
        finish=None if finish is None else _FINISHES[finish],
        end=end,
    )


def _unclamped(logprob: float) -> float:
    """JSON has no infinity: vLLM puts a number in its place."""
    return logprob if logprob > _CLAMP else -math.inf


def _rows(line: Line, data: str) -> list[float]:
    """The first column of an array of float32, base64 of NumPy's file format."""
    import numpy as np

    try:
        rows = np.load(io.BytesIO(base64.b64decode(data, validate=True)), allow_pickle=False)
        return [float(value) for value in rows.reshape(len(rows), -1)[:, 0]]
    except (binascii.Error, ValueError, EOFError, IndexError, TypeError):
        raise BadReply(f"{line.url} sent damaged log-probabilities", "see the server's log") from None


async def _has_step_scoring(http: Http, wire: VllmWire, ids: list[int]) -> bool:
    """Whether every replica has the newer endpoint and it tells what the older one does."""

    async def attempt(line: Line) -> bool:
        new, old = await wire.score_step(line, ids, 2), await wire.score_chain(line, ids, 2)
        return alike(new.logprobs, old.logprobs)

    try:
        return all(await http.each(attempt))
    except A1Error:
        return False


async def _versions(http: Http) -> list[tuple[int, int] | None]:
    """Of the replicas, None of one that does not say; none at all where they are not told. They complain of fields that
    they do not know.
    """

    async def version(line: Line) -> _Version:
        return parsed(_Version, await line.get("/version"), line)

    try:
        numbers = [_NUMBERS.match(told.version) for told in await http.each(version)]
    except A1Error:
        return []
    return [(int(found[1]), int(found[2])) if found else None for found in numbers]


async def _served(http: Http, model: str) -> Served:
    """The model as it is listed, with the length of its texts: routers leave that out, its tokenizer tells it too."""
    served = await find_model(http, model)
    if served.context_length:
        return served
    told = await http.call(lambda line: tokenized(line, {"model": served.name, "prompt": "a"}))
    return with_context(http, served, told.max_model_len)


async def _served_tokenizer(http: Http, wire: VllmWire) -> ServerTokenizer:
    tokenizer = ServerTokenizer(http, wire.model, wire.ids, wire.prompt)
    try:
        await tokenizer.start()
    except NotOffered as error:
        raise InvalidOption(f"{http} does not tokenize, as some routers do not", TOKENIZER_HINT) from error
    return tokenizer


async def _start(http: Http, model: str) -> RemoteBackend:
    served = await _served(http, model)
    wire = VllmWire(served.name)
    versions = await _versions(http)
    wire.guides_by_name = any(version < _NAMELESS for version in versions if version)
    wire.sends_by_interval = bool(versions) and all(version and version >= _BY_INTERVAL for version in versions)
    tokenizer: ChatTokenizer = await given_tokenizer(http, wire.ids_as_read) or await _served_tokenizer(http, wire)
    probe = await tokenizer.learn(PROBE)
    reason = await why_it_cannot_score(http, wire, probe)
    wire.can_score = not reason
    if wire.can_score:
        wire.scores_steps = await _has_step_scoring(http, wire, probe)
        wire.tells_raw = await tells_raw(http, wire, probe)
    return await assemble(http, wire, tokenizer, "vllm", served, reason, reuses_prefix=wire.scores_steps)


def load(path: str, **options: Any) -> RemoteBackend:
    """The backend of `vllm:URL#MODEL`; asks the server what it can do. `OPTIONS` lists the options.

    Raises `InvalidOption`, `ModelNotFound`, `ModelLoadError`, `BackendError`.
    """
    return connect(path, ServerOptions.of(options), _start)
