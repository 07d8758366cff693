"""Arguments of calls as MiniMax M3 writes them: an element each, named as the argument, and in it others that nest.

    <items><item><sku>7</sku></item><item><sku>8</sku></item></items>

is a list of two objects. Before each tag stands a mark, so that texts may hold tags of their own. What is no element is
a text here, also where it spells a number: the tool's parameters know.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["TAG_MARK", "nested_arguments"]

TAG_MARK = "]<]minimax[>["
_TAG = re.compile(r"<(?P<end>/)?+(?P<name>[^<>/\s]++)>")
_MARKED = re.compile(re.escape(TAG_MARK) + _TAG.pattern)
_ITEM = "item"
_DEEPEST = 100


class _Element(NamedTuple):
    """An element under way: its name, the elements in it, and what stands between them."""

    name: str
    inside: list[tuple[str, Any]]
    texts: list[str]


def nested_arguments(body: str) -> dict[str, Any]:
    """The arguments in the body of a call by name: texts, or lists and objects of them.

    Raises ValueError where the elements do not close, or nest too deep.
    """
    marked = TAG_MARK in body
    around: list[_Element] = [_Element("", [], [])]
    at = 0
    for tag in (_MARKED if marked else _TAG).finditer(body):
        around[-1].texts.append(body[at : tag.start()])
        at = tag.end()
        if not tag["end"]:
            around.append(_Element(tag["name"], [], []))
        elif len(around) > 1 and tag["name"] == around[-1].name:
            done = around.pop()
            around[-1].inside.append((done.name, _value(done)))
        elif marked:
            raise ValueError("it is cut off")
        else:  # without marks a text may hold tags that nothing closes
            around[-1].texts.append(tag[0])
        if len(around) > _DEEPEST:
            raise ValueError("it is nested too deep")
    if len(around) > 1:
        raise ValueError("it is cut off")
    return _named(around[0].inside)


def _value(element: _Element) -> Any:
    if not element.inside:
        return "".join(element.texts)
    if all(name == _ITEM for name, _ in element.inside):
        return [value for _, value in element.inside]
    return _named(element.inside)


def _named(elements: list[tuple[str, Any]]) -> dict[str, Any]:
    """By name; a name that stands there again has a list."""
    grouped: dict[str, list[Any]] = {}
    for name, value in elements:
        grouped.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in grouped.items()}
