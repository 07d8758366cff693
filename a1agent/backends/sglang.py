"""Models served by SGLang: `sglang:http://HOST:30000#MODEL`, as draft or target.

    python -m sglang.launch_server --model-path MODEL --port 30000 --incremental-streaming-output

Texts are sent as token ids to `/generate`. A step is scored by asking for the log-probabilities of the input from the
step on (`logprob_start_len`), so that the radix cache serves all before it. The tokenizer is the server's, or a local
one (`tokenizer=`); where neither is to be had, as behind SGLang's router and from older versions, that of the folder or
hub name which the server says it uses.

With `--incremental-streaming-output` (`--stream-output` in older versions) each event of a stream holds what is new;
without it, the whole step so far, which works too and costs bandwidth. A seed makes a call repeatable only where the
server runs with `--enable-deterministic-inference`. Under a schema a model may write blanks for as long as it likes,
unless the server runs with `--constrained-json-disable-any-whitespace`.

Behind SGLang's router use `--policy manual` or `consistent_hashing`, which keep a chain on its replica by a header that
every request carries, and give `?context_length=`, which it does not tell. The policy `cache_aware` compares texts, and
finds none in requests of token ids. Of a server with `--dp-size N` a chain stays with one engine by `?data_parallel=N`,
in versions that read `routed_dp_rank`.

The log-probabilities of sampled tokens are those after temperature, unless the server runs with
`SGLANG_RETURN_ORIGINAL_LOGPROB=1`. This is found out at start-up; where needed, what was written is scored once more.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel, RootModel

from a1agent.backends.base import Sampling
from a1agent.backends.http import Http, Line, NotOffered, Refused
from a1agent.backends.local_tokenizer import LocalTokenizer, load_tokenizer
from a1agent.backends.remote import RemoteBackend
from a1agent.backends.retries import BadReply
from a1agent.backends.server_check import (
    TOKENIZER_HINT,
    Served,
    assemble,
    checked_tokenizer,
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
from a1agent.backends.wire import Chunk, Read, Scored, Text, parsed, tokenized
from a1agent.errors import A1Error, InvalidOption
from a1agent.types import Question

__all__ = ["OPTIONS", "SglangWire", "check_path", "load"]

check_path = ServerAddress.of

_SESSION_HEADER = "X-SMG-Routing-Key"  # what SGLang's router keeps a chain on its replica by
_NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_new_tokens": 0}
"""What `--preferred-sampling-params` may set where a request leaves it out."""
_NOTHING = {**_NEUTRAL, "max_new_tokens": 0, "temperature": 0.0}
_BAD_REQUEST = 400

Row = tuple[float | None, int, Any]
"""Log-probability (null for the first of an input), id, and its text or null."""


class _Rows(RootModel[list[Row]]):
    pass


class _Finish(BaseModel):
    type: str
    message: str = "no reason given"
    status_code: int | None = None


class _Meta(BaseModel):
    finish_reason: _Finish | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    input_token_logprobs: list[Row] | None = None
    output_token_logprobs: list[Any] | None = None  # of all so far: checked where it is new


class _Reply(BaseModel):
    meta_info: _Meta
    text: str = ""


class _ModelInfo(BaseModel):
    tokenizer_path: str | None = None


class _ServerInfo(BaseModel):
    context_length: int | None = None
    max_req_input_len: int | None = None


class SglangWire:
    """What SGLang calls things."""

    can_constrain = True

    def __init__(self, model: str) -> None:
        self.model = model
        self.can_score = True
        self.tells_raw = False

    def raw(self, sampling: Sampling) -> bool:
        """Greedy tokens are drawn at temperature 1 there; a schema forbids tokens."""
        return sampling.schema is None and (self.tells_raw or sampling.temperature in (0.0, 1.0))

    async def ids(self, line: Line, text: str) -> list[int]:
        """Ids of a text."""
        return (await tokenized(line, {"model": self.model, "prompt": text, "add_special_tokens": False})).tokens

    async def prompt(self, line: Line, body: dict[str, Any]) -> list[int]:
        """Ids of a conversation."""
        # Named, the prompt of a turn would be refused where the last message goes on; it follows from the messages.
        asked = {name: value for name, value in body.items() if name != "add_generation_prompt"}
        return (await tokenized(line, {"model": self.model, **asked})).tokens

    async def ids_as_read(self, line: Line, text: str) -> list[int]:
        """Ids of a text, a BOS before them where the model has one: those that its scores name."""
        body = _body(line, {"text": text}, _NOTHING, return_logprob=True, logprob_start_len=0)
        rows = _reply(line, await line.post("/generate", body)).meta_info.input_token_logprobs
        return [row[1] for row in rows or []]

    async def warm(self, line: Line, text: Text) -> Read:
        """Reads the prompt into the radix cache."""
        reply = await line.post("/generate", _body(line, {"input_ids": text.ids}, _NOTHING))
        return Read(len(text.ids), _reply(line, reply).meta_info.cached_tokens)

    async def write(
        self, line: Line, text: Text, limit: int, sampling: Sampling, interval: int
    ) -> AsyncGenerator[Chunk]:
        """Streams a text. Each event repeats all before it, unless the server was told to stream what is new."""
        params: dict[str, Any] = {
            "max_new_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "sampling_seed": sampling.seed & 0x7FFFFFFF,
            **_NEUTRAL,
        }
        if interval > 1:
            params["stream_interval"] = interval
        if sampling.schema is not None:
            params["json_schema"] = json.dumps(dict(sampling.schema))
        body = _body(line, {"input_ids": text.ids}, params, stream=True, return_logprob=True, logprob_start_len=-1)
        seen, said = 0, ""
        async with aclosing(line.events("/generate", body, unsaid=_BAD_REQUEST)) as events:
            async for event in events:
                reply = _reply(line, event)
                meta, whole = reply.meta_info, reply.text
                count = max(seen, meta.completion_tokens)
                told = meta.output_token_logprobs or []
                new = parsed(_Rows, told[len(told) - (count - seen) :] if count > seen else [], line).root
                if len(new) != count - seen:
                    raise BadReply(f"{line.url} streamed {count - seen} tokens with {len(new)} log-probabilities")
                repeats = len(told) == count and whole.startswith(said)
                yield _chunk(line, new, whole[len(said) :] if repeats else whole, meta)
                seen, said = count, whole if repeats else said + whole

    async def score(self, line: Line, ids: list[int], start: int) -> Scored:
        """Log-probabilities of `ids[start:]`; the entry before them has none and is dropped.

        The last id of a vocabulary is told as 0 (the server clips those that stand for pictures).
        """
        body = _body(line, {"input_ids": ids}, _NOTHING, return_logprob=True, logprob_start_len=start - 1)
        meta = _reply(line, await line.post("/generate", body)).meta_info
        rows = (meta.input_token_logprobs or [])[1:]
        if len(rows) != len(ids) - start or any(r[1] not in (t, 0) for r, t in zip(rows, ids[start:], strict=True)):
            raise BadReply(f"{line.url} scored other tokens than it was sent", "see the server's log")
        logprobs = [-math.inf if row[0] is None else row[0] for row in rows]  # JSON has no infinity
        return Scored(logprobs, Read(len(ids), meta.cached_tokens))


def _body(line: Line, given: dict[str, Any], params: dict[str, Any], **more: Any) -> dict[str, Any]:
    engine = {} if line.rank is None else {"routed_dp_rank": line.rank}
    return {**given, "sampling_params": params, "return_text_in_logprobs": False, **engine, **more}


def _reply(line: Line, data: Any) -> _Reply:
    reply = parsed(_Reply, data, line)
    finish = reply.meta_info.finish_reason
    if finish is not None and finish.type == "abort":
        if finish.status_code:
            raise line.failure(finish.status_code, finish.message)
        raise BadReply(f"{line.url} gave the request up: {finish.message}", "see the server's log")
    return reply


def _pairs(line: Line, rows: list[Row]) -> tuple[list[float], list[int]]:
    logprobs = [row[0] for row in rows if row[0] is not None]
    if len(logprobs) != len(rows):
        raise BadReply(f"{line.url} sent a token without its log-probability", "see the server's log")
    return logprobs, [row[1] for row in rows]


def _chunk(line: Line, rows: list[Row], text: str, meta: _Meta) -> Chunk:
    logprobs, ids = _pairs(line, rows)
    finish, end = meta.finish_reason and meta.finish_reason.type, None
    if finish == "stop" and ids:  # we ask for no stop strings: the last token ended the turn
        ids, logprobs, end = ids[:-1], logprobs[:-1], logprobs[-1]
    return Chunk(
        ids=tuple(ids),
        logprobs=tuple(logprobs),
        text=text,
        finish=None if finish is None else "end" if finish == "stop" else "length",
        end=end,
        read=Read(meta.prompt_tokens, meta.cached_tokens),
    )


async def _info(line: Line, what: str) -> Any:
    """What a server says of itself; older versions have it under another name."""
    try:
        return await line.get(f"/{what}_info")
    except NotOffered:
        return await line.get(f"/get_{what}_info")


async def _model_info(line: Line) -> _ModelInfo:
    return parsed(_ModelInfo, await _info(line, "model"), line)


async def _server_info(line: Line) -> _ServerInfo:
    return parsed(_ServerInfo, await _info(line, "server"), line)


async def _tokenizer(http: Http, wire: SglangWire) -> ChatTokenizer:
    """The given tokenizer, the server's, or the one that it names. Raises `InvalidOption` when none is to be had, and
    `NotOffered` at a server of another kind.
    """
    given = await given_tokenizer(http, wire.ids_as_read)
    if given is not None:
        return given
    named = await http.call(_model_info)
    served = ServerTokenizer(http, wire.model, wire.ids, wire.prompt)
    try:
        await served.start()
        await served.encode(Question.of(PROBE))
    except (NotOffered, Refused):  # the latter from versions that tokenize texts only
        return await _named_tokenizer(http, wire, named.tokenizer_path)
    return served


async def _named_tokenizer(http: Http, wire: SglangWire, path: str | None) -> LocalTokenizer:
    if not path:
        raise InvalidOption(f"{http} does not say which tokenizer it uses", TOKENIZER_HINT)
    try:
        tokenizer = await asyncio.to_thread(load_tokenizer, path)
    except A1Error as error:
        what = f"the tokenizer {path!r} of {http} is not to be had here ({error.what})"
        raise InvalidOption(what, TOKENIZER_HINT) from error
    return await checked_tokenizer(http, tokenizer, wire.ids_as_read)


async def _served(http: Http, model: str) -> Served:
    """The model with the length of its texts: what is listed, or less, where the cache or a margin holds less."""
    served = await find_model(http, model)
    try:
        info = await http.call(_server_info)
    except NotOffered:
        info = _ServerInfo()
    refused = info.max_req_input_len or 0  # this many tokens, and more
    lengths = (served.context_length, info.context_length or 0, refused - 1)
    return with_context(http, served, min((length for length in lengths if length > 0), default=0))


async def _start(http: Http, model: str) -> RemoteBackend:
    served = await _served(http, model)
    wire = SglangWire(served.name)
    tokenizer = await _tokenizer(http, wire)
    probe = await tokenizer.learn(PROBE)
    reason = await why_it_cannot_score(http, wire, probe)
    wire.can_score = not reason
    if wire.can_score:
        wire.tells_raw = await tells_raw(http, wire, probe)
    return await assemble(http, wire, tokenizer, "sglang", served, reason, reuses_prefix=True)


def load(path: str, **options: Any) -> RemoteBackend:
    """The backend of `sglang:URL#MODEL`; asks the server what it can do. `OPTIONS` lists the options.

    Raises `InvalidOption`, `ModelNotFound`, `ModelLoadError`, `BackendError`.
    """
    return connect(path, ServerOptions.of({"session_header": _SESSION_HEADER, **options}), _start)
