"""One call of a chat model: what it asks of A1, and what LangChain gets back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from a1agent import A1, Event, InvalidAnswer, InvalidQuestion, Question, RejectionStats, Result, Usage, VoteClosed
from a1agent.narrator import Narrator
from a1agent.tools import call_id
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.content import InvalidToolCall
from langchain_core.messages.tool import ToolCall, ToolCallChunk, tool_call_chunk
from langchain_core.messages.tool import invalid_tool_call as malformed
from langchain_core.messages.tool import tool_call as called
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_a1._schemas import openai_tool

__all__ = ["INVALID", "KEEP_INVALID", "STRICT_TOOLS", "Request", "function_tools", "tool_choice_name"]

KEEP_INVALID = "keep_invalid"
"""The keyword by which `with_structured_output(include_raw=True)` asks for the raw message of an invalid answer."""
INVALID = "invalid"
"""The finish reason of such a message."""
STRICT_TOOLS = "strict_tools"
"""The keyword by which `with_structured_output` asks for calls that match their tool's parameters."""

_TAG = "<tool_call>"
"""Before the text of a malformed call: LangChain completes cut JSON by guessing, and would make a call of it again."""


def tool_choice_name(choice: str | bool | Mapping[str, Any] | None) -> str:
    """A tool choice as A1 names it, from the ways in which LangChain and OpenAI write it. Raises `InvalidQuestion`."""
    if choice is None or choice is False:
        return "auto"
    if choice is True or choice == "any":
        return "required"
    if isinstance(choice, str):
        return choice
    function = choice.get("function", choice)
    name = cast("Mapping[str, Any]", function).get("name") if isinstance(function, Mapping) else None
    if name is None and choice.get("type") in ("auto", "none", "any"):
        return tool_choice_name(str(choice["type"]))
    if not isinstance(name, str):
        raise InvalidQuestion(f"tool_choice is {choice!r}", 'use "auto", "none", "any", or the name of a tool')
    return name


def function_tools(tools: Iterable[Any] | None) -> tuple[Mapping[str, Any], ...]:
    """Tools as OpenAI writes them, of those and of LangChain's own. Raises `ValueError` for others."""
    return tuple(
        cast("Mapping[str, Any]", tool) if isinstance(tool, Mapping) else openai_tool(tool) for tool in tools or ()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call. `keep_invalid`: an answer that is not in the asked format comes as a message instead of an error."""

    agent: A1
    question: Question
    options: Mapping[str, Any]
    model_name: str
    keep_invalid: bool = False

    def chat_result(self, result: Result) -> ChatResult:
        """What `_generate` returns."""
        return _chat_result(AIMessage(**self._fields(result), **_calls(result)), self.model_name)

    def refused(self, error: InvalidAnswer) -> ChatResult:
        """What `_generate` returns for an answer that is not in the asked format. Raises `OutputParserException`."""
        return _chat_result(AIMessage(**self._refusal(error)), self.model_name)

    def chunks(self, event: Event, narrator: Narrator) -> Iterator[ChatGenerationChunk]:
        """What a stream yields at an event: new reasoning, and at the end the whole answer in one chunk."""
        reasoning = narrator.tell(event)
        if reasoning:
            chunk = AIMessageChunk(content="", additional_kwargs={"reasoning_content": reasoning})
            yield ChatGenerationChunk(message=chunk)
        if isinstance(event, VoteClosed):
            fields = self._fields(event.result)
            fields["additional_kwargs"] = {}  # its reasoning was told
            pieces = _call_chunks(_calls(event.result))
            last = AIMessageChunk(**fields, tool_call_chunks=pieces, chunk_position="last")
            yield ChatGenerationChunk(message=last)

    def refused_chunk(self, error: InvalidAnswer) -> ChatGenerationChunk:
        """The last chunk of a stream whose answer is not in the asked format. Raises `OutputParserException`."""
        return ChatGenerationChunk(message=AIMessageChunk(**self._refusal(error), chunk_position="last"))

    def _fields(self, result: Result) -> dict[str, Any]:
        formatted = self.question.response_format is not None and not result.tool_calls
        content = result.answer if formatted else result.text
        metadata = self._metadata(result.stats, _finish_reason(result))
        metadata |= {"confidence": result.confidence, "answer": result.answer, "notices": list(result.notices)}
        return {
            "content": content or "",
            "additional_kwargs": {"reasoning_content": result.reasoning} if result.reasoning else {},
            "usage_metadata": _usage(result),
            "response_metadata": metadata,
        }

    def _refusal(self, error: InvalidAnswer) -> dict[str, Any]:
        if not self.keep_invalid:
            raise OutputParserException(str(error), llm_output=error.text) from error
        metadata = self._metadata(error.stats, INVALID, str(error))
        spent = None if error.usage is None else _spent(error.usage)
        return {"content": error.text, "usage_metadata": spent, "response_metadata": metadata}

    def _metadata(self, stats: RejectionStats | None, finish_reason: str, error: str | None = None) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "model_provider": "a1",
            "finish_reason": finish_reason,
            "a1": None if stats is None else stats.model_dump(mode="json"),
            **({} if error is None else {"error": error}),
        }


def _chat_result(message: AIMessage, model_name: str) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)], llm_output={"model_name": model_name})


def _calls(result: Result) -> dict[str, list[Any]]:
    valid: list[ToolCall] = [called(name=c.name, args=dict(c.arguments), id=call_id()) for c in result.tool_calls]
    invalid: list[InvalidToolCall] = [
        malformed(name=c.name, args=_TAG + c.text, id=call_id(), error=c.error) for c in result.invalid_tool_calls
    ]
    return {"tool_calls": valid, "invalid_tool_calls": invalid}


def _call_chunks(calls: Mapping[str, list[Any]]) -> list[ToolCallChunk]:
    """Tool calls as a chunk each; malformed ones are known by arguments that are not JSON."""
    whole = [(c["name"], json.dumps(c["args"], ensure_ascii=False), c["id"]) for c in calls["tool_calls"]]
    whole += [(c["name"], c["args"], c["id"]) for c in calls["invalid_tool_calls"]]
    return [tool_call_chunk(name=name, args=text, id=name_id, index=i) for i, (name, text, name_id) in enumerate(whole)]


def _finish_reason(result: Result) -> str:
    """As OpenAI names it: `tool_calls`, `stop`, or `length` where a limit ended the winning chain."""
    if result.tool_calls:
        return "tool_calls"
    end = next((chain.end for chain in result.chains if chain.index == result.winner), None)
    return "stop" if end in ("answered", "ended") else "length"


def _usage(result: Result) -> UsageMetadata:
    """What both models processed; reasoning is all that they wrote but the text of the answer."""
    reasoning = max(0, result.usage.output_tokens - result.text_tokens)
    return {**_spent(result.usage), "output_token_details": OutputTokenDetails(reasoning=reasoning)}


def _spent(usage: Usage) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.draft.cached_tokens + usage.target.cached_tokens),
    )
