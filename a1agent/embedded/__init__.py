"""The pair of models that ships with a1agent: two small Llamas that do sums in words, and what they were trained on.

What they can and cannot do stands in MODEL_CARD.md beside this file; `problems.py` makes the problems they know, and
`examples/embedded_pair/` trains them anew.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal

__all__ = ["path", "prompt_nlls"]

_FOLDER = Path(__file__).parent


def path(name: Literal["draft", "target"]) -> Path:
    """The GGUF file of a model of the pair."""
    return _FOLDER / f"{name}.gguf"


@cache
def prompt_nlls() -> tuple[float, ...]:
    """Mean NLL (nats per token, under the target) of a sample of training prompts, ascending.

    Of every token of the bare question, after `<|im_start|>user\\n`, which does not count; without an instruction to
    box the answer, which every prompt has and which would hide what is strange. Made by
    `examples/embedded_pair/prompts.py`.
    """
    return tuple(json.loads((_FOLDER / "prompt_nlls.json").read_text(encoding="utf-8"))["plain"])
