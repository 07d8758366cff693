"""Checks the options of a model address against what a backend knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a1agent.errors import InvalidOption, nearest

__all__ = ["Known", "check_names", "check_values", "kind_name"]

Known = Mapping[str, tuple[type, str]]
"""Options by name: their type, and what they are for."""


def kind_name(kind: type) -> str:
    """What a value of a type is, for an error."""
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def check_names(given: Mapping[str, Any], known: Known, kind: str) -> None:
    """Raises `InvalidOption` for an unknown name, naming the nearest; `kind`: of model, for the message."""
    for name in given:
        if name not in known:
            raise InvalidOption(f"unknown option {name!r} of a {kind} model", nearest(name, known))


def check_values(
    values: Mapping[str, Any],
    known: Known,
    limits: Mapping[str, tuple[int, int]],
    choices: Mapping[str, tuple[str, ...]],
) -> None:
    """Raises `InvalidOption` for a value of a wrong type, out of its limits, or not among its choices."""
    for name, value in values.items():
        kind = known[name][0]
        taken = (int, float) if kind is float else kind
        if not isinstance(value, taken) or (kind is not bool and isinstance(value, bool)):
            raise InvalidOption(f"{name}={value!r} is not {kind_name(kind)}", known[name][1])
        if name in limits and not limits[name][0] <= value <= limits[name][1]:
            low, high = limits[name]
            raise InvalidOption(f"{name}={value} is out of range", f"use {low} to {high}: {known[name][1]}")
        if name in choices and value not in choices[name]:
            raise InvalidOption(f"unknown {name}={value!r}", nearest(str(value), choices[name]))
