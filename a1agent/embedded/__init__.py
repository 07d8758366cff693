"""The pair of models that ships with a1agent: two small Llamas that do sums in words, and what they were trained on."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

__all__ = ["path", "prompt_nlls"]

_FOLDER = Path(str(files(__name__)))


def path(name: Literal["draft", "target"]) -> Path:
    """The GGUF file of a model of the pair."""
    return _FOLDER / f"{name}.gguf"


@cache
def prompt_nlls() -> tuple[float, ...]:
    """Mean NLL (nats per token, under the target) of a sample of training prompts, ascending.

    Of the content of the user message alone, after `<|im_start|>user\\n` and before `<|im_end|>`; empty while no sample
    ships. Made by `examples/embedded_pair/prompts.py`.
    """
    file = _FOLDER / "prompt_nlls.json"
    return tuple(sorted(json.loads(file.read_text(encoding="utf-8")))) if file.is_file() else ()
