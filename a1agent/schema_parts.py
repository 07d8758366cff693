"""The parts of a JSON schema: which of its keys are keywords, and which are names or stand in values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

__all__ = ["leads_to_schema", "rebuilt"]

_VALUES = frozenset({"const", "default", "enum", "examples"})
_OF_NAMES = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


def rebuilt(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema after `change` of the keywords of each object in it, inner ones first.

    Values (`const`, `enum`, `default`, `examples`) are left as they are, and names of properties are no keywords.
    """
    if isinstance(schema, list):
        return [rebuilt(each, change) for each in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    fields = cast("Mapping[str, Any]", schema)
    return change({keyword: _rebuilt_part(keyword, part, change) for keyword, part in fields.items()})


def _rebuilt_part(keyword: str, part: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if keyword in _VALUES:
        return part
    if keyword in _OF_NAMES and isinstance(part, Mapping):
        return {name: rebuilt(named, change) for name, named in cast("Mapping[str, Any]", part).items()}
    return rebuilt(part, change)


def leads_to_schema(reference: str) -> bool:
    """Whether what a reference (`#/properties/a`) takes for a schema is one to `rebuilt` too, no value and no names."""
    names = False
    for part in reference.rpartition("#")[2].split("/")[1:]:
        if not names and part in _VALUES:
            return False
        names = not names and part in _OF_NAMES
    return not names
