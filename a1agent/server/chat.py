"""`POST /v1/chat/completions`: whole answers, and streams that show the chains as they think."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from a1agent.events import Event, VoteClosed
from a1agent.jsonlines import event_fields
from a1agent.narrator import Narrator
from a1agent.server.answers import Tokens, finish_reason, outcome_of
from a1agent.server.chat_request import ChatRequest, asked_of
from a1agent.server.document import Completion, answer
from a1agent.server.errors import ApiError
from a1agent.server.formats import content_of, tool_calls_of
from a1agent.server.jobs import Job
from a1agent.server.service import Service, unless_gone
from a1agent.server.streaming import event_stream
from a1agent.types import Result

__all__ = ["router"]


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()
    told = answer(Completion, "the completion, or with `stream` its chunks as server-sent events")

    @routes.post("/v1/chat/completions", response_model=None, responses=told, summary="Create a chat completion")
    async def create(body: ChatRequest, request: Request) -> Response:
        service.check_model(body.model)
        asked = asked_of(body, service.agent.options, service.settings, request.state.key)
        job = await service.start(request, asked)
        request.state.user = body.user or body.safety_identifier
        head = _head(service, "chat.completion.chunk" if body.stream else "chat.completion")
        if body.stream:
            return await event_stream(service, request, job, _chunks(job, body, head))
        results = await unless_gone(request, job.finish())
        return JSONResponse(_completion(job, results, head))

    return routes


def _head(service: Service, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": service.settings.name,
        "system_fingerprint": service.fingerprint,
    }


def _completion(job: Job, results: list[Result], head: dict[str, Any]) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "refusal": None, **_message(job, result)},
            "finish_reason": finish_reason(result),
            "logprobs": None,
            "a1": outcome_of(result),
        }
        for index, result in enumerate(results)
    ]
    return {**head, "choices": choices, "usage": _usage(job), "a1": job.stats.model_dump(mode="json")}


def _message(job: Job, result: Result) -> dict[str, Any]:
    content, reasoning = content_of(result, job.asked.question)
    calls = _tool_calls(job, result)
    message: dict[str, Any] = {"content": None if calls and not content else content}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    return message | ({"tool_calls": calls} if calls else {})


def _tool_calls(job: Job, result: Result) -> list[dict[str, Any]]:
    return [
        {"id": name, "type": "function", "function": {"name": tool, "arguments": arguments}}
        for name, tool, arguments in tool_calls_of(result, job.asked.question)
    ]


def _usage(job: Job) -> dict[str, Any]:
    tokens = Tokens.of(job.usage, job.results)
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "a1": tokens.by_model,
    }


@dataclass(slots=True)
class _Chunks:
    """Makes the chunks of one stream."""

    job: Job
    head: dict[str, Any]
    body: ChatRequest
    narrators: dict[int, Narrator] = field(default_factory=dict[int, Narrator])

    def of(self, index: int, event: Event) -> list[dict[str, Any]]:
        """The chunks that an event of one answer gives; the last of its answer is the one with its finish reason."""
        added = self.narrators.setdefault(index, Narrator()).tell(event)
        if isinstance(event, VoteClosed):
            told = [self.delta(index, {"reasoning_content": added})] if added else []
            return told + self._answer(index, event.result)
        nothing: dict[str, Any] = {**self.head, "choices": []}
        chunk = self.delta(index, {"reasoning_content": added}) if added else nothing
        if self.body.events:
            chunk["a1"] = {"choice": index, **event_fields(event)}
        return [chunk] if added or self.body.events else []

    def _answer(self, index: int, result: Result) -> list[dict[str, Any]]:
        content, _ = content_of(result, self.job.asked.question)
        chunks = [self.delta(index, {"content": content})] if content else []
        for place, call in enumerate(_tool_calls(self.job, result)):
            chunks.append(self.delta(index, {"tool_calls": [{"index": place, **call}]}))
        last = self.delta(index, {}, finish_reason(result))
        last["choices"][0]["a1"] = outcome_of(result)
        return [*chunks, last]

    def delta(self, index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self.head, "choices": [choice]}


async def _chunks(job: Job, body: ChatRequest, head: dict[str, Any]) -> AsyncGenerator[dict[str, Any] | str]:
    """All chunks. The statistics ride on the very last one, which has the usage where it was asked for."""
    chunks = _Chunks(job, head, body)
    for index in range(body.n):
        yield chunks.delta(index, {"role": "assistant", "content": ""})
    held: dict[str, Any] | None = None
    async with aclosing(job.events()) as events:
        async for index, event in events:
            for chunk in chunks.of(index, event):
                if held is not None:
                    yield held
                held = chunk if isinstance(event, VoteClosed) else None
                if held is None:
                    yield chunk
    stats = {"a1": job.stats.model_dump(mode="json")}
    if body.include_usage:
        if held is not None:
            yield held
        held = {**head, "choices": [], "usage": _usage(job)}
    if held is None:
        raise ApiError(500, "the call ended without an answer", code="call_failed")
    yield held | stats
    yield "[DONE]"
