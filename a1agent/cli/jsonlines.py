"""Results and events as JSON, in which there are no NaN."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, cast

from a1agent.events import Event, VoteClosed
from a1agent.types import Result

__all__ = ["event_json", "result_json"]


def result_json(result: Result) -> str:
    """One object on one line."""
    return _dump(result.as_dict())


def event_json(event: Event) -> str:
    """One object on one line; `event` names its kind."""
    fields = {"result": event.result.as_dict()} if isinstance(event, VoteClosed) else dataclasses.asdict(event)
    return _dump({"event": type(event).__name__, **fields})


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with null for numbers JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value
