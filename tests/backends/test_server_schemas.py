"""What a server's model is held to where the server has no grammar for all of a schema."""

from typing import Any

import pytest

from a1agent.backends import server_schemas
from a1agent.backends.server_schemas import ServerSchemas


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
    assert ServerSchemas().forms(schema) == [schema, less]


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
    assert ServerSchemas().forms(schema) == [schema]


def test_without_a_schema_a_model_is_free() -> None:
    assert ServerSchemas().forms(None) == []


HARD = {"type": "string", "pattern": "a", "maxLength": 3}
LESS = {"type": "string", "pattern": "a"}


@pytest.mark.parametrize(("taken", "left"), [(HARD, [HARD, LESS]), (LESS, [LESS]), (None, [])])
def test_what_a_server_refused_is_not_asked_for_again(taken: dict[str, Any] | None, left: list[dict[str, Any]]) -> None:
    schemas = ServerSchemas()
    assert schemas.took(HARD, taken)
    assert not schemas.took(dict(reversed(HARD.items())), taken)
    assert schemas.forms(HARD) == left
    assert schemas.forms(LESS) == [LESS]


def test_memory_does_not_grow_with_the_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_schemas, "_MOST", 2)
    schemas = ServerSchemas()
    for length in range(4):
        schemas.took({"maxLength": length}, None)
    assert [schemas.forms({"maxLength": length}) for length in range(4)] == [
        [{"maxLength": 0}],
        [{"maxLength": 1}],
        [],
        [],
    ]
