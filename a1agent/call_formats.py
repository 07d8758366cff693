"""How the families of models write calls of tools.

| family | a call |
|---|---|
| Hermes, Qwen 2.5 and 3, Granite 4 | `<tool_call>{"name": NAME, "arguments": {...}}</tool_call>` |
| Qwen 3.5 on, Qwen Coder, MiMo | in the same marks `<function=NAME><parameter=KEY>VALUE</parameter></function>` |
| GLM 4.5 on, Ling 3, Hunyuan 3 | in the same marks `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>` |
| Seed, iQuest | as Qwen 3.5 in `<seed:tool_call>`, as GLM in `<iquest_tool_call>` |
| MiniMax M2 | `<minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>` |
| MiniMax M3 | in `<tool_call>` the same with `<KEY>VALUE</KEY>`, which may nest; before each tag a mark of its own |
| dots | as MiniMax M2, in `<dots_function_call>` |
| DeepSeek V3.2 on | the same in `<｜DSML｜function_calls>`; `string="true"` stands beside the key of a text |
| DeepSeek R1 to V3.1 | `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>` |
| Kimi K2 | `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>` |
| Mistral | `[TOOL_CALLS][{"name": NAME, "arguments": {...}}]`, later `[TOOL_CALLS]NAME[ARGS]{...}` |
| Llama 3 | the whole message is `{"name": NAME, "parameters": {...}}`, several with `;` between them |
| Llama 4, LFM 2, Olmo 3 | `[NAME(KEY=VALUE)]`, alone, in `<|tool_call_start|>` or in `<function_calls>` |
| Gemma 4 | `<|tool_call>call:NAME{KEY:<|"|>TEXT<|"|>}<tool_call|>` |
| gpt-oss | `<|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}` |
| Command | `<|START_ACTION|>[{"tool_name": NAME, "parameters": {...}}]<|END_ACTION|>` |
| GigaChat 3 | `<|function_call|>{"name": NAME, "arguments": {...}}` |
| Apertus | `<|tools_prefix|>[{NAME: {...}}]<|tools_suffix|>` |
| Granite 3, Phi 4, Nemotron 2 and others | JSON as of Mistral in `<|tool_call|>`, `<TOOLCALL>`, `<tool_calls>` |

A call is known by how it is written, not by the model's name: marks that stand around it, and what stands between them.
Marks that are control tokens may be missing from a model's text: a message that is nothing but a call is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from a1agent.call_elements import TAG_MARK, nested_arguments
from a1agent.call_literals import Literals, either
from a1agent.call_quotes import hidden, shown
from a1agent.prompts import MESSAGE_START

__all__ = ["CALL_TOKENS", "CHANNEL_TOKENS", "OPENINGS", "Written", "read_calls", "tool_name"]

_MARKS = {
    "<tool_call>": "</tool_call>",
    "<seed:tool_call>": "</seed:tool_call>",
    "<iquest_tool_call>": "</iquest_tool_call>",
    "<minimax:tool_call>": "</minimax:tool_call>",
    f"{TAG_MARK}<tool_call>": f"{TAG_MARK}</tool_call>",
    "<dots_function_call>": "</dots_function_call>",
    "<longcat_tool_call>": "</longcat_tool_call>",
    "<tool_calls>": "</tool_calls>",
    "<TOOLCALL>": "</TOOLCALL>",
    "<function_calls>": "</function_calls>",
    "<｜DSML｜function_calls>": "</｜DSML｜function_calls>",
    "<｜DSML｜tool_calls>": "</｜DSML｜tool_calls>",
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>": "<｜tool▁call▁end｜>",
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",
    "<|tool_call_begin|>": "<|tool_call_end|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<|tool_call>": "<tool_call|>",
    "<start_function_call>": "<end_function_call>",
    "<|START_ACTION|>": "<|END_ACTION|>",
    "<|tools_prefix|>": "<|tools_suffix|>",
    "<|action_start|>": "<|action_end|>",
    "<|tool_call|>": "<|/tool_call|>",
    "<|function_call|>": "<|message_sep|>",
    f"{MESSAGE_START} to=": "<|call|>",
    f"{MESSAGE_START}<|channel|>commentary to=": "<|call|>",
    f"{MESSAGE_START}<|channel|>analysis to=": "<|call|>",
    "[TOOL_CALLS]": "[TOOL_CALLS]",
    "<|python_tag|>": "<|python_tag|>",
}
"""What calls stand between. The last two have no close: the next call or the end of the message ends one."""
_SEPARATORS = ("<｜tool▁sep｜>", "<|tool_call_argument_begin|>", "<|message|>")
_INSIDE = (
    *("[ARGS]", "[CALL_ID]", *_SEPARATORS, "<|plugin|>", "<tool_sep>", TAG_MARK),
    *('<|"|>', "<escape>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "｜DSML｜"),
)
OPENINGS = (*_MARKS,)
"""The marks that a call begins with."""
CHANNEL_TOKENS = frozenset({"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"})
"""What else may be in the messages of gpt-oss, before what a message says."""
CALL_TOKENS = frozenset(
    {mark for mark in (*_MARKS, *_MARKS.values(), *_INSIDE) if not mark.startswith(MESSAGE_START)}
    - CHANNEL_TOKENS
    - {"<|call|>"}
)
"""What of calls may be control tokens, which texts show all the same."""

_OPENING = re.compile("|".join(re.escape(mark) for mark in sorted(_MARKS, key=len, reverse=True)))
_SPACE = " \t\r\n;,"
# Possessive here and below: messages of a model that repeats itself must not take quadratic time.
_NAMED = re.compile(r'\[?\s*+\{\s*+"name"\s*+:\s*+"((?:[^"\\]|\\.)*+)"')
_ARGUMENTS = re.compile(r"\s*+(?:\[CALL_ID\]\w++)?+(?:\[ARGS\])?+\s*+(?=\{)")
_OBJECTS = re.compile(r"(?:\[\s*+)?+\{")
_SEPARATED = re.compile(
    rf"(?:function{_SEPARATORS[0]})?+(?P<name>[^\s<{{]*+)(?:<\|channel\|>\w++)?+\s*+(?:<\|constrain\|>)?+\w*+"
    rf"(?:{'|'.join(map(re.escape, _SEPARATORS))})?+\s*+"
    r"(?:```(?:json)?+\s*+)?+(?P<arguments>\{.*+)",
    re.DOTALL,
)
_PREFIX, _CLOSE = r"<(?:｜DSML｜|\w+:)?", r"</(?:｜DSML｜|\w+:)?"
_INVOKE = re.compile(rf'{_PREFIX}(?:invoke|function)(?:=|\s+name=)"?([^">\n]+)"?\s*>')
_INVOKED = re.compile(_INVOKE.pattern + r"(?=\s*+\{)")
_INVOKE_END = re.compile(rf"{_CLOSE}(?:invoke|function)>")
_PARAMETER = re.compile(
    rf'{_PREFIX}param(?:eter)?(?P<by>=|\s+name=)"?(?P<key>[^">\n]+)"?(?:\s+string="(?P<text>\w+)")?\s*>'
)
_PARAMETER_END = re.compile(rf"{_CLOSE}param(?:eter)?>")
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = re.compile(r"\s*+<arg_value>"), "</arg_value>"
_PAIRED = re.compile(r"[^\s<{\[(]++\s*+(?:<tool_sep>\s*+)?(?:<arg_key>|\Z)")
_BRACED = re.compile(r"call:([\w.-]+)\{")
_PYTHON = re.compile(r"\[?\s*+[A-Za-z_][\w.]*+\s*+\(")
_LISTED = re.compile(r"\[\s*+([A-Za-z_][\w.]*+)\s*+\(")
_FENCE = "```"
_ORDINAL = re.compile(r":\d+\Z")
_NAMESPACE = "functions."
_FIELDS = {"arguments", "parameters"}
_MOST_MARKS = 4
_NOT_JSON = "it is not JSON"
_CUT = "it is cut off"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Written:
    """A call as a message has it. `unnamed`: arguments without a name, in the order of the tool's parameters.

    `texts`: the names of those that are texts as they stand or other values in JSON, or lists and objects of such, as
    the tool's parameters say; `error`: why it is none.
    """

    text: str
    name: str | None
    arguments: Any = None
    unnamed: tuple[Any, ...] = ()
    texts: frozenset[str] = frozenset()
    error: str | None = None


class _Block(NamedTuple):
    """What stands between marks. `closed`: whether the second one is there."""

    body: str
    closed: bool


def read_calls(message: str, names: Collection[str]) -> tuple[list[Written], str]:
    """The calls in a message, in the order written, and the text beside them; `names` are those of the tools."""
    plain = hidden(message)
    found = _read(plain, names)
    return found if plain == message else shown(found)


def _read(message: str, names: Collection[str]) -> tuple[list[Written], str]:
    if _begins(message, names):  # and what its arguments quote are no marks
        return _unmarked(message, names)
    found: list[Written] = []
    beside: list[str] = []
    for part in _cut(message):
        if isinstance(part, str):
            beside.append(part)
        else:
            found.extend(_body(part))
    if not found and not _OPENING.search(message):
        return _unmarked(message, names)
    return found, "".join(beside).strip()


def _cut(message: str) -> Iterator[str | _Block]:
    """The message as texts outside of marks and blocks between them."""
    at = 0
    while mark := _OPENING.search(message, at):
        if mark.start() > at:
            yield message[at : mark.start()]
        close = _MARKS[mark[0]]
        end = _closed_at(message, mark.end(), close)
        at = len(message) if end < 0 else end if close == mark[0] else end + len(close)
        yield _Block(message[mark.end() : end if end >= 0 else len(message)], end >= 0)
    if at < len(message):
        yield message[at:]


def _closed_at(message: str, at: int, close: str) -> int:
    """Where a block is closed that begins there, -1: nowhere. JSON in it may have that mark in a text."""
    end = message.find(close, at)
    while end >= 0 and (start := _OBJECTS.search(message, at, end)):
        try:
            _, at = _DECODER.raw_decode(message, start.start())
        except (ValueError, RecursionError):
            break
        end = message.find(close, at) if at > end else end
    return end


def _body(block: _Block, inside: int = 0) -> list[Written]:
    """The calls between two marks, which may have marks of their own; so many marks are around these."""
    body = block.body.strip()
    if inside < _MOST_MARKS and _OPENING.match(body):
        return [call for part in _cut(body) if isinstance(part, _Block) for call in _body(part, inside + 1)]
    body = body.removeprefix("<|plugin|>").lstrip()
    if body.startswith(_FENCE):
        body = body.removeprefix(_FENCE).removeprefix("json").removesuffix(_FENCE).strip()
    if _PYTHON.match(body):
        return [*_calls(body)]
    if body.startswith(("{", "[")):
        return [*_sequence(body)]
    if _PAIRED.match(body):
        return [_paired(body, block.closed)]
    if _INVOKE.search(body.partition("{")[0]):  # further on it may be a text among arguments
        return [*_invocations(body, block.closed)]
    if any(mark in body.partition("{")[0] for mark in _SEPARATORS) and (separated := _SEPARATED.match(body)):
        return [_in_json(separated["name"], separated["arguments"], body)]
    if _BRACED.match(body):
        return [*_braced(body)]
    return [*_sequence(body)]


def _begins(message: str, names: Collection[str]) -> bool:
    """Whether a call of a tool in JSON, Python or braces stands before any mark."""
    opening = _OPENING.search(message)
    before = message[: opening.start()] if opening else message
    first = message.lstrip()
    found = (_NAMED.match(first), _INVOKED.search(before), _LISTED.match(first), _BRACED.match(first))
    return any(call and call[1] in names for call in found)


def _unmarked(message: str, names: Collection[str]) -> tuple[list[Written], str]:
    """The calls of a message without marks, where it is nothing else."""
    whole = message.strip()
    named = _NAMED.match(whole)
    if named or any(whole.startswith(name) and _ARGUMENTS.match(whole, len(name)) for name in names):
        return ([*_sequence(whole)], "") if not named or named[1] in names else ([], whole)
    invoked = _INVOKE.search(whole)
    if invoked and invoked[1] in names:
        return [*_invocations(whole[invoked.start() :], closed=False)], whole[: invoked.start()].strip()
    braced = _BRACED.match(whole)
    if braced and braced[1] in names:
        return [*_braced(whole)], ""
    if whole.startswith("[") and _PYTHON.match(whole):
        calls = [*_calls(whole)]
        if all(call.error is None and call.name in names for call in calls):
            return calls, ""
    return [], whole


def _sequence(text: str) -> Iterator[Written]:
    """Calls one after the other: objects, an array of them, or names each with its arguments."""
    at = 0
    while at < len(text):
        if text[at] in _SPACE:
            at += 1
            continue
        name = "" if text[at] in "{[" else re.split(r"[\s\[{]", text[at:], maxsplit=1)[0]
        arguments = _ARGUMENTS.match(text, at + len(name))
        try:
            value, end = _DECODER.raw_decode(text, arguments.end() if name and arguments else at + len(name))
        except (ValueError, RecursionError):
            named = _NAMED.match(text, at)
            yield Written(text[at:].strip(), name or (named[1] if named else None), error=_NOT_JSON)
            return
        values: list[Any] = [{"name": name, "arguments": value}] if name else _listed(value)
        yield from (_fields(each, text[at:end]) for each in values)
        at = end


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _fields(value: Any, text: str) -> Written:
    """A call that is an object: its name and arguments in fields, or one field that is the name."""
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    name = fields.get("name", fields.get("tool_name"))
    if name is None and len(fields) == 1 and not fields.keys() & _FIELDS:
        ((name, arguments),) = fields.items()
        return Written(text, name, arguments)
    if not isinstance(name, str):
        return Written(text, None, error="it names no tool")
    return Written(text, name, fields.get("arguments", fields.get("parameters", {})))


def _in_json(name: str, arguments: str, text: str) -> Written:
    """Arguments that are an object in JSON, whatever stands behind it."""
    try:
        return Written(text, name, _DECODER.raw_decode(arguments)[0])
    except (ValueError, RecursionError):
        return Written(text, name, error=_NOT_JSON)


def _invocations(body: str, closed: bool) -> Iterator[Written]:
    """Calls whose arguments have a tag each, or are JSON as a whole."""
    for start, rest in _each(_INVOKE, body):
        end = _INVOKE_END.search(rest)
        inside, text = rest[: end.start()] if end else rest, body[start.start() : start.end() + len(rest)].strip()
        last = start.end() + len(rest) == len(body)
        if not (end or (closed and last)):
            yield Written(text, start[1], error=_CUT)
        elif inside.lstrip().startswith("{"):
            yield _in_json(start[1], rest.lstrip(), text)
        elif "<" in inside and not _PARAMETER.search(inside):
            yield _nested(start[1], inside, text)
        else:
            yield _tagged(start[1], inside, text)


def _each(pattern: re.Pattern[str], text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each match, and the text behind it up to the next."""
    found = [*pattern.finditer(text)]
    ends = [*(match.start() for match in found[1:]), len(text)]
    yield from ((match, text[match.end() : end]) for match, end in zip(found, ends, strict=False))


def _tagged(name: str, inside: str, text: str) -> Written:
    arguments: dict[str, Any] = {}
    open_: set[str] = set()
    for start, rest in _each(_PARAMETER, inside):
        end = _PARAMETER_END.search(rest)
        value = rest[: end.start()] if end else rest.rstrip()
        if start["by"] == "=":  # its family gives each value lines of its own
            value = value.removeprefix("\n").removesuffix("\n")
        key = start["key"].strip()
        arguments[key] = value
        if start["text"] == "false":
            arguments[key] = either(value)
        elif start["text"] is None:
            open_.add(key)
    return Written(text, name, arguments, texts=frozenset(open_))


def _nested(name: str, inside: str, text: str) -> Written:
    try:
        arguments = nested_arguments(inside.removesuffix(TAG_MARK))
    except ValueError as error:
        return Written(text, name, error=str(error))
    return Written(text, name, arguments, texts=frozenset(arguments))


def _paired(body: str, closed: bool) -> Written:
    """A name, and arguments whose names and values have a tag each."""
    name = re.split(r"[\s<]", body, maxsplit=1)[0]
    if not closed:
        return Written(body, name, error=_CUT)
    arguments = dict(_pairs(body))
    return Written(body, name, arguments, texts=frozenset(arguments))


def _pairs(body: str) -> Iterator[tuple[str, str]]:
    """Names and values, up to where one has no end."""
    at = 0
    while (start := body.find(_KEY, at)) >= 0 and (key_end := body.find(_KEY_END, start)) >= 0:
        at = key_end + len(_KEY_END)
        value = _VALUE.match(body, at)
        if value is None:
            continue
        at = body.find(_VALUE_END, value.end())
        if at < 0:
            return
        yield body[start + len(_KEY) : key_end].strip(), body[value.end() : at]


def _braced(body: str) -> Iterator[Written]:
    """Calls with names that are not quoted and quotes of their own."""
    at = 0
    while match := _BRACED.search(body, at):
        try:
            reader = Literals(body, match.end(), plain=True)
            arguments, _ = reader.arguments(":", "}")
        except ValueError as error:
            yield Written(body[match.start() :], match[1], error=str(error))
            return
        at = reader.at
        yield Written(body[match.start() : at], match[1], arguments)


def _calls(body: str) -> Iterator[Written]:
    """Calls as Python has them: a list, or one a line."""
    reader = Literals(body)
    reader.takes("[")
    while not reader.ends():
        if reader.takes("]") or reader.takes(","):
            continue
        start, name = reader.at, None
        try:
            name = reader.word()
            if not reader.takes("("):
                raise ValueError("it has no arguments")
            named, unnamed = reader.arguments("=", ")")
        except ValueError as error:
            yield Written(body[start:], name, error=str(error))
            return
        yield Written(body[start : reader.at], name, named, tuple(unnamed))


def tool_name(name: str, names: Collection[str]) -> str:
    """A name as the tools have it: some families put a namespace before it or a number behind it."""
    return name if name in names else _ORDINAL.sub("", name).removeprefix(_NAMESPACE)
