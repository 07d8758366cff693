"""LangChain's messages as A1 takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from a1agent import Message
from a1agent.errors import InvalidQuestion
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

__all__ = ["a1_messages"]

_TEXTS = {"text": "text", "output_text": "text", "text-plain": "text", "refusal": "refusal"}
"""Blocks that are text, and the field that holds it."""
_MEDIA = frozenset(
    {"image", "image_url", "input_image", "audio", "input_audio", "video", "file", "input_file", "document"}
)


def a1_messages(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """A conversation as A1 takes it, message by message. Raises `InvalidQuestion` for what its models cannot take."""
    names: dict[str, str] = {}
    converted: list[Message] = []
    for message in messages:
        converted.append(_message(message, names))
        if isinstance(message, AIMessage):
            names.update({call["id"]: call["name"] for call in message.tool_calls if call["id"]})
    return tuple(converted)


def _message(message: BaseMessage, names: Mapping[str, str]) -> Message:
    text = _text(message)
    extra: dict[str, Any] = {"name": message.name} if message.name else {}
    match message:
        case AIMessage():
            return Message(role="assistant", content=text + _malformed(message), extra={**extra, **_calls(message)})
        case ToolMessage():
            name = message.name or names.get(message.tool_call_id)
            named = {"name": name} if name else {}
            return Message(role="tool", content=text, extra={"tool_call_id": message.tool_call_id, **named})
        case HumanMessage():
            return Message(role="user", content=text, extra=extra)
        case SystemMessage():
            return Message(role="system", content=text, extra=extra)
        case ChatMessage():
            return Message(role=cast("Any", message.role), content=text, extra=extra)
        case _:
            hint = "use system, human, AI and tool messages"
            raise InvalidQuestion(f"A1 takes no message of type {message.type!r}", hint)


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_block(block, message) for block in message.content)


def _block(block: str | dict[Any, Any], message: BaseMessage) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type", "text")
    text = block.get(_TEXTS.get(kind, ""))
    if isinstance(text, str):
        return text
    # Of past messages of a model what else there is (reasoning, calls, searches, signatures) stands elsewhere in the
    # message or is not shown to a model again; each provider has names of its own for it.
    if isinstance(message, AIMessage) and kind not in _MEDIA:
        return ""
    raise InvalidQuestion(f"a {message.type} message holds a block of type {kind!r}", "A1's models take text only")


def _calls(message: AIMessage) -> dict[str, Any]:
    calls = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
        for call in message.tool_calls
    ]
    return {"tool_calls": calls} if calls else {}


def _malformed(message: AIMessage) -> str:
    """What a model wrote as calls and could not be read, as it wrote it."""
    return "".join(f"\n{call['args']}" for call in message.invalid_tool_calls if call["args"])
