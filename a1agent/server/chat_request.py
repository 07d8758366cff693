"""`POST /v1/chat/completions`: what a request may say, and what it asks of the agent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from a1agent.config import Options
from a1agent.effort import Effort
from a1agent.server.asking import AskingFields, Content, Wishes, make_asked
from a1agent.server.errors import CHAT_NAMES, ApiError
from a1agent.server.fields import MOST_MESSAGES, MOST_TOOLS, Fields
from a1agent.server.formats import FunctionTool, ResponseFormat, ToolChoice, choice_of
from a1agent.server.jobs import Asked
from a1agent.server.settings import ServerSettings
from a1agent.types import Message, Question

__all__ = ["ChatMessage", "ChatRequest", "StreamOptions", "asked_of"]

_MOST_STOPS = 4


class CalledFunction(Fields):
    """A tool's name, and the arguments as JSON text."""

    name: str
    arguments: str


class Call(Fields):
    """A tool call of an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Fields):
    """One message of the conversation; content is text, or parts that are all text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = ""
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None

    unserved = frozenset({"annotations", "audio", "function_call", "refusal"})

    def message(self) -> Message:
        """The message as chat templates read it. Raises `InvalidQuestion` for calls that are none."""
        extra = self.model_dump(include={"name", "reasoning_content", "tool_calls", "tool_call_id"})
        role = "system" if self.role == "developer" else self.role
        return Message(role=role, content=self.content, extra={k: v for k, v in extra.items() if v is not None})


class StreamOptions(Fields):
    """What a stream holds beside the answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(AskingFields):
    """A chat completion as OpenAI's clients ask for it; every field is served, all others are refused by name."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    n: int = Field(1, ge=1)
    stop: str | list[str] = Field(default_factory=list)
    max_completion_tokens: int | None = Field(None, ge=1, description="of a chain, reasoning included")
    max_tokens: int | None = Field(None, ge=1, description="the old name of max_completion_tokens")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    tools: list[FunctionTool] = Field(default_factory=list[FunctionTool], max_length=MOST_TOOLS)
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = Field(None, description="scales the chains, turns and rate the operator set")
    stream_options: StreamOptions | None = None

    unserved = frozenset(
        {
            "audio",
            "frequency_penalty",
            "function_call",
            "functions",
            "logit_bias",
            "logprobs",
            "metadata",
            "modalities",
            "moderation",
            "prediction",
            "presence_penalty",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "service_tier",
            "store",
            "top_logprobs",
            "verbosity",
            "web_search_options",
        }
    )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def events(self) -> bool:
        """Whether a stream carries every event of the chains."""
        return self.a1 is not None and self.a1.events


def asked_of(request: ChatRequest, options: Options, settings: ServerSettings, tenant: str) -> Asked:
    """What the request asks of the agent. Raises `ApiError` for what is impossible or above the operator's caps."""
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options goes with stream: true", code="invalid_value", param="stream_options")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(
            400,
            "max_tokens is the old name of max_completion_tokens: give one",
            code="invalid_value",
            param="max_tokens",
        )
    wishes = Wishes(
        names=CHAT_NAMES,
        n=request.n,
        stop=_stops(request.stop),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        max_tokens_name="max_tokens" if request.max_tokens else "max_completion_tokens",
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        effort=request.reasoning_effort,
        extension=request.a1,
    )
    return make_asked(lambda: _question(request), wishes, options, settings, tenant)


def _question(request: ChatRequest) -> Question:
    return Question(
        messages=tuple(message.message() for message in request.messages),
        tools=tuple(tool.model_dump(exclude_none=True) for tool in request.tools),
        tool_choice=choice_of(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=request.response_format and request.response_format.model_dump(by_alias=True),
    )


def _stops(given: str | list[str]) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else tuple(given)
    if len(stops) > _MOST_STOPS or not all(stops):
        raise ApiError(400, f"stop: up to {_MOST_STOPS} texts, none empty", code="invalid_value", param="stop")
    return stops
