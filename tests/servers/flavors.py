"""What servers of our own that speak the wire formats of others have in common, and those with OpenAI's API."""

import asyncio
import json
import math
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from a1agent.backends.base import Sampling
from tests.servers.model import Model, Sampled
from tests.servers.sockets import Handler, Reply, Request, SocketServer


class Flavor:
    """A server of one kind. `key`: what it wants as a bearer token. `defaults`: what a request gets that leaves it out,
    where its model or its operator sets it; `drawn_with`: what each stream came to.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str = "tiny",
        context: int = 1024,
        key: str | None = None,
        ssl: Any = None,
        defaults: dict[str, Any] | None = None,
    ) -> None:
        self.defaults = defaults or {}
        self.drawn_with: list[dict[str, Any]] = []
        self.model = Model(path, context)
        self.name = name
        self.key = key
        self.aborts = 0  # how many of the next streams the server gives up in the middle
        self.impossible: int | None = None  # a token that the model gives no probability at all
        self.noise = 0.0  # nats by which a score differs at random from call to call, as on a GPU in half precision
        self.shift = 0  # tokens by which scores are beside their place
        self._chance = random.Random(7)
        self.intervals: list[int] = []  # tokens that each stream was asked to send at a time
        self.waits_for = 0  # streams that must have been asked for before any token is sent
        self.scored: list[tuple[int, ...]] = []
        self.written: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.socket = SocketServer({path: self._guarded(handler) for path, handler in self.handlers().items()}, ssl)

    @property
    def url(self) -> str:
        return self.socket.url

    def handlers(self) -> dict[str, Handler]:
        return {"/v1/models": self.models, "/health": self.health}

    def close(self) -> None:
        self.socket.run(self.model.backend.aclose())
        self.socket.close()

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Reply:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return Reply({"error": {"message": "invalid key"}}, status=401)
            return await handler(request)

        return guarded

    async def health(self, request: Request) -> Reply:
        return Reply({})

    lists_context = True

    async def models(self, request: Request) -> Reply:
        entry: dict[str, Any] = {"id": self.name, "object": "model", "owned_by": "test"}
        if self.lists_context:
            entry["max_model_len"] = self.model.context
        return Reply({"object": "list", "data": [entry]})

    async def tokenize(self, request: Request) -> Reply:
        body = request.body
        if "messages" in body:
            told = body.get("chat_template_kwargs")
            ids = self.model.prompt(body["messages"], body.get("continue_final_message", False), told)
        else:
            ids = self.model.ids(body["prompt"])
        return Reply({"tokens": ids, "count": len(ids), "max_model_len": self.model.context})

    async def sampled(self, ids: list[int], limit: int, sampling: Sampling) -> AsyncGenerator[Sampled, None]:
        """Tokens as drawn, kept for the tests. A stream that is given up ends after two, with `abort`."""
        written: list[int] = []
        try:
            async with aclosing(self.model.sample(ids, limit, sampling)) as tokens:
                async for token in tokens:
                    written.append(token.token)
                    if len(written) == 2 and self.aborts > 0:
                        self.aborts -= 1
                        yield replace(token, finish="abort")
                        return
                    yield token
        finally:
            self.written.append((tuple(ids), tuple(written)))

    async def chunked(
        self, ids: list[int], limit: int, sampling: Sampling, interval: int
    ) -> AsyncGenerator[list[Sampled], None]:
        """Tokens as they are sent: the first at once, then so many at a time."""
        self.intervals.append(interval)
        first, held = True, list[Sampled]()
        while len(self.intervals) < self.waits_for:  # noqa: ASYNC110  what is counted has no event to wait for
            await asyncio.sleep(0.001)
        async with aclosing(self.sampled(ids, limit, sampling)) as tokens:
            async for token in tokens:
                held.append(token)
                if first or len(held) >= interval or token.finish is not None:
                    yield held
                    first, held = False, []

    async def scores(self, ids: list[int], start: int) -> tuple[list[float], int]:
        self.scored.append(tuple(ids))
        logprobs, cached = await self.model.score(ids, start)
        logprobs = [min(0.0, value + self._chance.uniform(-self.noise, self.noise)) for value in logprobs]
        logprobs = logprobs[self.shift :] + logprobs[: self.shift]
        pairs = zip(logprobs, ids[start:], strict=True)
        return [-math.inf if token == self.impossible else logprob for logprob, token in pairs], cached

    def too_long(self, ids: list[int], limit: int = 1) -> Reply | None:
        if len(ids) + limit <= self.model.context:
            return None
        message = f"This model's maximum context length is {self.model.context} tokens, you sent {len(ids)}"
        return Reply({"error": {"message": message, "code": 400}}, status=400)


def sampling_of(body: dict[str, Any], seed: str) -> Sampling:
    schema = json.loads(body["json_schema"]) if "json_schema" in body else None
    schema = body.get("guided_json", schema)
    if body.get("response_format"):
        schema = body["response_format"]["json_schema"]["schema"]
    return Sampling(
        schema=schema,
        temperature=body.get("temperature", 1.0),
        top_k=max(0, body.get("top_k", 0)),
        top_p=body.get("top_p", 1.0),
        min_p=body.get("min_p", 0.0),
        seed=body.get(seed) or 0,
    )


class OpenAI(Flavor):
    """Text in, text out. `continues`: how it goes on in the middle of a message (final_message, trailing, prefix), or
    only raw completions (None). `strict`: refuses fields it does not know; `done`: ends streams as OpenAI does. `tgi`:
    as Text Generation Inference does it. `studio`: as LM Studio, which answers paths it does not have with status 200.
    `apart`: the field of a chat's delta into which it puts what it took out of the text.
    """

    known = frozenset(
        (
            *("model", "messages", "prompt", "max_tokens", "stream", "stream_options"),
            *("temperature", "top_p", "top_k", "min_p", "seed"),
        )
    )

    def __init__(
        self,
        path: Path,
        *,
        continues: str | None = None,
        strict: bool = False,
        done: bool = True,
        tgi: bool = False,
        studio: bool = False,
        apart: str | None = None,
        **options: Any,
    ) -> None:
        self.continues = continues
        self.tgi = tgi
        self.studio = studio
        self.apart = apart
        self.strict = strict
        self.done = done
        self.prompts: list[str] = []
        super().__init__(path, **options)

    def handlers(self) -> dict[str, Handler]:
        beside: dict[str, Handler] = {}
        if self.continues == "trailing":
            beside["/api/version"] = self.version
        if self.continues == "final_message":
            beside["/version"] = self.version
        if self.tgi:
            beside["/info"] = self.info
        if self.studio:
            beside |= dict.fromkeys(("/props", "/info", "/api/version", "/version", "/model_info"), self.unexpected)
        return {
            **super().handlers(),
            **beside,
            "/v1/completions": self.completions,
            "/v1/chat/completions": self.chat,
        }

    async def models(self, request: Request) -> Reply:
        return Reply({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def info(self, request: Request) -> Reply:
        return Reply({"model_id": self.name, "max_input_tokens": 100, "max_total_tokens": self.model.context})

    async def version(self, request: Request) -> Reply:
        return Reply({"version": "1"})

    async def unexpected(self, request: Request) -> Reply:
        return Reply({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})

    async def completions(self, request: Request) -> Reply:
        return self._reply(request.body, request.body["prompt"], chat=False)

    async def chat(self, request: Request) -> Reply:
        body = request.body
        last = body["messages"][-1]
        flags = (body.get("continue_final_message"), body.get("add_generation_prompt"))
        started = last["role"] == "assistant" and (
            self.continues == "trailing"
            or (self.continues == "final_message" and flags == (True, False))
            or (self.continues == "prefix" and last.pop("prefix", False))
        )
        told = body.get("chat_template_kwargs", {}) | {n: body[n] for n in ("reasoning_effort",) if n in body}
        return self._reply(body, self.model.render(body["messages"], started, told), chat=True)

    def _reply(self, body: dict[str, Any], prompt: str, *, chat: bool) -> Reply:
        unknown = set(body) - self.known
        if self.strict and unknown:
            return Reply({"detail": f"Unexpected keys in the request: {unknown}"}, status=422)
        if self.tgi and not 0 < body.get("top_p", 0.5) < 1:
            said = "Input validation error: `top_p` must be > 0.0 and < 1.0"
            return Reply({"error": said, "error_type": "validation"}, status=422)
        self.prompts.append(prompt)
        ids = self.model.with_bos(self.model.ids(prompt))
        return self.too_long(ids, body["max_tokens"]) or Reply(events=self._events(ids, body, chat), done=self.done)

    async def _events(self, ids: list[int], body: dict[str, Any], chat: bool) -> AsyncGenerator[Any, None]:
        cached = 0
        async with aclosing(self.sampled(ids, body["max_tokens"], sampling_of(body, "seed"))) as tokens:
            async for token in tokens:
                cached = token.cached
                said = {"delta": self._delta(token.text)} if chat else {"text": token.text}
                yield {"object": "chunk", "choices": [{"index": 0, "finish_reason": token.finish, **said}]}
        if body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": len(ids), "prompt_tokens_details": {"cached_tokens": cached}}
            yield {"object": "chunk", "choices": [], "usage": usage}

    def _delta(self, text: str) -> dict[str, Any]:
        if self.apart == "tool_calls":
            return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return {"content": text} if self.apart is None else {"content": "", self.apart: text}
