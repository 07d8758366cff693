"""Options of a call: those of the chat model, a preset of effort, and those of the call, later ones first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from a1agent import Options
from a1agent.errors import InvalidOption, nearest

__all__ = ["EFFORTS", "OPTION_NAMES", "SETTING_NAMES", "Effort", "call_options"]

Effort = Literal["low", "medium", "high"]

EFFORTS: dict[str, dict[str, Any]] = {
    "low": {"chains": 4, "turns": 8, "rejection_rate": 0.2},
    "medium": {"chains": 8, "turns": 15, "rejection_rate": 0.3},
    "high": {"chains": 16, "turns": 30, "rejection_rate": 0.4},
}
"""What `reasoning_effort` stands for; `medium` is what A1 does by default."""

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
                raise InvalidOption(f"unknown option {key!r}", nearest(key, OPTION_NAMES | {"reasoning_effort"}))
        merged.update({**_preset(effort), **given})
    return merged


def _preset(effort: object) -> Mapping[str, Any]:
    if effort is None:
        return {}
    if effort not in EFFORTS:
        raise InvalidOption(f"reasoning_effort is {effort!r}", nearest(str(effort), EFFORTS))
    return EFFORTS[str(effort)]
