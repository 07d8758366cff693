"""Answers in a given format: JSON, with or without a JSON schema. Asked for, validated, brought into one form.

{"type": "json_object"}                                                    any JSON object
{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}     JSON that matches a schema
{"type": "json_object", "schema": {...}}                                   the same, of a schema they are not shown
{"type": "text"}                                                           no format
"""

from __future__ import annotations

import importlib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, cast

from a1agent.engine.extract import Answer, canonical_json, json_texts
from a1agent.engine.statement import Statement
from a1agent.errors import InvalidQuestion, nearest
from a1agent.prompts import ask_after
from a1agent.schema_keywords import TooMuch, first_error, limited, schema_checker
from a1agent.schema_parts import rebuilt
from a1agent.types import Question, is_deep

__all__ = ["JsonFormat", "check_schema", "closed", "format_of", "mismatch", "validator_of", "wrong_part"]

_TYPES = ("text", "json_object", "json_schema")
_TOKENS = 512
"""Most tokens for a JSON statement where `answer_tokens` allows fewer: an object cut short is worth nothing."""
_MOST_TOLD = 200
_TOO_MUCH = "the schema takes too long to check"
_COMPOSING = frozenset({"allOf", "if", "dependentSchemas", "patternProperties", "unevaluatedProperties"})
_JOINED = frozenset({"$ref", "anyOf", "oneOf"})
_OF_PARTS = frozenset({"$id", "$schema", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary"})
_TO_ROOT = re.compile(r'"\$(?:dynamicRef": "#meta|recursiveRef": "#)"')
_TO_PART = re.compile(r'"meta/\w+#/\$defs/')
_OPENING = "The answer in JSON:\n```json\n"
_CLOSING = "\n```"  # JSON text holds no raw line break inside a string, so this never cuts one


class JsonFormat:
    """JSON that matches `schema`, checked with `jsonschema`; references leave the schema never.

    `shown`: whether the models are told the schema; where they are not, the caller's own words describe it.
    """

    def __init__(self, schema: Mapping[str, Any], *, shown: bool = True) -> None:
        self.schema = schema
        self._shown = shown
        self._validator = check_schema(schema, "the response format")

    def ask(self, question: Question) -> Question:
        """The question with the request for it after the last user message."""
        return ask_after(question, self._request)

    @property
    def _request(self) -> str:
        if not self._shown or self.schema == {"type": "object"}:
            return "End your answer with a JSON object."
        schema = json.dumps(self.schema, ensure_ascii=False)
        return f"End your answer with JSON that matches this JSON schema:\n{schema}"

    def read(self, message: str) -> Answer | None:
        """The last JSON in a message that matches, as written; equal values have equal keys."""
        for text in json_texts(message):
            key = canonical_json(text)
            if key is None:
                continue
            wrong = mismatch(self._validator, json.loads(text))
            if wrong is None:
                return Answer(text, "json", key)
            if wrong == _TOO_MUCH:  # the others would take as long
                return None
        return None

    def complaint(self, message: str) -> str:
        """Why `read` finds nothing in a message."""
        for text in json_texts(message):
            if canonical_json(text) is not None:
                return mismatch(self._validator, json.loads(text)) or "it matches"
        return "it holds no JSON"

    def statement(self, answer_tokens: int) -> Statement:
        """How chains state an answer in this format."""
        return Statement(
            read=self.read,
            tokens=max(answer_tokens, _TOKENS),
            required=True,
            opening=_OPENING,
            closing=_CLOSING,
            schema=closed(self.schema),
        )


def format_of(question: Question) -> JsonFormat | None:
    """The format that a question asks for. Raises `InvalidQuestion` for one that is unknown or whose schema is none."""
    wanted = question.response_format
    if wanted is None or wanted.get("type") == "text":
        return None
    kind = wanted.get("type")
    if kind == "json_object":
        schema, shape = wanted.get("schema", {"type": "object"}), '{"type": "json_object", "schema": {...}}'
    elif kind == "json_schema":
        named = wanted.get("json_schema")
        schema = cast("Mapping[str, Any]", named).get("schema") if isinstance(named, Mapping) else None
        shape = '{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}'
    else:
        what, hint = f"unknown response_format {reprlib.repr(wanted)}", nearest(str(kind)[:40], _TYPES)
        raise InvalidQuestion(what, hint, "response_format")
    if not isinstance(schema, Mapping):
        raise InvalidQuestion(f"response_format {kind} holds no schema", f"its shape is {shape}", "response_format")
    return JsonFormat(cast("Mapping[str, Any]", schema), shown=kind == "json_schema")


def check_schema(
    schema: Mapping[str, Any], what: str, part: Literal["tools", "response_format"] = "response_format"
) -> Any:
    """A validator of the schema, which is `part` of a question.

    Raises `InvalidQuestion` when it is none, refers to what it does not hold, or is nested too deep to be followed.
    """
    jsonschema: Any = importlib.import_module("jsonschema")
    referencing: Any = importlib.import_module("referencing")
    try:
        if is_deep(schema):  # also where no keyword leads: templates and grammars read all of it
            raise RecursionError
        kind = _kind_of(schema)
        wrong = next(iter(_of_schemas(kind).iter_errors(schema)), None)
        if wrong is not None:
            raise wrong
        registry = _holding(schema)
        resolver = registry.resolver()
        for reference in set(_references(schema)):
            resolver.lookup(reference)
        validator = limited(kind)(schema, registry=registry)
    except jsonschema.ValidationError as error:
        found = f"{what} is no JSON schema: {_cut(error.message)}"
        raise InvalidQuestion(found, f"look at {_cut(error.json_path)}", part) from error
    except referencing.exceptions.Unresolvable as error:
        found = f"{what} refers to {_cut(error.ref)!r}, which it does not hold"
        raise InvalidQuestion(found, "put it under $defs; nothing is fetched", part) from error
    except (AttributeError, TypeError, ValueError) as error:  # of a $schema or an $id that is no address
        raise InvalidQuestion(f"{what} is no JSON schema", "look at its $schema, $id and $defs", part) from error
    except RecursionError as error:
        raise InvalidQuestion(f"{what} is nested too deep", "put its parts side by side, under $defs", part) from error
    if {"unevaluatedProperties", "patternProperties"} <= {name for part in _objects(schema) for name in part}:
        found = f"{what} has unevaluatedProperties beside patternProperties, which may take forever to check"
        raise InvalidQuestion(found, "write additionalProperties instead", part)
    return validator


def validator_of(schema: Mapping[str, Any]) -> Any:
    """A validator of a schema that `check_schema` took before, for `mismatch`."""
    return limited(_kind_of(schema))(schema, registry=_holding(schema))


def _kind_of(schema: Mapping[str, Any]) -> Any:
    jsonschema: Any = importlib.import_module("jsonschema")
    return jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)


def _holding(schema: Mapping[str, Any]) -> Any:
    """Where references are looked up. Parts with names of their own are found once, not with each reference to one."""
    referencing: Any = importlib.import_module("referencing")
    resource = importlib.import_module("referencing.jsonschema").DRAFT202012.create_resource(schema)
    registry = referencing.Registry().with_resource("", resource)
    named = any(reference != "#" and not reference.startswith("#/") for reference in _references(schema))
    return registry.crawl() if named else registry


@cache
def _of_schemas(kind: Any) -> Any:
    """What checks schemas of a kind: its metaschema in one piece, which is walked once where the published one is
    seven that all are, at each part of a schema.
    """
    specifications: Any = importlib.import_module("jsonschema.validators").SPECIFICATIONS
    meta: dict[str, Any] = dict(kind.META_SCHEMA)
    base = str(meta.get("$id", ""))
    for part in meta.pop("allOf", ()):
        inner = specifications.resolver(base).lookup(part["$ref"]).contents
        for group in ("properties", "$defs"):
            meta[group] = {**inner.get(group, {}), **meta.get(group, {})}
    if meta.keys() & {"$dynamicAnchor", "$recursiveAnchor"}:
        text = json.dumps({name: value for name, value in meta.items() if name not in _OF_PARTS})
        meta = json.loads(_TO_ROOT.sub('"$ref": "#"', _TO_PART.sub('"#/$defs/', text)))
    return schema_checker(kind, meta)


def mismatch(validator: Any, value: Any) -> str | None:
    """Where a value first differs from what a validator of `check_schema` allows; None: it matches."""
    try:
        error = first_error(validator, value)
    except RecursionError:
        return "it is nested too deep"
    except TooMuch:
        return _TOO_MUCH
    return None if error is None else f"at {_cut(error.json_path)}: {_cut(error.message)}"


def wrong_part(validator: Any, value: Any) -> list[Any] | None:
    """The names and places that lead to where a value first differs; None: it matches, or nobody can tell."""
    try:
        error = first_error(validator, value)
    except (RecursionError, TooMuch):
        return None
    return None if error is None else [*error.absolute_path]


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without properties that it allows and does not name: a model held to it would go on inventing some.

    What matches the one matches the other. Schemas that put objects together from several are left as they are.
    """
    return schema if _is_composed(schema) else rebuilt(schema, _closed)


def _closed(keywords: dict[str, Any]) -> dict[str, Any]:
    return {"additionalProperties": False, **keywords} if isinstance(keywords.get("properties"), dict) else keywords


def _is_composed(value: Any) -> bool:
    """Whether an object's properties may be named in several places."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        beside = "properties" in fields and bool(_JOINED & fields.keys())
        return beside or bool(_COMPOSING & fields.keys()) or any(map(_is_composed, fields.values()))
    return isinstance(value, list) and any(map(_is_composed, cast("list[Any]", value)))


def _cut(text: str) -> str:
    """Messages of the library repeat what they are about, whole."""
    return text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}..."


def _references(value: Any) -> Iterator[str]:
    for fields in _objects(value):
        if isinstance(reference := fields.get("$ref"), str):
            yield reference


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a schema, whether its keys are keywords or names."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        yield fields
        for inner in fields.values():
            yield from _objects(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in cast("Sequence[Any]", value):
            yield from _objects(inner)
