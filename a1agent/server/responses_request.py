"""`POST /v1/responses`: what a request may say, and what it asks of the agent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from a1agent.config import Options
from a1agent.errors import InvalidQuestion
from a1agent.server.asking import Effort, Extension, Wishes, make_asked, text_of
from a1agent.server.errors import ApiError
from a1agent.server.fields import Fields, check_whole
from a1agent.server.jobs import Asked
from a1agent.server.settings import ServerSettings
from a1agent.types import Message, Question

__all__ = ["KNOWN", "InputItem", "ResponsesRequest", "asked_of"]


class InputItem(Fields):
    """A message of the conversation, or the reasoning before one, as an earlier response gave it."""

    type: Literal["message", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Annotated[str, BeforeValidator(text_of)] = ""
    summary: list[Any] = Field(default_factory=list, max_length=0)
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    a1: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_role(self) -> InputItem:
        if (self.role is None) == (self.type == "message"):
            raise ValueError("a message has a role, reasoning has none")
        return self


class Reasoning(Fields):
    """How hard to think."""

    effort: Effort | None = None


class TextSettings(Fields):
    """Only plain text, which needs no settings."""


class StreamOptions(Fields):
    """Nothing a stream holds can be chosen."""

    include_obfuscation: Literal[False] = False


class ResponsesRequest(Fields):
    """A response as OpenAI's clients ask for it; every field is served, all others are refused by name."""

    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, description="of a chain, reasoning included")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    reasoning: Reasoning | None = None
    text: TextSettings | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=512, description="goes into the server's log")
    safety_identifier: str | None = Field(None, max_length=512, description="the new name of user")
    a1: Extension | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_whole(cls, given: Any) -> Any:
        return check_whole(given)


KNOWN = {
    "": tuple(ResponsesRequest.model_fields),
    "input[]": tuple(InputItem.model_fields),
    "reasoning": tuple(Reasoning.model_fields),
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
        question = Question(messages=tuple(_messages(request)))
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
        extra = {"reasoning_content": reasoning} if reasoning and item.role == "assistant" else {}
        role = "system" if item.role in ("developer", None) else item.role
        messages.append(Message(role=role, content=item.content, extra=extra))
        reasoning = ""
    return messages
