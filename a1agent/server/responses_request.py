"""`POST /v1/responses`: what a request may say, and what it asks of the agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from a1agent.config import Options
from a1agent.effort import Effort
from a1agent.server.asking import AskingFields, Content, Wishes, make_asked
from a1agent.server.errors import CHAT_NAMES, ApiError
from a1agent.server.fields import MOST_MESSAGES, MOST_TOOLS, UNKNOWN_KIND, Fields
from a1agent.server.formats import Function, NamedFunction
from a1agent.server.jobs import Asked
from a1agent.server.settings import ServerSettings
from a1agent.types import Message, Question

__all__ = ["ResponsesRequest", "asked_of"]


class MessageItem(Fields):
    """What somebody said, as a client writes it or an earlier response gave it."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content = ""
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    a1: dict[str, Any] | None = None


class ReasoningItem(Fields):
    """What the chains thought before the answer that follows."""

    type: Literal["reasoning"]
    content: Content = ""
    summary: list[Any] = Field(default_factory=list, max_length=0)
    id: str | None = None
    status: str | None = None

    unserved = frozenset({"encrypted_content"})


class CallItem(Fields):
    """A tool call of an earlier response."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None

    unserved = frozenset({"caller", "namespace"})


class CallOutputItem(Fields):
    """What the tool answered."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content
    name: str | None = None
    id: str | None = None
    status: str | None = None

    unserved = frozenset({"caller", "namespace"})


def _kind(item: Any) -> Any:
    """The name of an item's branch, which is no name of a field: errors tell the path without it."""
    kind = cast("dict[str, Any]", item).get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return _KINDS.get(kind or "message") if isinstance(kind, str | None) else None


_KINDS = {
    "message": "Message",
    "reasoning": "Reasoning",
    "function_call": "Call",
    "function_call_output": "CallOutput",
}

InputItem = Annotated[
    Annotated[MessageItem, Tag("Message")]
    | Annotated[ReasoningItem, Tag("Reasoning")]
    | Annotated[CallItem, Tag("Call")]
    | Annotated[CallOutputItem, Tag("CallOutput")],
    Discriminator(_kind, UNKNOWN_KIND, f"it is one of {', '.join(_KINDS)}"),
]
"""A part of the conversation."""


class FunctionTool(Function):
    """A tool that the client runs."""

    type: Literal["function"]

    unserved = frozenset({"allowed_callers", "defer_loading", "output_schema"})


class NamedTool(NamedFunction):
    """The tool that must be called."""

    type: Literal["function"]


class Format(Fields):
    """The format of the answer. A schema is always kept to, strict or not."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool = False


class Reasoning(Fields):
    """How hard to think."""

    effort: Effort | None = None

    unserved = frozenset({"context", "generate_summary", "mode", "summary"})


class TextSettings(Fields):
    """How the answer is written."""

    format: Format | None = None

    unserved = frozenset({"verbosity"})


class StreamOptions(Fields):
    """Nothing a stream holds can be chosen."""

    include_obfuscation: Literal[False] = False


class ResponsesRequest(AskingFields):
    """A response as OpenAI's clients ask for it; every field is served, all others are refused by name."""

    input: str | Annotated[list[InputItem], Field(max_length=MOST_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, description="of a chain, reasoning included")
    reasoning: Reasoning | None = None
    text: TextSettings | None = None
    tools: list[FunctionTool] = Field(default_factory=list[FunctionTool], max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    stream_options: StreamOptions | None = None

    unserved = frozenset(
        {
            "access_programs",
            "background",
            "background_options",
            "context_management",
            "conversation",
            "image",
            "include",
            "max_tool_calls",
            "metadata",
            "moderation",
            "previous_response_id",
            "prompt",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "service_tier",
            "store",
            "top_logprobs",
            "truncation",
        }
    )


_NAMES = {**CHAT_NAMES, "messages": "input", "response_format": "text.format"}


def asked_of(request: ResponsesRequest, options: Options, settings: ServerSettings, tenant: str) -> Asked:
    """What the request asks of the agent. Raises `ApiError` for what is impossible or above the operator's caps."""
    if request.a1 is not None and request.a1.events:
        raise ApiError(
            400, "events are streamed by /v1/chat/completions only", code="unsupported_parameter", param="a1.events"
        )
    wishes = Wishes(
        max_tokens=request.max_output_tokens,
        max_tokens_name="max_output_tokens",
        temperature=request.temperature,
        top_p=request.top_p,
        effort=request.reasoning.effort if request.reasoning else None,
        extension=request.a1,
        names=_NAMES,
    )
    return make_asked(lambda: _question(request), wishes, options, settings, tenant)


def _question(request: ResponsesRequest) -> Question:
    return Question(
        messages=tuple(_messages(request)),
        tools=tuple(_tool(tool) for tool in request.tools),
        tool_choice=_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_format(request.text.format) if request.text and request.text.format else None,
    )


def _messages(request: ResponsesRequest) -> list[Message]:
    messages = [Message(role="system", content=request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        return [*messages, Message(role="user", content=request.input)]
    reasoning = ""
    for item in request.input:
        if isinstance(item, ReasoningItem):
            reasoning = item.content
            continue
        message = _message(item, reasoning)
        joins = isinstance(item, CallItem) and not reasoning and bool(messages) and messages[-1].role == "assistant"
        messages.append(_joined(messages.pop(), message) if joins else message)
        reasoning = ""
    return messages


def _joined(said: Message, call: Message) -> Message:
    """What an answer said and called, or several of its calls, are one message to chat templates."""
    calls = [*said.extra.get("tool_calls", ()), *call.extra["tool_calls"]]
    return replace(said, extra={**said.extra, "tool_calls": calls})


def _message(item: MessageItem | CallItem | CallOutputItem, reasoning: str) -> Message:
    if isinstance(item, CallOutputItem):
        named = {} if item.name is None else {"name": item.name}
        return Message(role="tool", content=item.output, extra={"tool_call_id": item.call_id, **named})
    extra: dict[str, Any] = {"reasoning_content": reasoning} if reasoning else {}
    if isinstance(item, CallItem):
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        return Message(role="assistant", content="", extra={**extra, "tool_calls": [call]})
    role = "system" if item.role == "developer" else item.role
    return Message(role=role, content=item.content, extra=extra if role == "assistant" else {})


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _choice(choice: str | NamedTool | None) -> str:
    return choice.name if isinstance(choice, NamedTool) else choice or "auto"


def _format(wanted: Format) -> dict[str, Any]:
    fields = wanted.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {"type": wanted.type, "json_schema": fields}
