"""Tool calls: which tools a model is shown, how the families of models write a call, and when two calls are the same.

| family | a call |
|---|---|
| Hermes, Qwen | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` |
| Llama 3 | the whole message is `{"name": ..., "parameters": {...}}`, several with `;` between them |
| Mistral | `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`, later `[TOOL_CALLS]name[ARGS]{...}` |

A call is known by how it is written, not by the model's name. Control tokens, such as `[TOOL_CALLS]`, may be missing
from a model's text: what stands around them is enough.
"""

from __future__ import annotations

import json
import re
import reprlib
import secrets
import string
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from a1agent.engine.extract import Answer, canonical_json
from a1agent.engine.statement import Statement
from a1agent.errors import InvalidQuestion, nearest
from a1agent.structured import check_schema, closed, mismatch, validator_of
from a1agent.types import InvalidToolCall, Question, ToolCall

__all__ = ["Calls", "call_id", "calls_in", "canonical_calls", "offer", "parse_calls", "tool_statement"]

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_MARK = "[TOOL_CALLS]"
_PYTHON_TAG = "<|python_tag|>"
_ARGUMENTS = re.compile(r"\s*(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")
_NAMED = re.compile(r'\[?\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"')
_OPENING, _CLOSING = "<tool_call>\n", "\n</tool_call>"
_WHOLE = '"$ref": "#"'
"""A reference to all of a schema, in its JSON text; inside a string its quotes would be escaped."""
_STATEMENT_TOKENS = 512
_ID_LETTERS = string.ascii_letters + string.digits
_DECODER = json.JSONDecoder()


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
        return replace(otherwise, read=read, early=False)
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
    tools = {_name(tool): tool for tool in question.tools}
    found = parse_calls(message, tools)
    strict = {name for name, tool in tools.items() if question.strict_tools or tool["function"].get("strict")}
    if strict:
        matched = [_matched(c, _parameters(tools[c.name])) if c.name in strict else c for c in found.calls]
        found = _collect([*matched, *found.invalid], found.content)
    return found if question.parallel_tool_calls else replace(found, calls=found.calls[:1])


def canonical_calls(calls: Collection[ToolCall]) -> str:
    """Calls as JSON text that is equal for equal calls, whatever their order and spelling."""
    spelled = [json.dumps({"name": call.name, "arguments": dict(call.arguments)}) for call in calls]
    return f"[{','.join(sorted(canonical_json(text) or text for text in spelled))}]"


def parse_calls(message: str, names: Collection[str]) -> Calls:
    """The calls in a model's message; `names` are those of the tools it may call."""
    if not names:
        return Calls((), (), message.strip())
    tagged = _TAGGED.findall(message)
    if tagged:
        return _collect([_call(body, names) for body in tagged], _TAGGED.sub("", message).strip())
    content, mark, rest = message.partition(_MARK)
    if mark:
        return _collect(_sequence(rest.replace(_MARK, " "), names), content.strip())
    bare = message.strip().removeprefix(_PYTHON_TAG).strip()
    if _looks_like_call(bare, names):
        return _collect(_sequence(bare, names), "")
    return Calls((), (), message.strip())


def _collect(found: list[ToolCall | InvalidToolCall], content: str) -> Calls:
    calls = tuple(call for call in found if isinstance(call, ToolCall))
    invalid = tuple(call for call in found if isinstance(call, InvalidToolCall))
    return Calls(calls, invalid, content)


def _looks_like_call(text: str, names: Collection[str]) -> bool:
    named = _NAMED.match(text)
    if named:
        return named[1] in names
    return any(text.startswith(name) and _ARGUMENTS.match(text, len(name)) for name in names)


def _sequence(text: str, names: Collection[str]) -> list[ToolCall | InvalidToolCall]:
    """Calls one after the other: objects, an array of them, or names each with its arguments."""
    found: list[ToolCall | InvalidToolCall] = []
    at = 0
    while at < len(text):
        if text[at] in " \t\r\n;,":
            at += 1
            continue
        name = "" if text[at] in "{[" else re.split(r"[\s\[{]", text[at:], maxsplit=1)[0]
        arguments = _ARGUMENTS.match(text, at + len(name))
        try:
            value, end = _DECODER.raw_decode(text, arguments.end() if name and arguments else at + len(name))
        except (ValueError, RecursionError):
            return [*found, _invalid(text[at:].strip(), "it is not JSON", name or None)]
        values: list[Any] = [{"name": name, "arguments": value}] if name else _listed(value)
        found.extend(_checked_call(call, text[at:end], names) for call in values)
        at = end
    return found


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _call(body: str, names: Collection[str]) -> ToolCall | InvalidToolCall:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        named = _NAMED.match(body.strip())
        return _invalid(body.strip(), "it is not JSON", named[1] if named else None)
    return _checked_call(value, body.strip(), names)


def _checked_call(value: Any, text: str, names: Collection[str]) -> ToolCall | InvalidToolCall:
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    name = fields.get("name")
    if not isinstance(name, str):
        return _invalid(text, "it names no tool", None)
    if name not in names:
        return _invalid(text, f"there is no tool {name!r}", name)
    arguments = fields.get("arguments", fields.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the arguments as JSON in a string, as APIs do
        arguments = _object(arguments)
    if not isinstance(arguments, dict) or canonical_json(json.dumps(arguments)) is None:
        return _invalid(text, "its arguments are no JSON object", name)
    return ToolCall(name=name, arguments=cast("dict[str, Any]", arguments))


def _matched(call: ToolCall, parameters: Mapping[str, Any]) -> ToolCall | InvalidToolCall:
    wrong = mismatch(validator_of(parameters), dict(call.arguments))
    if wrong is None:
        return call
    text = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
    return _invalid(text, f"of its arguments, {wrong}", call.name)


def _object(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None


def _invalid(text: str, error: str, name: str | None) -> InvalidToolCall:
    return InvalidToolCall(text=text, error=error, name=name)


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
        parameters = _named(_parameters(tool), f"{_name(tool)}-arguments")
        own: dict[str, Any] = parameters.pop("$defs", {})  # references start at the root
        if any(definitions.get(name, schema) != schema for name, schema in own.items()):
            own, parameters = {}, {"type": "object"}  # of two tools that mean different things by one name
        definitions.update(own)
        fields = {"name": {"const": _name(tool)}, "arguments": parameters}
        calls.append({"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False})
    return {"anyOf": calls, "$defs": definitions}


def _named(parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Parameters under a name, where they refer to themselves as a whole: the root of a call is the call."""
    text = json.dumps(parameters)
    if _WHOLE not in text:
        return dict(parameters)
    reference = f"#/$defs/{name}"
    named: dict[str, Any] = json.loads(text.replace(_WHOLE, f'"$ref": {json.dumps(reference)}'))
    return {"$ref": reference, "$defs": {**named.pop("$defs", {}), name: named}}
