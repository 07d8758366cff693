"""The start-up check of models on servers: is the model there, how long may texts be, do the tokenizers agree."""

from __future__ import annotations

import asyncio
import hashlib
import math
import statistics
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, cast

from a1agent.backends.base import ModelInfo, Sampling
from a1agent.backends.http import Http, Line
from a1agent.backends.local_tokenizer import LocalTokenizer, load_tokenizer
from a1agent.backends.remote import RemoteBackend, RemoteEngine
from a1agent.backends.server_options import ServerAddress, ServerOptions
from a1agent.backends.server_tokenizer import PROBE, AskIds
from a1agent.backends.vocabulary import ChatTokenizer
from a1agent.backends.wire import Text, Wire
from a1agent.errors import A1Error, InvalidOption, ModelLoadError, ModelNotFound, nearest
from a1agent.types import Message, Question

__all__ = [
    "TOKENIZER_HINT",
    "Served",
    "alike",
    "assemble",
    "checked_tokenizer",
    "connect",
    "find_model",
    "given_tokenizer",
    "tells_raw",
    "why_it_cannot_score",
    "with_context",
]

Start = Callable[[Http, str], Coroutine[Any, Any, RemoteBackend]]
TOKENIZER_HINT = "give the model's tokenizer: ?tokenizer=PATH (a folder, a tokenizer.json, a .gguf, or a hub name)"
_ROUNDING = 1e-3
_HALF = 0.2  # nats: twice what half precision makes of one token, read or written, alone or with others
_TELLING = -1.0
_FEWEST = 4


@dataclass(frozen=True, slots=True)
class Served:
    """A model as a server lists it. `context_length` 0: the server does not say."""

    name: str
    context_length: int


def connect(path: str, options: ServerOptions, start: Start) -> RemoteBackend:
    """A backend for `URL[,URL...][#MODEL]`; blocks while the servers are asked. Leaves nothing open when it fails."""
    address = ServerAddress.of(path)
    http = Http(address.urls, options)
    try:
        return http.thread.wait(start(http, address.model))
    except BaseException:
        http.close()
        raise


async def find_model(http: Http, asked: str) -> Served:
    """The model to use, which every replica must have. Raises `ModelNotFound`, `InvalidOption`."""
    found = [_choose(line_url, models, asked) for line_url, models in await http.each(_models)]
    context = min(entry.context_length for entry in found)
    limit = http.options.context_length
    if context and limit > context:
        raise InvalidOption(f"context_length={limit}, but {http} allows {context}", f"use at most {context}")
    return Served(found[0].name, limit or context)


async def _models(line: Line) -> tuple[str, list[dict[str, Any]]]:
    reply = await line.get("/v1/models")
    models: Any = cast("dict[str, Any]", reply).get("data") if isinstance(reply, dict) else None
    if not isinstance(models, list):
        raise ModelLoadError(f"{line.url} lists no models", "is this the address of a model server?")
    return line.url, [cast("dict[str, Any]", m) for m in cast("list[Any]", models) if isinstance(m, dict)]


def _choose(url: str, models: list[dict[str, Any]], asked: str) -> Served:
    names = [str(model.get("id")) for model in models]
    if not asked and len(names) != 1:
        raise ModelNotFound(f"{url} serves {len(names)} models", f"add #MODEL; {nearest('', names)}")
    name = asked or names[0]
    if name not in names:
        raise ModelNotFound(f"{url} does not serve {name!r}", nearest(name, names))
    length = models[names.index(name)].get("max_model_len")
    return Served(name, length if isinstance(length, int) else 0)


def with_context(http: Http, served: Served, told: int | None) -> Served:
    """The model with the length that the server tells elsewhere than in its list. Raises `ModelLoadError`."""
    if not told:
        raise ModelLoadError(f"{http} does not say how long texts may be", "give it: ?context_length=TOKENS")
    return replace(served, context_length=told)


async def given_tokenizer(http: Http, ask_ids: AskIds | None) -> LocalTokenizer | None:
    """The tokenizer that the options name; its ids of a probe text must be the server's. Raises `ModelLoadError`."""
    if not http.options.tokenizer:
        return None
    tokenizer = await asyncio.to_thread(load_tokenizer, http.options.tokenizer)
    tokenizer.set(http.options)
    return tokenizer if ask_ids is None else await checked_tokenizer(http, tokenizer, ask_ids)


async def checked_tokenizer(http: Http, tokenizer: LocalTokenizer, ask_ids: AskIds) -> LocalTokenizer:
    """The tokenizer itself; closed, and `ModelLoadError` raised, when a server cuts a probe text into other ids."""
    try:
        ours = await tokenizer.learn(PROBE)
        for theirs in await http.each(lambda line: ask_ids(line, PROBE)):
            # A vocabulary that puts a space before a text does so on the server and not here: the first ids may differ.
            if theirs[-len(ours) // 2 :] != ours[-len(ours) // 2 :]:
                raise ModelLoadError(
                    f"the tokenizer {tokenizer.name} is not that of the model at {http}: they differ on a probe text",
                    "name the tokenizer of this model, or drop tokenizer= where the server can tokenize",
                )
    except BaseException:
        tokenizer.close()
        raise
    return tokenizer


async def why_it_cannot_score(http: Http, wire: Wire, ids: list[int]) -> str:
    """Scores a probe; the reason when that fails, else nothing."""
    try:
        scored = await http.call(lambda line: wire.score(line, ids, 1))
    except A1Error as error:
        return str(error)
    if len(scored.logprobs) != len(ids) - 1:
        return "it returned scores of the wrong length"
    if not all(map(math.isfinite, scored.logprobs)):
        return "it told no log-probability of some tokens of a plain text"
    if any(value > _ROUNDING for value in scored.logprobs):
        return "its scores are no log-probabilities; vLLM gives others when started with --logprobs-mode"
    return ""


def alike(told: list[float], others: list[float]) -> bool:
    """Whether two lists of log-probabilities are the same, but for how half precision rounds on different ways."""
    if len(told) != len(others) or not told:
        return False
    return statistics.median(abs(a - b) for a, b in zip(told, others, strict=True)) < _HALF


async def tells_raw(http: Http, wire: Wire, ids: list[int]) -> bool:
    """Whether log-probabilities of sampled tokens are those before temperature: compares some with their scores.

    Those of tokens that are nearly certain are alike in any case, and tell nothing.
    """
    sampling = Sampling(temperature=2.0, seed=1)
    text = Text(ids, len(ids))

    async def attempt(line: Line) -> tuple[list[float], list[float]]:
        chunks = [chunk async for chunk in wire.write(line, text, 16, sampling, 1)]
        written = [token for chunk in chunks for token in chunk.ids]
        told = [logprob for chunk in chunks for logprob in chunk.logprobs]
        return told, (await wire.score(line, ids + written, len(ids))).logprobs if written else []

    told, scored = await http.call(attempt)
    telling = [(a, b) for a, b in zip(told, scored, strict=True) if b < _TELLING]
    return len(telling) >= _FEWEST and alike([a for a, _ in telling], [b for _, b in telling])


async def assemble(
    http: Http, wire: Wire, tokenizer: ChatTokenizer, scheme: str, served: Served, reason: str, reuses_prefix: bool
) -> RemoteBackend:
    """The backend of what was found. `reason`: why it cannot score, if it cannot."""
    turn_end = await _turn_end(tokenizer) if wire.can_score else None
    where = f"{scheme}:{served.name}"
    info = ModelInfo(
        name=where,
        fingerprint=http.options.keyed(hashlib.blake2b(where.encode(), digest_size=16).hexdigest()),
        tokenizer_fingerprint=tokenizer.fingerprint,
        context_length=served.context_length,
        can_score=wire.can_score,
        reuses_prefix=reuses_prefix,
        at_once=http.options.max_connections * len(http.replicas.all),
        can_constrain=wire.can_constrain,
        can_spell=tokenizer.exact,
        channels=tokenizer.marks is not None and tokenizer.marks.channels,
        processor=str(http),
        no_score_reason=reason,
    )
    return RemoteBackend(RemoteEngine(http, wire, tokenizer, turn_end), info)


async def _turn_end(tokenizer: ChatTokenizer) -> int | None:
    """The id that the chat template puts after what the assistant said; None when it changes what was said."""
    asked, said = Message(role="user", content="1 + 1"), Message(role="assistant", content="2")
    try:
        begun = (await tokenizer.encode(Question(messages=(asked, said)))).ids
        ended = (await tokenizer.encode(Question(messages=(asked, said, asked)))).ids
    except A1Error:
        return None
    return ended[len(begun)] if ended[: len(begun)] == begun and len(ended) > len(begun) else None
