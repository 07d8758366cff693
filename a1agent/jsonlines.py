"""Results and events as JSON, in which there are no NaN."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, cast

from a1agent.events import Event, VoteClosed
from a1agent.types import Result

__all__ = ["event_fields", "event_json", "result_json"]


def result_json(result: Result, *, ascii_only: bool = False) -> str:
    """One object on one line. `ascii_only`: other characters are escaped, for streams that cannot carry them."""
    return json.dumps(_finite(result.as_dict()), ensure_ascii=ascii_only, allow_nan=False)


def event_json(event: Event, *, ascii_only: bool = False) -> str:
    """One object on one line; `event` names its kind. `ascii_only` as in `result_json`."""
    return json.dumps(event_fields(event), ensure_ascii=ascii_only, allow_nan=False)


def event_fields(event: Event) -> dict[str, Any]:
    """The object as values that JSON has."""
    fields = {"result": event.result.as_dict()} if isinstance(event, VoteClosed) else dataclasses.asdict(event)
    return _finite({"event": type(event).__name__, **fields})


def _finite(value: Any) -> Any:
    """The value with null for numbers JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value
