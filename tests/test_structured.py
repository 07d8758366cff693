"""Answers in a given format: asked for, validated, voted on by value."""

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from a1agent import A1, InvalidAnswer, InvalidQuestion, Message, Options, Question, embedded
from a1agent.answers import prepare
from a1agent.backends.scripted import Replies, ScriptedBackend
from a1agent.structured import check_schema, closed, format_of, mismatch
from tests.doubles import LIMIT_S, Clock, Late
from tests.servers.llama_server import llama_server

NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER}}


def question(response_format: Any = FORMAT, text: str = "What is 47 * 28?") -> Question:
    return Question(messages=(Message(role="user", content=text),), response_format=response_format)


def shown(asked: Question) -> Question:
    """What the models are asked."""
    return prepare(asked, Options()).question


def agent(*replies: str, **options: Any) -> A1:
    backend = ScriptedBackend(Replies(replies))
    return A1(backend, backend, calibration=None, **{"seed": 1, "early_stop": "off", **options})


def test_chains_vote_by_value_and_those_that_do_not_validate_do_not_vote() -> None:
    with agent('{"number": 7}', 'So:\n```json\n{ "number": 7.0 }\n```', '{"number": "seven"}', chains=16) as a1:
        result = a1.solve(question())
    assert json.loads(result.answer or "") == {"number": 7}
    answered = [chain for chain in result.chains if chain.answer is not None]
    assert 0 < len(answered) < 16
    assert result.confidence == len(answered) / 16


def test_the_last_json_that_matches_is_the_answer() -> None:
    read = format_of(question())
    assert read is not None
    found = read.read('First {"number": 1}, then {"number": 2}, and {"other": 3}.')
    assert found is not None
    assert found.text == '{"number": 2}'
    assert read.read("none here") is None


def test_no_chain_validating_is_an_error_with_the_raw_text_and_the_reason() -> None:
    with agent('{"number": "seven"}') as a1, pytest.raises(InvalidAnswer, match="is not of type 'integer'") as caught:
        a1.solve(question())
    assert caught.value.text.startswith('{"number": "seven"}')
    assert caught.value.stats is not None
    assert caught.value.stats.chains_finished == 8


@pytest.mark.anyio
async def test_no_json_within_the_time_limit_asks_for_more_time_not_for_more_chains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = ScriptedBackend(Late(Clock(monkeypatch).pass_limit), jitter=2)
    async with A1(slow, slow, calibration=None) as a1:
        with pytest.raises(InvalidAnswer, match=r"before the time limit passed: raise timeout_s") as caught:
            await a1.asolve(question(), timeout_s=LIMIT_S)
    assert "more chains" not in caught.value.hint


def test_a_chain_that_ends_without_json_is_made_to_state_it() -> None:
    with A1("scripted:obedient", "scripted:obedient", calibration=None, seed=1) as a1:
        result = a1.solve(question(text='Reply with "seven" or 7.'))
    assert json.loads(result.answer or "") == {"number": 7}


def test_a_scripted_model_fills_a_schema_that_refers_to_itself() -> None:
    with A1("scripted:obedient", "scripted:obedient", calibration=None, seed=1) as a1:
        result = a1.solve(question({"type": "json_schema", "json_schema": {"schema": NODE}}, "Reply with 7 and 8."))
    assert json.loads(result.answer or "") == {"number": 7, "next": {"number": 8}}


def test_a_scripted_model_knows_nothing_to_fill_an_enumeration_of_nothing_with() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"enum": []}}}
    with A1("scripted:obedient", "scripted:obedient", calibration=None, seed=1) as a1, pytest.raises(InvalidAnswer):
        a1.solve(question(wanted))


def test_any_json_object_will_do_where_no_schema_is_given() -> None:
    with agent('{"a": 1}', "[1, 2]") as a1:
        assert a1.solve(question({"type": "json_object"})).answer == '{"a": 1}'


def test_text_is_no_format() -> None:
    assert format_of(question({"type": "text"})) is None
    assert shown(question({"type": "text"})) == question({"type": "text"})


def test_the_format_is_asked_for_once_after_the_last_user_message() -> None:
    asked = shown(shown(question()))
    assert asked.messages[0].content.count(json.dumps(NUMBER)) == 1
    assert asked.messages[0].content.startswith("What is 47 * 28?\n\n")


@pytest.fixture(params=["in llama.cpp", "in transformers", "on llama-server"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Models that never saw JSON; whatever they are run by holds them to it."""
    pytest.importorskip("llama_cpp")
    if request.param == "on llama-server":
        with llama_server(embedded.path("draft")) as server:
            yield f"openai:{server.url}#{server.name}", "embedded:target"
    elif request.param == "in transformers":
        pytest.importorskip("transformers")
        options = "n_threads=1&max_sequences=8&n_ctx=1024"
        yield f"hf:{embedded.path('draft')}?{options}", f"hf:{embedded.path('target')}?{options}"
    else:
        yield "embedded:draft", "embedded:target"


FLAT = {
    "type": "object",
    "properties": {"number": {"type": "integer"}, "sure": {"enum": ["yes", "no"]}},
    "required": ["number", "sure"],
}
NODE = {"type": "object", "properties": {"number": {"type": "integer"}, "next": {"$ref": "#"}}, "required": ["number"]}
TREE = {
    "type": "object",
    "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}},
    "required": ["kids"],
}


@pytest.mark.parametrize(
    "schema", [FLAT, NODE, {"$defs": {"tree": TREE}, "$ref": "#/$defs/tree"}], ids=["flat", "node", "tree"]
)
def test_a_model_held_to_a_schema_answers_in_it_whatever_it_knows(
    pair: tuple[str, str], schema: dict[str, Any]
) -> None:
    small: dict[str, int] = {"chains": 3, "step_tokens": 64, "min_step_tokens": 0, "turns": 6}
    with A1(*pair, calibration=None, seed=1, early_stop="off", **small) as a1:
        result = a1.solve(question({"type": "json_schema", "json_schema": {"schema": schema}}))
    assert check_schema(schema, "it").is_valid(json.loads(result.answer or ""))
    assert all(chain.answer is not None for chain in result.chains if chain.finished)


@pytest.mark.parametrize(
    ("response_format", "told"),
    [
        ({"type": "json_shema"}, "did you mean 'json_schema'"),
        ({"type": "json_schema"}, "holds no schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "number of things"}}}, "is no JSON schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "#/$defs/gone"}}}, "which it does not hold"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "http://x.test/s"}}}, "nothing is fetched"),
    ],
)
def test_a_format_that_is_none_is_refused_before_a_token_is_spent(response_format: Any, told: str) -> None:
    backend = ScriptedBackend(Replies(("x",)))
    with A1(backend, backend, calibration=None) as a1, pytest.raises(InvalidQuestion, match=told):
        a1.solve(question(response_format))
    assert backend.counters.forwards == 0


def test_references_within_the_schema_are_followed() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}}
    validator = check_schema(schema, "it")
    assert validator.is_valid({"a": 1})
    assert not validator.is_valid({"a": "1"})


@pytest.mark.parametrize("dialect", [{}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}])
def test_a_schema_that_takes_exponential_time_matches_nothing_and_holds_nothing_up(dialect: dict[str, str]) -> None:
    parts: dict[str, Any] = {"a0": {"type": "integer"}}
    for i in range(1, 60):
        parts[f"a{i}"] = {**dialect, "anyOf": [{"$ref": f"#/$defs/a{i - 1}"}] * 2}
    schema = {"$defs": parts, "$ref": "#/$defs/a59"}
    asked = format_of(question({"type": "json_schema", "json_schema": {"schema": schema}}))
    assert asked is not None
    assert asked.read("7") is not None
    assert asked.read('"seven"') is None
    assert asked.complaint('"seven"') == "the schema takes too long to check"
    assert check_schema({"type": "integer"}, "it").is_valid(7), "what was given up must not be counted afterwards"


DIALECTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]
PLACES: list[Any] = [
    lambda part: part,
    lambda part: {"properties": {"a": part}},
    lambda part: {"additionalProperties": {"items": part}},
    lambda part: {"anyOf": [{"type": "string"}, {"not": part}]},
    lambda part: {"prefixItems": [part]},
    lambda part: {"$defs": {"a": part}},
    lambda part: {"definitions": {"a": part}},
    lambda part: {"dependencies": {"a": part}},
    lambda part: {"dependentSchemas": {"a": part}, "if": part, "unevaluatedProperties": part},
]
PARTS: list[Any] = [
    {},
    {"type": "object", "required": ["a"], "minProperties": 1, "propertyNames": {"maxLength": 3}},
    {"type": "text"},
    {"type": 5},
    {"required": ["a", "a"]},
    {"required": "a"},
    {"minItems": -1},
    {"multipleOf": 0},
    {"pattern": "("},
    {"anyOf": []},
    {"properties": [1]},
    {"$ref": 5},
    {"$anchor": "#"},
    {"enum": 1},
    {"dependentRequired": {"a": [1]}},
    {"contentSchema": 5},
    {"exclusiveMinimum": True},
    {"deprecated": 1, "title": 2},
    5,
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_a_schema_the_published_metaschema_decides(dialect: str, place: Any) -> None:
    library: Any = importlib.import_module("jsonschema")
    for part in PARTS:
        schema = place(part)
        if not isinstance(schema, dict):
            continue
        dialected = {"$schema": dialect, **schema}
        try:
            library.validators.validator_for(dialected).check_schema(dialected)
        except library.SchemaError:
            with pytest.raises(InvalidQuestion, match="is no JSON schema"):
                check_schema(dialected, "it")
        else:
            check_schema(dialected, "it")


@pytest.mark.parametrize("name", ["#name{}", "http://localhost/{}"])
def test_names_within_a_schema_are_gathered_once_for_all_references(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[Any] = []
    registry: Any = importlib.import_module("referencing").Registry
    crawl = registry.crawl
    monkeypatch.setattr(registry, "crawl", lambda self: (gathered.append(self), crawl(self))[1])
    key = "$anchor" if name.startswith("#") else "$id"
    named = [{key: name.format(n).removeprefix("#"), "type": "integer"} for n in range(50)]
    fields = {f"p{n}": {"$ref": name.format(n)} for n in range(50)}
    validator = check_schema({"properties": fields, "$defs": {f"d{n}": part for n, part in enumerate(named)}}, "it")
    assert mismatch(validator, dict.fromkeys(fields, 1)) is None
    assert mismatch(validator, dict.fromkeys(fields, "1")) is not None
    assert len(gathered) < 10


def test_a_long_answer_is_checked_to_its_end() -> None:
    row = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    asked = format_of(question({"type": "json_schema", "json_schema": {"schema": {"type": "array", "items": row}}}))
    assert asked is not None
    rows: list[dict[str, Any]] = [{"a": 1}] * 10_000
    assert asked.read(json.dumps(rows)) is not None
    assert asked.read(json.dumps([*rows, {"a": "b"}])) is None


def test_a_model_is_not_invited_to_invent_properties() -> None:
    inner = {"type": "object", "properties": {"additionalProperties": {"const": {"properties": {}}}}}
    schema = {"type": "object", "properties": {"a": inner}, "$defs": {"free": {"type": "object"}}}
    held = closed(schema)
    assert held["additionalProperties"] is held["properties"]["a"]["additionalProperties"] is False
    assert held["properties"]["a"]["properties"] == inner["properties"]
    assert held["$defs"] == schema["$defs"]
    allowing = {**schema, "additionalProperties": {"type": "integer"}}
    assert closed(allowing)["additionalProperties"] == {"type": "integer"}
    for composed in (
        {"allOf": [schema, {"properties": {"b": {}}}]},
        {**schema, "anyOf": [{"properties": {"b": {}}}, {}]},
    ):
        assert closed({"items": composed})["items"] is composed


def test_properties_may_be_called_as_keywords_are() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "integer"}}}
    names = ("properties", "default", "enum", "const", "examples", "$defs")
    held = closed({"type": "object", "properties": dict.fromkeys(names, inner), "default": inner})
    assert held["properties"].keys() == set(names)
    assert all(part == {**inner, "additionalProperties": False} for part in held["properties"].values())
    assert held["default"] == inner


def test_a_schema_that_is_not_shown_decides_on_votes_all_the_same() -> None:
    asked = question({"type": "json_object", "schema": NUMBER})
    assert "End your answer with a JSON object." in shown(asked).text
    assert "integer" not in shown(asked).text
    with agent('{"number": 7}', '{"number": "seven"}', '{"number": "seven"}', chains=16) as a1:
        result = a1.solve(asked)
    assert result.answer == '{"number": 7}'  # though fewer said so


@pytest.mark.parametrize("schema", [3, {"type": "number of things"}])
def test_a_schema_beside_json_object_that_is_none_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidQuestion, match="schema"):
        format_of(question({"type": "json_object", "schema": schema}))


@pytest.mark.parametrize("broken", [[], {"a": 1}, "http://[bad"])
def test_a_schema_whose_dialect_is_no_address_is_refused(broken: Any) -> None:
    with pytest.raises(InvalidQuestion, match="is no JSON schema"):
        check_schema({"$schema": broken}, "it")


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2, "1", None, True, False], True),
        ([1, 1.0], False),
        ([1, True, 0, False], True),
        ([[1, True], [1, 1]], True),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ([{}, [], "", None], True),
    ],
)
def test_equal_items_are_found_as_json_schema_has_it(items: list[Any], unique: bool) -> None:
    library: Any = importlib.import_module("jsonschema")
    assert library.Draft202012Validator({"uniqueItems": True}).is_valid(items) == unique
    assert (mismatch(check_schema({"uniqueItems": True}, "it"), items) is None) == unique


@pytest.mark.parametrize(
    ("value", "of", "multiple"),
    [
        (19.99, 0.01, True),
        (0.3, 0.1, True),
        (0.35, 0.1, False),
        (7, 2, False),
        (8.0, 2, True),
        (10**400, 0.5, True),
        (1.5, 10**400, False),
        (1e308, 1e-308, True),
        ("7", 2, True),
    ],
)
def test_multiples_are_those_of_the_numbers_as_they_are_written(value: Any, of: float, multiple: bool) -> None:
    assert (mismatch(check_schema({"multipleOf": of}, "it"), value) is None) == multiple


def test_thousands_of_objects_are_told_apart_without_comparing_each_two() -> None:
    objects = [{"a": i, "b": [i]} for i in range(10_000)]
    check_schema({"$schema": "http://json-schema.org/draft-04/schema#", "enum": objects}, "it")
    assert mismatch(check_schema({"uniqueItems": True}, "it"), objects) is None


SLOW = r"^(a|a)*$"
"""Exponential in every engine that goes back."""


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a" * 40 + "!": {}}, "propertyNames": {"pattern": SLOW}},
        {"patternProperties": {SLOW: {}}},
        {"patternProperties": {SLOW: {}}, "additionalProperties": False},
        {"additionalProperties": False, "patternProperties": {SLOW: {}}, "$schema": DIALECTS[0]},
        {"additionalProperties": {"pattern": SLOW}},
    ],
)
def test_a_pattern_that_takes_forever_is_given_up(schema: dict[str, Any]) -> None:
    text = "a" * 40 + "!"
    assert mismatch(check_schema(schema, "it"), {text: text}) == "the schema takes too long to check"
    assert mismatch(check_schema(schema, "it"), {"a": "a"}) is None  # and the next check has its time


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("extra", [{}, {"additionalProperties": False}, {"additionalProperties": {"type": "null"}}])
@pytest.mark.parametrize("value", [{}, {"n1": 1}, {"n1": "x"}, {"n1": 1, "b": None}, {"b": 2, "s": "né"}, {"s": 1}, 7])
def test_properties_are_named_by_patterns_as_the_library_has_it(dialect: str, extra: Any, value: Any) -> None:
    named = {r"^n\d$": {"type": "integer"}, "^s": {"type": "string", "pattern": r"^\w+$"}}
    schema = {"$schema": dialect, "properties": {"p": {}}, "patternProperties": named, **extra}
    library: Any = importlib.import_module("jsonschema")
    expected = library.validators.validator_for(schema)(schema).is_valid(value)
    assert (mismatch(check_schema(schema, "it"), value) is None) == expected


@pytest.mark.parametrize(
    ("pattern", "fits", "not_"), [(r"^\p{Lu}\p{L}+$", "Ärzte", "x1"), (r"^(?<year>\d{4})$", "2024", "24")]
)
def test_patterns_may_be_spelled_as_in_other_languages(pattern: str, fits: str, not_: str) -> None:
    validator = check_schema({"pattern": pattern}, "it")
    assert mismatch(validator, fits) is None
    assert mismatch(validator, not_) is not None


def test_what_could_take_forever_to_check_is_refused() -> None:
    with pytest.raises(InvalidQuestion, match="additionalProperties instead"):
        check_schema({"anyOf": [{"unevaluatedProperties": False}], "patternProperties": {"a": {}}}, "it")
