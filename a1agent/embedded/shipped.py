"""The calibration that ships with the embedded pair: scores of steps on training problems."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from a1agent.conformal.store import CalibrationKey

__all__ = ["calibration"]


def calibration(key: CalibrationKey) -> list[tuple[int, float]]:
    """(turn, score) pairs where `key` is of the embedded pair and of steps as they were measured; else none."""
    shipped = _read()
    same = all(getattr(key, name) == shipped[name] for name in ("draft", "target", "score", "min_step_tokens"))
    return [(int(turn), float(score)) for turn, score in shipped["scores"]] if same else []


@cache
def _read() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("calibration.json").read_text(encoding="utf-8"))
