"""What of a JSON schema a server's model is held to: all that the server has grammars for."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from a1agent.schema_parts import rebuilt

__all__ = ["ServerSchemas"]

Schema = Mapping[str, Any]

_MOST = 256
"""Schemas whose refusals are remembered."""
_REFUSED = frozenset({"contains", "format", "maxContains", "minContains", "multipleOf", "propertyNames", "uniqueItems"})
_LENGTHS = frozenset({"maxLength", "minLength"})


class ServerSchemas:
    """What one server was found to have no grammars for, so that it is not asked again with each statement."""

    def __init__(self) -> None:
        self._taken: OrderedDict[str, Schema | None] = OrderedDict()

    def forms(self, schema: Schema | None) -> list[Schema]:
        """What to hold a model to, the most first, from what the server is known to take on.

        Less than all is the schema without keywords that xgrammar, which vLLM and SGLang use, does not know, or not
        beside others.
        """
        if schema is None:
            return []
        forms = [schema] if (less := _less(schema)) == schema else [schema, less]
        key = _key(schema)
        if key not in self._taken:
            return forms
        taken = self._taken[key]
        return [] if taken is None else forms[forms.index(taken) :]

    def took(self, schema: Schema | None, form: Schema | None) -> bool:
        """Remembers what the server took in place of a schema, None for nothing. False where that was known."""
        if schema is None or self._taken.get(key := _key(schema), ...) == form:
            return False
        self._taken[key] = form
        if len(self._taken) > _MOST:
            self._taken.popitem(last=False)
        return True


def _key(schema: Schema) -> str:
    return json.dumps(schema, sort_keys=True)


def _less(schema: Schema) -> Schema:
    return rebuilt(schema, _taken)


def _taken(keywords: dict[str, Any]) -> dict[str, Any]:
    left_out = _REFUSED | _LENGTHS if {"pattern", "format"} & keywords.keys() else _REFUSED
    return {name: part for name, part in keywords.items() if name not in left_out}
