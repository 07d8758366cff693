"""Frozen values that flow between the stages of a call."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from a1agent.conformal.scores import mean_score
from a1agent.errors import InvalidQuestion, nearest

if TYPE_CHECKING:
    from a1agent.stats import RejectionStats

__all__ = [
    "Author",
    "ChainEnd",
    "ChainResult",
    "InvalidToolCall",
    "Message",
    "ModelUsage",
    "Question",
    "Result",
    "Role",
    "Step",
    "ToolCall",
    "Turn",
    "Usage",
    "Verdict",
    "is_deep",
]

Role = Literal["system", "user", "assistant", "tool"]
Author = Literal["draft", "target"]
ChainEnd = Literal["answered", "ended", "turns", "tokens", "timeout", "cancelled", "failed"]

_ROLES = get_args(Role)
_DEEPEST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation; `content` is text, `extra` what a chat template may read beside it.

    `extra["tool_calls"]` of an assistant's message has the shape of OpenAI's chat messages; arguments that are JSON
    text become objects, as templates want them. A tool's message names its call in `extra["tool_call_id"]`.
    """

    role: Role
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise InvalidQuestion(f"unknown role {self.role!r}", f"use one of {', '.join(_ROLES)}")
        _check_text(self.content)
        if self.extra.get("tool_calls"):
            calls = [_as_template_call(call) for call in self.extra["tool_calls"]]
            object.__setattr__(self, "extra", {**self.extra, "tool_calls": calls})

    def as_dict(self) -> dict[str, Any]:
        """The mapping a chat template reads."""
        return {**self.extra, "role": self.role, "content": self.content}


def _check_text(content: object) -> None:
    """Raises `InvalidQuestion` for what no tokenizer reads."""
    if not isinstance(content, str):
        raise InvalidQuestion(f"the content of a message is {content!r}, a {type(content).__name__}", "it is a text")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        what = f"a message holds what is no text: {content[error.start]!r} at character {error.start + 1}"
        raise InvalidQuestion(what, "it may have been read with the wrong encoding; it must be UTF-8") from None


def _as_template_call(call: Any) -> dict[str, Any]:
    """A tool call of a past message as chat templates read it. Raises `InvalidQuestion` when it is none."""
    try:
        function = {**call["function"]}
        arguments = function["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}")
            json.dumps(arguments, ensure_ascii=False).encode()
        if not isinstance(function["name"], str) or not isinstance(arguments, Mapping) or is_deep(arguments):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError):  # no JSON, half of a surrogate pair, or nested too deep
        shape = '{"type": "function", "function": {"name": ..., "arguments": {...}}}'
        what = f"a message holds a malformed tool call: {reprlib.repr(call)}"
        raise InvalidQuestion(what, f"its shape is {shape}") from None
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def is_deep(value: Any, left: int = _DEEPEST) -> bool:
    """Whether a JSON value is nested deeper than chat templates can follow."""
    if isinstance(value, Mapping):
        value = list(cast("Mapping[str, Any]", value).values())
    inner = cast("list[Any]", value) if isinstance(value, list) else []
    return left == 0 or any(is_deep(each, left - 1) for each in inner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: a conversation, the tools the model may call, and the format the answer must have.

    `tools`: function tools in OpenAI's shape. `tool_choice`: `"auto"`, `"none"`, `"required"`, or the name of the tool
    that must be called. `response_format`: `{"type": "json_schema", "json_schema": {"schema": ...}}`, or `json_object`.
    Without `parallel_tool_calls` a message that calls several tools is taken to call the first. With `strict_tools`,
    and of a tool that says `strict`, a call whose arguments do not match its tool's parameters is malformed.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    response_format: Mapping[str, Any] | None = None
    tool_choice: str = "auto"
    parallel_tool_calls: bool = field(default=True, repr=False)
    strict_tools: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidQuestion("the question has no messages", "pass a text or at least one message")
        last = self.messages[-1]
        if last.role in ("system", "user") and not last.content.strip():
            raise InvalidQuestion("the question is empty", "ask something")
        if not self.tools and self.tool_choice not in ("auto", "none"):
            what = f"tool_choice is {reprlib.repr(self.tool_choice)} and there are no tools"
            raise InvalidQuestion(what, "pass the tools too", "tool_choice")

    @classmethod
    def of(cls, question: str | Question | Sequence[Message | Mapping[str, Any]]) -> Question:
        """A question from a text, from messages (`Message` or mappings with `role` and `content`), or itself.

        Raises `InvalidQuestion` when it is empty or a message is malformed.
        """
        if isinstance(question, Question):
            return question
        if isinstance(question, str):
            return cls(messages=(Message(role="user", content=question),))
        if not isinstance(question, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  who checks no types may err
            raise InvalidQuestion(f"the question is a {type(question).__name__}", "pass a text or a list of messages")
        return cls(messages=tuple(_message(message) for message in question))

    @property
    def text(self) -> str:
        """The last user message: what the call is about."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)


def _message(message: Message | Mapping[str, Any]) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        what = f"a message is {message!r}, a {type(message).__name__}"
        raise InvalidQuestion(what, "it is a mapping with 'role' and 'content'")
    fields = dict(message)
    role, content = fields.pop("role", None), fields.pop("content", None)
    if content is None and fields.get("tool_calls"):
        content = ""
    if role is None or not isinstance(content, str):
        known = ", ".join(map(repr, message))
        hint = nearest("role" if role is None else "content", list(message))
        raise InvalidQuestion(f"a message needs 'role' and a text 'content', got the keys {known}", hint)
    return Message(role=role, content=content, extra=fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool that a model asks for; `arguments` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidToolCall:
    """What looks like a tool call and is none: its text, what is wrong with it, and the tool it names, if it does."""

    text: str
    error: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The text that one model adds in one turn. `tokens` counts it in the tokens of its author."""

    text: str
    author: Author
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a drafted step: its score (nats per token), p-value, the level it met, and the decision."""

    score: float
    p_value: float
    level: float
    rejected: bool
    calibration_size: int
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One round of a chain: the draft's step, the verdict on it, and the target's step when it took over.

    `verdict` is None for a step that was accepted without being scored. `kept`: what of a drafted step that was taken
    over stands before the target's: nothing of one that was rewritten, all of one that was continued.
    """

    index: int
    drafted: Step
    verdict: Verdict | None
    taken_over: Step | None = None
    kept: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainResult:
    """One finished chain. `text` is all it wrote, after a `<think>` where its prompt opens a thought; `answer` what it
    states (None: nothing extractable).

    `scores`: of the steps that stand in its text, in nats per token; those the target wrote in place of others count,
    those they replaced do not.
    """

    index: int
    text: str
    answer: str | None
    turns: tuple[Turn, ...]
    end: ChainEnd
    error: str | None = None
    token_count: int = 0
    scores: tuple[float, ...] = ()

    @property
    def mean_score(self) -> float:
        """Mean of the scores; NaN when there is none."""
        return mean_score(self.scores)

    @property
    def finished(self) -> bool:
        """Whether the chain came to an end by itself and may vote."""
        return self.end not in ("cancelled", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """What one model really processed, in its own tokens."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    scored_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What both models processed. As one number: input = prompt + scored, output = drafted + written by the target."""

    draft: ModelUsage
    target: ModelUsage

    @property
    def input_tokens(self) -> int:
        """Tokens read: prompts and scored steps."""
        return sum(m.prompt_tokens + m.scored_tokens for m in (self.draft, self.target))

    @property
    def output_tokens(self) -> int:
        """Tokens written by either model."""
        return self.draft.output_tokens + self.target.output_tokens

    def as_dict(self) -> dict[str, Any]:
        """JSON form, per model and as one number."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "draft": dataclasses.asdict(self.draft),
            "target": dataclasses.asdict(self.target),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a call gives back.

    `answer`: the voted answer (None: no chain stated one). `text`: the final message. `reasoning`: the winning chain;
    of thinking models what stands before `</think>`. `confidence`: the winner's share of all chains asked for.
    `complete`: no limit cut the call short. `notices`: what a person should know about this answer.
    `tool_calls`: those the winning chain asks for, all of that one chain; `text` then is what it says beside them, and
    `answer` the calls in canonical JSON. `invalid_tool_calls`: its malformed ones. Where the question set a
    `response_format`, `answer` is the JSON. `text_tokens`: tokens of `text` in the target's vocabulary,
    estimated where its server fails to tell.
    """

    answer: str | None
    text: str
    reasoning: str
    confidence: float
    complete: bool
    chains: tuple[ChainResult, ...]
    winner: int | None
    stats: RejectionStats
    usage: Usage
    notices: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    text_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON form without the chains."""
        return {
            "answer": self.answer,
            "confidence": self.confidence,
            "text": self.text,
            "reasoning": self.reasoning,
            "complete": self.complete,
            "notices": list(self.notices),
            "tool_calls": [dataclasses.asdict(call) for call in self.tool_calls],
            "invalid_tool_calls": [dataclasses.asdict(call) for call in self.invalid_tool_calls],
            "stats": self.stats.model_dump(mode="json"),
            "usage": self.usage.as_dict(),
        }
