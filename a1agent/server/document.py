"""What the OpenAPI document says of answers: their shapes, and every status that is no answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from a1agent.stats import RejectionStats

__all__ = [
    "ERRORS",
    "METRICS",
    "READY",
    "Completion",
    "Health",
    "Model",
    "Models",
    "ResponseObject",
    "answer",
]

_REFUSALS = {
    400: "a field, or the question, cannot be served; `param` names it",
    401: "no valid API key",
    403: "a Host or Origin that is not allowed",
    404: "no such model or address",
    405: "no such method here; `Allow` names those there are",
    408: "the body took too long to arrive",
    413: "the body is too large",
    415: "the body is no JSON",
    422: "no chain kept to the format, or called the tool that had to be called",
    429: "the queue is full; `Retry-After` says when to come again",
    500: "the call failed",
    503: "the models load, or do not load, or the server ends; `Retry-After` where that passes",
}


class _Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """An error as OpenAI's clients read it."""

    error: _Error


class _Open(BaseModel):
    """What OpenAI's objects have beside the fields named here is there too."""

    model_config = ConfigDict(extra="allow")


class _Message(_Open):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str = ""
    tool_calls: list[dict[str, Any]] = []


class _Choice(_Open):
    index: int
    message: _Message
    finish_reason: Literal["stop", "length", "tool_calls"]
    a1: dict[str, Any]


class _ChatUsage(_Open):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(_Open):
    """A chat completion, and the statistics of its call."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice]
    usage: _ChatUsage
    a1: RejectionStats


class _Item(_Open):
    type: Literal["reasoning", "message", "function_call"]
    id: str
    status: str


class _Usage(_Open):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class ResponseObject(_Open):
    """A response, and the statistics of its call."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[_Item]
    usage: _Usage
    a1: RejectionStats


class Model(_Open):
    """The model served, and what it is made of."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    a1: dict[str, Any]


class Models(BaseModel):
    """All models: one."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """How the server is, in words."""

    status: str


_Statuses = dict[int | str, dict[str, Any]]

ERRORS: _Statuses = {status: {"model": ErrorAnswer, "description": why} for status, why in _REFUSALS.items()}
"""What any request may be told instead of an answer."""

READY: _Statuses = {200: {"model": Health}, 503: {"model": Health, "description": "it would not, and why"}}
METRICS: _Statuses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "all of them"}}


def answer(shape: type[BaseModel], described: str) -> _Statuses:
    """A call's answer: whole, or as a stream of events."""
    data = {"type": "string", "description": "a JSON object; the last of a chat completion is [DONE]"}
    event = {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}
    return {200: {"model": shape, "content": {"text/event-stream": {"schema": event}}, "description": described}}
