"""`POST /v1/responses`: whole responses, and streams of events. Nothing is stored: each request is whole by itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from a1agent.events import VoteClosed
from a1agent.narrator import Narrator
from a1agent.server.answers import Tokens, finish_reason, outcome_of
from a1agent.server.document import ResponseObject, answer
from a1agent.server.errors import ApiError
from a1agent.server.formats import content_of, tool_calls_of
from a1agent.server.jobs import Job
from a1agent.server.responses_request import ResponsesRequest, asked_of
from a1agent.server.service import Service, unless_gone
from a1agent.server.streaming import event_stream
from a1agent.types import Result

__all__ = ["router"]

Json = dict[str, Any]


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()
    told = answer(ResponseObject, "the response, or with `stream` its events as server-sent events")

    @routes.post("/v1/responses", response_model=None, responses=told, summary="Create a response")
    async def create(body: ResponsesRequest, request: Request) -> Response:
        service.check_model(body.model)
        asked = asked_of(body, service.agent.options, service.settings, request.state.key)
        job = await service.start(request, asked)
        request.state.user = body.user or body.safety_identifier
        head = _head(service, body)
        if body.stream:
            return await event_stream(service, request, job, _events(job, head))
        (result,) = await unless_gone(request, job.finish())
        return JSONResponse(_finished(job, result, head, _whole(job, result)))

    return routes


def _head(service: Service, body: ResponsesRequest) -> Json:
    """The response before it has begun."""
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": service.settings.name,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "text": body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {"format": {"type": "text"}},
        "tools": [tool.model_dump() for tool in body.tools],
        "tool_choice": body.model_dump()["tool_choice"] or "auto",
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "store": False,
        "truncation": "disabled",
        "metadata": {},
        "usage": None,
        "user": body.user,
    }


def _items(job: Job, result: Result) -> list[Json]:
    """What was said and asked for, without the reasoning."""
    content, _ = content_of(result, job.asked.question)
    calls = tool_calls_of(result, job.asked.question)
    said = [] if calls and not content else [_message(result, content)]
    return said + [_call(name, tool, arguments) for name, tool, arguments in calls]


def _whole(job: Job, result: Result) -> list[Json]:
    _, reasoning = content_of(result, job.asked.question)
    return ([] if reasoning is None else [_reasoning(reasoning, _name("rs"))]) + _items(job, result)


def _name(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _status(result: Result) -> str:
    return "incomplete" if finish_reason(result) == "length" else "completed"


def _message(result: Result, text: str) -> Json:
    own = {"status": _status(result), "content": [_text_part(text)], "a1": outcome_of(result)}
    return {"id": _name("msg"), "type": "message", "role": "assistant", **own}


def _call(call_id: str, tool: str, arguments: str) -> Json:
    own = {"call_id": call_id, "name": tool, "arguments": arguments}
    return {"id": _name("fc"), "type": "function_call", "status": "completed", **own}


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(text: str, name: str) -> Json:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": name, "type": "reasoning", "status": "completed", "summary": [], "content": content}


def _finished(job: Job, result: Result, head: Json, items: list[Json]) -> Json:
    tokens, status = Tokens.of(job.usage, [result]), _status(result)
    return {
        **head,
        "status": status,
        "incomplete_details": None if status == "completed" else {"reason": "max_output_tokens"},
        "output": items,
        "usage": {
            "input_tokens": tokens.input,
            "input_tokens_details": {"cached_tokens": tokens.cached},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": tokens.input + tokens.output,
            "a1": tokens.by_model,
        },
        "a1": job.stats.model_dump(mode="json"),
    }


@dataclass(slots=True)
class _Stream:
    """Numbers the events, and holds the items that are done."""

    number: int = -1
    items: list[Json] = field(default_factory=list[Json])

    def event(self, kind: str, **fields: Any) -> Json:
        """One event of the stream."""
        self.number += 1
        return {"type": f"response.{kind}", "sequence_number": self.number, **fields}

    def begin(self, item: Json, part: Json) -> list[Json]:
        """An item begins, with its one part."""
        at = len(self.items)
        empty: Json = {**item, "status": "in_progress", "content": []}
        return [
            self.event("output_item.added", output_index=at, item=empty),
            self.event("content_part.added", item_id=item["id"], output_index=at, content_index=0, part=part),
        ]

    def delta(self, kind: str, item: str, text: str, **more: Any) -> Json:
        """A part grows."""
        at = len(self.items)
        return self.event(f"{kind}.delta", item_id=item, output_index=at, content_index=0, delta=text, **more)

    def end(self, kind: str, item: Json, **more: Any) -> list[Json]:
        """An item is done."""
        where: Json = {"item_id": item["id"], "output_index": len(self.items), "content_index": 0}
        part = item["content"][0]
        events = [
            self.event(f"{kind}.done", **where, text=part["text"], **more),
            self.event("content_part.done", **where, part=part),
            self.event("output_item.done", output_index=len(self.items), item=item),
        ]
        self.items.append(item)
        return events

    def call(self, item: Json) -> list[Json]:
        """A tool call, at once."""
        at, kind = len(self.items), "function_call_arguments"
        where: Json = {"item_id": item["id"], "output_index": at}
        begun = {**item, "status": "in_progress", "arguments": ""}
        self.items.append(item)
        return [
            self.event("output_item.added", output_index=at, item=begun),
            self.event(f"{kind}.delta", **where, delta=item["arguments"]),
            self.event(f"{kind}.done", **where, name=item["name"], arguments=item["arguments"]),
            self.event("output_item.done", output_index=at, item=item),
        ]


async def _events(job: Job, head: Json) -> AsyncGenerator[Json | str]:
    stream, narrator, written, name = _Stream(), Narrator(), "", _name("rs")
    yield stream.event("created", response=head)
    yield stream.event("in_progress", response=head)
    result: Result | None = None
    async with aclosing(job.events()) as events:
        async for _, event in events:
            if isinstance(event, VoteClosed):
                result = event.result
            if added := narrator.tell(event):
                if not written:
                    for each in stream.begin(_reasoning("", name), {"type": "reasoning_text", "text": ""}):
                        yield each
                written += added
                yield stream.delta("reasoning_text", name, added)
    if result is None:
        raise ApiError(500, "the call ended without an answer", code="call_failed")
    for each in _ending(job, stream, result, _reasoning(written, name) if written else None):
        yield each
    yield stream.event(_status(result), response=_finished(job, result, head, stream.items))


def _ending(job: Job, stream: _Stream, result: Result, reasoning: Json | None) -> list[Json]:
    events = stream.end("reasoning_text", reasoning) if reasoning else []
    for item in _items(job, result):
        if item["type"] == "function_call":
            events += stream.call(item)
            continue
        events += stream.begin(item, _text_part(""))
        if text := item["content"][0]["text"]:
            events.append(stream.delta("output_text", item["id"], text, logprobs=[]))
        events += stream.end("output_text", item, logprobs=[])
    return events
