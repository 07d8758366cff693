"""Options of a call: those of the chat model, a preset of effort, and those of the call, later ones first."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from a1agent import A1Error, Options
from a1agent.effort import preset
from a1agent.errors import InvalidOption, nearest

__all__ = ["OPTION_NAMES", "SETTING_NAMES", "call_options", "named_as_given"]

OPTION_NAMES = frozenset(field.name for field in dataclasses.fields(Options))

SETTING_NAMES = frozenset({"reasoning_effort", "timeout", *OPTION_NAMES} - {"timeout_s"})
"""What a chat model calls its options."""

_RENAMED = {"timeout": "timeout_s", "max_completion_tokens": "max_tokens"}


def call_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `A1` that layers of settings come to; later layers win, and None says nothing.

    In each layer a preset of effort gives way to options named beside it. Raises `InvalidOption` for unknown names.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        given = {_RENAMED.get(key, key): value for key, value in layer.items() if value is not None}
        effort = given.pop("reasoning_effort", None)
        for key in given:
            if key not in OPTION_NAMES:
                raise InvalidOption(f"unknown option {key!r}", nearest(key, SETTING_NAMES))
        merged.update({**({} if effort is None else preset(str(effort))), **given})
    return merged


@contextmanager
def named_as_given() -> Generator[None]:
    """Errors name options as a chat model calls them."""
    try:
        yield
    except A1Error as error:
        error.what, error.hint = (text.replace("timeout_s", "timeout") for text in (error.what, error.hint))
        error.args = (error.what, error.hint)
        raise
