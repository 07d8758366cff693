"""Keywords of JSON schemas as they are checked here: exactly, and within a second whatever the schema.

The `jsonschema` library compares objects pairwise, divides floats, follows references that multiply, and looks for
patterns with Python's `re`: some take exponential time, and those of other languages are none to it.
"""

from __future__ import annotations

import copy
import importlib
import math
import threading
import time
from collections.abc import Generator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any, cast

__all__ = ["TooMuch", "first_error", "limited", "schema_checker"]

_MOST_CHECKS = 200_000
"""Keywords that a value is held against, in less than a second; a reference counts as `_REFERENCE` of them."""
_REFERENCE = 20
_MOST_SECONDS, _MOST_AT_ONCE = 0.5, 0.1
"""That the patterns of a schema may take for one value, together and each; most take microseconds."""


class TooMuch(Exception):
    """A value was held against more keywords of its schema than a check may take, or its patterns took too long."""


class _Work(threading.local):
    left: float = math.inf
    seconds: float = math.inf


_work = _Work()


def first_error(validator: Any, value: Any) -> Any:
    """What is wrong with a value first, None: nothing; `limited` made the validator. Raises `TooMuch`."""
    _work.left, _work.seconds = _MOST_CHECKS, _MOST_SECONDS
    try:
        return next(iter(validator.iter_errors(value)), None)
    finally:
        _work.left = _work.seconds = math.inf  # of what anyone else holds against this validator nothing is counted


@cache
def limited(kind: Any) -> Any:
    """A kind of validator that counts the keywords it checks: references can make exponentially many out of a few."""

    def counted(check: Any, cost: int) -> Any:
        def checked(*given: Any) -> Any:
            _work.left -= cost
            if _work.left < 0:
                raise TooMuch
            return check(*given)

        return checked

    def evolve(self: Any, **changes: Any) -> Any:
        return made(**{alias: getattr(self, name) for name, alias in names} | changes)

    costs = {"$ref": _REFERENCE, "$dynamicRef": _REFERENCE}
    own = {"uniqueItems": _unique, "multipleOf": _multiple, "pattern": _pattern, "patternProperties": _by_pattern}
    own["additionalProperties"] = _additional(kind.VALIDATORS["additionalProperties"])
    checks = {**kind.VALIDATORS, **own}
    made = _extended(kind, {name: counted(check, costs.get(name, 1)) for name, check in checks.items()})
    names = [(field.name, field.alias) for field in importlib.import_module("attrs").fields(made) if field.init]
    made.evolve = evolve  # the library's own stops counting where a part names its $schema
    return made


def schema_checker(kind: Any, meta: Mapping[str, Any]) -> Any:
    """A validator of schemas, which `meta` says what are."""
    formats = copy.copy(kind.FORMAT_CHECKER)
    formats.checkers = {**formats.checkers, "regex": (_is_pattern, _regex().error)}
    return _extended(kind, {"uniqueItems": _unique})(meta, format_checker=formats)


def _extended(kind: Any, checks: Mapping[str, Any]) -> Any:
    return importlib.import_module("jsonschema").validators.extend(kind, checks)


def _wrong(message: str) -> Any:
    return importlib.import_module("jsonschema").ValidationError(message)


# --- patterns ---


def _regex() -> Any:
    """A library of regular expressions with a limit on time, which knows the spellings of other languages."""
    return importlib.import_module("regex")


def _is_pattern(text: object) -> bool:
    return not isinstance(text, str) or bool(_regex().compile(text))


def _finds(pattern: str, text: str) -> bool:
    """Whether a pattern is in a text; one that is none is in no text."""
    library = _regex()
    began = time.thread_time()
    try:
        found = library.search(pattern, text, timeout=_MOST_AT_ONCE) is not None
    except TimeoutError:
        raise TooMuch from None
    except library.error:  # the oldest dialects do not say that names of properties are patterns
        return False
    _work.seconds -= time.thread_time() - began
    if _work.seconds < 0:
        raise TooMuch
    return found


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Generator[Any]:
    if validator.is_type(instance, "string") and not _finds(pattern, instance):
        yield _wrong(f"{instance!r} does not match {pattern!r}")


def _by_pattern(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Generator[Any]:
    """`patternProperties`."""
    if validator.is_type(instance, "object"):
        for pattern, part in patterns.items():
            for name in (name for name in instance if _finds(pattern, name)):
                yield from validator.descend(instance[name], part, path=name, schema_path=pattern)


def _additional(check: Any) -> Any:
    """The library's check of `additionalProperties`, without patterns: what they name is taken out before."""

    def checked(validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]) -> Any:
        patterns = schema.get("patternProperties")
        if patterns and validator.is_type(instance, "object"):
            schema = {name: part for name, part in schema.items() if name != "patternProperties"}
            named = {name for name in instance if any(_finds(pattern, name) for pattern in patterns)}
            instance = {name: value for name, value in instance.items() if name not in named}
        return check(validator, allowed, instance, schema)

    return checked


# --- items and numbers ---


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Generator[Any]:
    """As the library's, which compares objects pairwise."""
    if wanted and validator.is_type(instance, "array") and len({_identity(each) for each in instance}) < len(instance):
        yield _wrong(f"{instance!r} has non-unique elements")


def _multiple(validator: Any, of: Any, instance: Any, schema: Any) -> Generator[Any]:
    """As the library's, which divides floats: 19.99 is no multiple of 0.01 there, and what is beyond floats fails."""
    if validator.is_type(instance, "number") and (_exact(instance) / _exact(of)).denominator != 1:
        yield _wrong(f"{instance!r} is not a multiple of {of}")


def _exact(number: Any) -> Fraction:
    """A number as it is written."""
    return Fraction(number) if isinstance(number, int) else Fraction(str(number))


def _identity(value: Any) -> Any:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, Mapping):
        return frozenset((name, _identity(field)) for name, field in cast("Mapping[str, Any]", value).items())
    if isinstance(value, list):
        return tuple(_identity(each) for each in cast("list[Any]", value))
    return (isinstance(value, bool), value)
