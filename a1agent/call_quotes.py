"""Marks of calls that arguments of calls quote, as those of an agent that writes about tools do.

    <tool_call><function=write><parameter=text>It ends at </tool_call>, not before.</parameter></function></tool_call>

Such a mark ends nothing. Where a text ends is told by what stands around it: the tags of its value, which may nest in
it when they are balanced, or quotes. While calls are read the texts have other characters where their marks begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

__all__ = ["hidden", "shown"]

_HIDDEN = {"<": "\ue0a1", "[TOOL_CALLS]": "\ue0a2TOOL_CALLS]"}
_OPEN, _CLOSE = r"<(?:｜DSML｜|\w++:)?+", r"</(?:｜DSML｜|\w++:)?+"
_TAG = re.compile(
    rf"(?P<open>{_OPEN}param(?:eter)?+(?:=|\s++name=)[^<>\n]++>|<arg_value>)"
    rf"|(?P<close>{_CLOSE}param(?:eter)?+>|</arg_value>)"
    rf"|{_OPEN}(?:invoke|function)(?:=|\s++name=)[^<>\n]++>|</arg_key>"
)
"""Tags of values, and those that may stand before one."""
_BEGINS = re.compile(
    r"(?:\A\s*+(?=\[)|<\|tool_call_start\|>|<function_calls>|<\|python_tag\|>)\s*+\[?+\s*+[A-Za-z_][\w.]*+\s*+(?P<python>\()"
    r"|(?:\A\s*+|<\|tool_call>\s*+|<start_function_call>\s*+)call:[\w.-]++\{"
)
"""Calls in Python, and in the notation of Gemma."""
_IN_PYTHON = re.compile(r"""(?P<text>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')|[<"']""", re.DOTALL)
_IN_GEMMA = re.compile(r"""<\|"\|>(?P<text>.*?)<\|"\|>|<escape>(?P<other>.*?)<escape>|<""", re.DOTALL)
_Span = tuple[int, int]


def hidden(message: str) -> str:
    """A message of a model in which the texts of calls have no marks; as it is where it has the other characters."""
    if any(other[0] in message for other in _HIDDEN.values()):
        return message
    parts: list[str] = []
    at = 0
    for start, end in _outermost([*_between_tags(message), *_between_quotes(message)]):
        text = message[start:end]
        for mark, other in _HIDDEN.items():
            text = text.replace(mark, other)
        parts += message[at:start], text
        at = end
    return "".join((*parts, message[at:]))


def shown(value: Any) -> Any:
    """What was read from a hidden message with its marks: texts, and whatever holds such."""
    if isinstance(value, str):
        for mark, other in _HIDDEN.items():
            value = value.replace(other, mark)
        return value
    if isinstance(value, list):
        return [shown(each) for each in cast("list[Any]", value)]
    if isinstance(value, tuple):
        return tuple(shown(each) for each in cast("tuple[Any, ...]", value))
    if isinstance(value, dict):
        return {shown(key): shown(each) for key, each in cast("dict[Any, Any]", value).items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: shown(getattr(value, each.name)) for each in fields(value)})
    return value


def _outermost(spans: list[_Span]) -> Iterator[_Span]:
    reached = 0
    for start, end in sorted(spans):
        if start >= reached:
            yield start, end
            reached = end


def _between_tags(message: str) -> Iterator[_Span]:
    """Values between tags that are balanced in them, of arguments: the first tag stands behind one of a call."""
    open_: dict[bool, list[int]] = {False: [], True: []}
    before = None
    for tag in _TAG.finditer(message):
        begun = open_["arg_value" in tag[0]]
        if tag["open"]:
            follows = before is not None and not message[before.end() : tag.start()].strip()
            if begun or follows:
                begun.append(tag.end())
        elif tag["close"] and begun:
            yield begun.pop(), tag.start()
        before = tag


def _between_quotes(message: str) -> Iterator[_Span]:
    at = 0
    while call := _BEGINS.search(message, at):
        at = call.end()
        for found in (_IN_PYTHON if call["python"] else _IN_GEMMA).finditer(message, at):
            at = found.end()
            kind = found.lastgroup
            if kind is None:
                break
            yield found.span(kind)
