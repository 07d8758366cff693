"""`POST /v1/responses`: what a request may say, and what it asks of the agent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from a1agent.config import Options
from a1agent.effort import Effort
from a1agent.errors import InvalidQuestion
from a1agent.server.asking import AskingFields, Extension, Wishes, make_asked, text_of
from a1agent.server.errors import ApiError
from a1agent.server.fields import Fields
from a1agent.server.formats import Function, NamedFunction
from a1agent.server.jobs import Asked
from a1agent.server.settings import ServerSettings
from a1agent.types import Message, Question

__all__ = ["KNOWN", "InputItem", "ResponsesRequest", "asked_of"]


class InputItem(Fields):
    """A part of the conversation, as a client writes it or an earlier response gave it."""

    type: Literal["message", "reasoning", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Annotated[str, BeforeValidator(text_of)] = ""
    summary: list[Any] = Field(default_factory=list, max_length=0)
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Annotated[str | None, BeforeValidator(text_of)] = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    a1: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> InputItem:
        for name in _NEEDED[self.type]:
            if getattr(self, name) is None:
                raise ValueError(f"a part of type {self.type} has a field {name}")
        return self


_NEEDED = {
    "message": ("role",),
    "reasoning": (),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}


class FunctionTool(Function):
    """A tool that the client runs."""

    type: Literal["function"]


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


class TextSettings(Fields):
    """How the answer is written."""

    format: Format | None = None


class StreamOptions(Fields):
    """Nothing a stream holds can be chosen."""

    include_obfuscation: Literal[False] = False


class ResponsesRequest(AskingFields):
    """A response as OpenAI's clients ask for it; every field is served, all others are refused by name."""

    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, description="of a chain, reasoning included")
    reasoning: Reasoning | None = None
    text: TextSettings | None = None
    tools: list[FunctionTool] = Field(default_factory=list[FunctionTool])
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    stream_options: StreamOptions | None = None


KNOWN = {
    "": tuple(ResponsesRequest.model_fields),
    "input[]": tuple(InputItem.model_fields),
    "reasoning": tuple(Reasoning.model_fields),
    "text": tuple(TextSettings.model_fields),
    "tools[]": tuple(FunctionTool.model_fields),
    "a1": tuple(Extension.model_fields),
}
"""Fields by object, for the hints of errors."""


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
    )
    try:
        question = Question(
            messages=tuple(_messages(request)),
            tools=tuple(_tool(tool) for tool in request.tools),
            tool_choice=_choice(request.tool_choice),
            parallel_tool_calls=request.parallel_tool_calls,
            response_format=_format(request.text.format) if request.text and request.text.format else None,
        )
    except InvalidQuestion as error:
        raise ApiError(400, str(error), code="invalid_value", param="input") from None
    return make_asked(question, wishes, options, settings, tenant)


def _messages(request: ResponsesRequest) -> list[Message]:
    messages = [Message(role="system", content=request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        return [*messages, Message(role="user", content=request.input)]
    reasoning = ""
    for item in request.input:
        if item.type == "reasoning":
            reasoning = item.content
            continue
        messages.append(_message(item, reasoning))
        reasoning = ""
    return messages


def _message(item: InputItem, reasoning: str) -> Message:
    if item.type == "function_call_output":
        return Message(role="tool", content=item.output or "", extra={"tool_call_id": item.call_id})
    extra: dict[str, Any] = {"reasoning_content": reasoning} if reasoning else {}
    if item.type == "function_call":
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        return Message(role="assistant", content="", extra={**extra, "tool_calls": [call]})
    role = "system" if item.role in ("developer", None) else item.role
    return Message(role=role, content=item.content, extra=extra if role == "assistant" else {})


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _choice(choice: str | NamedTool | None) -> str:
    return choice.name if isinstance(choice, NamedTool) else choice or "auto"


def _format(wanted: Format) -> dict[str, Any]:
    fields = wanted.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {"type": wanted.type, "json_schema": fields}
