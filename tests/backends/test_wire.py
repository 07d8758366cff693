"""What requests to servers have in common."""

from typing import Any

import pytest

from a1agent.backends.wire import easier


@pytest.mark.parametrize(
    ("schema", "less"),
    [
        ({"type": "string", "pattern": "a", "maxLength": 3}, {"type": "string", "pattern": "a"}),
        ({"items": [{"format": "date", "minLength": 3}]}, {"items": [{}]}),
        ({"properties": {"format": {"multipleOf": 2}}}, {"properties": {"format": {}}}),
        ({"$defs": {"contains": {"uniqueItems": True}}}, {"$defs": {"contains": {}}}),
        ({"properties": {"properties": {"contains": {}}}}, {"properties": {"properties": {}}}),
    ],
)
def test_what_servers_have_no_grammar_for_is_left_out_last(schema: dict[str, Any], less: dict[str, Any]) -> None:
    assert [*easier(schema)] == [schema, less]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string", "maxLength": 3},
        {"properties": {"format": {"type": "string"}, "uniqueItems": {"type": "null"}}},
        {"const": {"format": "date"}, "enum": [{"multipleOf": 2}], "default": {"contains": 1}},
    ],
)
def test_a_schema_that_servers_have_grammars_for_is_all_there_is(schema: dict[str, Any]) -> None:
    assert [*easier(schema)] == [schema]


def test_without_a_schema_a_model_is_free() -> None:
    assert [*easier(None)] == []
