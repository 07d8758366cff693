"""Tool calls: which tools a model is shown, which calls its messages hold, and when two calls are the same.

`call_formats.py` has how the families of models write them.
"""

from __future__ import annotations

import functools
import json
import operator
import reprlib
import secrets
import string
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from a1agent.call_formats import Written, read_calls, tool_name
from a1agent.call_literals import either
from a1agent.engine.extract import Answer, canonical_json
from a1agent.engine.statement import Statement
from a1agent.errors import InvalidQuestion, nearest
from a1agent.structured import check_schema, closed, mismatch, validator_of, wrong_part
from a1agent.types import InvalidToolCall, Question, ToolCall

__all__ = ["Calls", "call_id", "calls_in", "canonical_calls", "offer", "parse_calls", "tool_statement"]

_OPENING, _CLOSING = "<tool_call>\n", "\n</tool_call>"
_WHOLE = '"$ref": "#"'
"""A reference to all of a schema, in its JSON text; inside a string its quotes would be escaped."""
_STATEMENT_TOKENS = 512
_MOST_FITTED = 100
"""Texts within an argument that are tried as such where what they spell does not fit."""
_ID_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Calls:
    """What a message asks for: calls in the order written, malformed ones, and the text beside them."""

    calls: tuple[ToolCall, ...]
    invalid: tuple[InvalidToolCall, ...]
    content: str


def call_id() -> str:
    """An id for a call: nine letters or digits, which the templates of all families take."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


def offer(question: Question) -> Question:
    """The question with the tools that the model is to be shown: all, none, or only the one it must call.

    Raises `InvalidQuestion` for tools that are none, two of one name, or a choice that is not among them.
    """
    names = [_checked(tool) for tool in question.tools]
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled is not None:
        raise InvalidQuestion(f"two tools are called {doubled!r}", "give each tool a name of its own", "tools")
    choice = question.tool_choice
    if choice == "none":
        return replace(question, tools=())
    if choice in ("auto", "required"):
        return question
    if choice not in names:
        what = f"tool_choice names the unknown tool {reprlib.repr(choice)}"
        raise InvalidQuestion(what, nearest(choice, names), "tool_choice")
    return replace(question, tools=(question.tools[names.index(choice)],), tool_choice="required")


def tool_statement(question: Question, otherwise: Statement) -> Statement:
    """How chains answer when they may call the tools of a question that `offer` gave.

    A chain votes for the calls it asks for, or for answering in words: words that state no answer are all one vote. One
    that writes a malformed call does not vote.
    """
    must = question.tool_choice == "required"

    def read(message: str) -> Answer | None:
        found = calls_in(message, question)
        if found.calls and not found.invalid:
            text = canonical_calls(found.calls)
            return Answer(text, "json", f"calls {text}")
        if found.invalid or must:
            return None
        return otherwise.read(message) or _reply(message, otherwise)

    if not must:  # words so far are no answer yet, nor is a first call where others may follow
        return replace(otherwise, read=read, early=False, calls=True)
    return Statement(
        read=read,
        tokens=max(otherwise.tokens, _STATEMENT_TOKENS),
        required=True,
        opening=_OPENING,
        closing=_CLOSING,
        schema=closed(_calls_schema(question.tools)),
    )


def calls_in(message: str, question: Question) -> Calls:
    """The calls in a model's answer to a question that `offer` gave."""
    tools = {_name(tool): _parameters(tool) for tool in question.tools}
    found = parse_calls(message, tools)
    strict = {_name(tool) for tool in question.tools if question.strict_tools or tool["function"].get("strict")}
    if strict:
        matched = [_matched(c, tools[c.name]) if c.name in strict else c for c in found.calls]
        found = _collect([*matched, *found.invalid], found.content)
    return found if question.parallel_tool_calls else replace(found, calls=found.calls[:1])


def canonical_calls(calls: Collection[ToolCall]) -> str:
    """Calls as JSON text that is equal for equal calls, whatever their order and spelling."""
    spelled = [json.dumps({"name": call.name, "arguments": dict(call.arguments)}) for call in calls]
    return f"[{','.join(sorted(canonical_json(text) or text for text in spelled))}]"


def parse_calls(message: str, tools: Mapping[str, Mapping[str, Any]]) -> Calls:
    """The calls in a model's message; `tools` are the parameters of the tools it may call, by name."""
    if not tools:
        return Calls((), (), message.strip())
    written, content = read_calls(message, tools)
    return _collect([_checked_call(call, tools) for call in written], content)


def _collect(found: list[ToolCall | InvalidToolCall], content: str) -> Calls:
    calls = tuple(call for call in found if isinstance(call, ToolCall))
    invalid = tuple(call for call in found if isinstance(call, InvalidToolCall))
    return Calls(calls, invalid, content)


def _checked_call(call: Written, tools: Mapping[str, Mapping[str, Any]]) -> ToolCall | InvalidToolCall:
    name = call.name if call.name is None else tool_name(call.name, tools)
    if call.error is not None or name is None:
        named = name if name in tools else None  # of a text that cannot be read, what looks like a name may be none
        return InvalidToolCall(text=call.text, error=call.error or "it names no tool", name=named)
    if name not in tools:
        return InvalidToolCall(text=call.text, error=f"there is no tool {name!r}", name=name)
    arguments = _object(call.arguments) if isinstance(call.arguments, str) else call.arguments
    if isinstance(arguments, dict):
        arguments = _named(cast("dict[str, Any]", arguments), call, tools[name])
    if not isinstance(arguments, dict) or canonical_json(json.dumps(arguments)) is None:
        return InvalidToolCall(text=call.text, error="its arguments are no JSON object", name=name)
    return ToolCall(name=name, arguments=cast("dict[str, Any]", arguments))


def _named(arguments: dict[str, Any], call: Written, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, each as its parameter has it: one that was written as a text may be a number."""
    free = [name for name in parameters.get("properties", ()) if name not in arguments]
    arguments |= dict(zip(free, call.unnamed, strict=False))
    if not call.texts:
        return arguments
    loose = validator_of({key: value for key, value in parameters.items() if key != "required"})
    return arguments | {name: _fitted(name, arguments[name], loose) for name in call.texts}


def _fitted(name: str, written: Any, loose: Any) -> Any:
    """An argument whose texts may spell other values, as its parameter has it; `loose` is the validator of all."""
    value = _spelled(written)
    candidates: list[Any] = [value, written, *([[], {}] if written == "" else [])]
    for candidate in candidates:
        if mismatch(loose, {name: candidate}) is None:
            return candidate
    fitted = {name: value}
    for _ in range(_MOST_FITTED):
        path = wrong_part(loose, fitted)
        found = _text_on(path, {name: written}) if path else None
        if found is None or _at(fitted, found[0]) == found[1]:
            return value if path else fitted[name]
        _at(fitted, found[0][:-1])[found[0][-1]] = found[1]
    return value


def _spelled(written: Any) -> Any:
    if isinstance(written, str):
        return either(written)
    if isinstance(written, dict):
        return {name: _spelled(part) for name, part in cast("dict[str, Any]", written).items()}
    return [_spelled(part) for part in cast("list[Any]", written)]


def _at(value: Any, path: list[Any]) -> Any:
    return functools.reduce(operator.getitem, path, value)


def _text_on(path: list[Any], written: Any) -> tuple[list[Any], str] | None:
    """The text that a path leads to or through, and where it is; None: it leads to what holds texts."""
    for steps in range(len(path) + 1):
        part = _at(written, path[:steps])
        if isinstance(part, str):
            return path[:steps], part
    return None


def _matched(call: ToolCall, parameters: Mapping[str, Any]) -> ToolCall | InvalidToolCall:
    wrong = mismatch(validator_of(parameters), dict(call.arguments))
    if wrong is None:
        return call
    text = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return InvalidToolCall(text=text, error=f"of its arguments, {wrong}", name=call.name)


def _object(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None


def _reply(message: str, otherwise: Statement) -> Answer | None:
    """Words as a vote for words; not where a format is required."""
    return Answer(message, "text", "words") if message and not otherwise.required else None


def _checked(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    name = cast("Mapping[str, Any]", function).get("name") if isinstance(function, Mapping) else None
    if tool.get("type") != "function" or not isinstance(name, str) or not name:
        shape = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
        raise InvalidQuestion(f"a tool is malformed: {reprlib.repr(tool)}", f"its shape is {shape}", "tools")
    check_schema(_parameters(tool), f"what the tool {name!r} calls its parameters", "tools")
    return name


def _name(tool: Mapping[str, Any]) -> str:
    return tool["function"]["name"]


def _parameters(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return tool["function"].get("parameters") or {"type": "object"}


def _calls_schema(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A call of one of the tools, as Hermes writes it."""
    definitions: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    for tool in tools:
        parameters = _under_name(_parameters(tool), f"{_name(tool)}-arguments")
        own: dict[str, Any] = parameters.pop("$defs", {})  # references start at the root
        if any(definitions.get(name, schema) != schema for name, schema in own.items()):
            own, parameters = {}, {"type": "object"}  # of two tools that mean different things by one name
        definitions.update(own)
        fields = {"name": {"const": _name(tool)}, "arguments": parameters}
        calls.append({"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False})
    return {"anyOf": calls, "$defs": definitions}


def _under_name(parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Parameters under a name, where they refer to themselves as a whole: the root of a call is the call."""
    text = json.dumps(parameters)
    if _WHOLE not in text:
        return dict(parameters)
    reference = f"#/$defs/{name}"
    named: dict[str, Any] = json.loads(text.replace(_WHOLE, f'"$ref": {json.dumps(reference)}'))
    return {"$ref": reference, "$defs": {**named.pop("$defs", {}), name: named}}
