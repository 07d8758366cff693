"""Tools and formats of answers: what a request may ask for, checked before it is admitted, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import Field

from a1agent import structured, tools
from a1agent.errors import InvalidQuestion
from a1agent.server.errors import ApiError, api_error_of
from a1agent.server.fields import Fields
from a1agent.types import Question, Result

__all__ = [
    "Function",
    "FunctionTool",
    "NamedFunction",
    "ResponseFormat",
    "ToolChoice",
    "check",
    "choice_of",
    "content_of",
    "tool_calls_of",
]


class Function(Fields):
    """A tool's name, what it does, and the JSON schema of its arguments."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class FunctionTool(Fields):
    """A tool that the client runs."""

    type: Literal["function"]
    function: Function


class NamedFunction(Fields):
    """A tool by its name."""

    name: str


class NamedTool(Fields):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class Schema(Fields):
    """A JSON schema that the answer must match."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool = False


class ResponseFormat(Fields):
    """The format of the answer. A schema is always kept to, strict or not."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


_MOST_VALUES = 20_000
"""JSON values in tools and format together: what is checked in about two seconds, and several hundred tools."""


def choice_of(choice: ToolChoice | None) -> str:
    """The choice as a question takes it."""
    if choice is None:
        return "auto"
    return choice.function.name if isinstance(choice, NamedTool) else choice


def check(question: Question, names: Mapping[str, str]) -> None:
    """Raises `ApiError` for tools or a format that are none, under the API's `names`. Not for an event loop."""
    _check_size(question, names)
    try:
        tools.offer(question)
        structured.format_of(question)
    except InvalidQuestion as error:
        raise api_error_of(error, names) from error


def tool_calls_of(result: Result, question: Question) -> list[tuple[str, str, str]]:
    """(id, name, arguments as JSON text) of each call. Raises `ApiError` where none keeps to a strict tool's schema."""
    strict = {tool["function"]["name"] for tool in question.tools if _strict(tool)}
    broken = next((call.name for call in result.invalid_tool_calls if call.name in strict), None)
    if broken is not None and not result.tool_calls:
        raise ApiError(422, f"no chain called {broken!r} with arguments its schema takes", code="invalid_answer")
    return [(tools.call_id(), call.name, json.dumps(dict(call.arguments))) for call in result.tool_calls]


def content_of(result: Result, question: Question) -> tuple[str, str | None]:
    """(the message, the reasoning beside it): where a format was asked for the message is the JSON alone."""
    asked = (question.response_format or {}).get("type", "text")
    if asked != "text" and result.answer is not None and not result.tool_calls:
        return result.answer, result.reasoning
    return result.text, None if result.reasoning == result.text else result.reasoning


def _check_size(question: Question, names: Mapping[str, str]) -> None:
    counts = {"tools": sum(map(_values, question.tools)), "response_format": _values(question.response_format)}
    if sum(counts.values()) > _MOST_VALUES:
        param = names[max(counts, key=counts.__getitem__)]
        told = " and ".join(f"{names[part]} {count:,}" for part, count in counts.items() if count)
        what = f"too many JSON values ({told}): this server takes {_MOST_VALUES:,} in one request"
        raise ApiError(400, what, code="above_limit", param=param)


def _values(value: object) -> int:
    """How many JSON values a value is made of, itself included; of any depth."""
    count, left = 0, [value]
    while left:
        value = left.pop()
        count += value is not None
        if isinstance(value, Mapping):
            left.extend(cast("Mapping[str, Any]", value).values())
        elif isinstance(value, Sequence) and not isinstance(value, str):
            left.extend(cast("Sequence[Any]", value))
    return count


def _strict(tool: Mapping[str, Any]) -> bool:
    return bool(tool["function"].get("strict"))
