"""How unlike the training data a question is: a p-value of its mean NLL among those of training prompts."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import Any

from a1agent.backends.base import Backend, StepText
from a1agent.embedded import prompt_nlls
from a1agent.prompts import BLANK_LINE, BOXED_INSTRUCTION

__all__ = ["prompt_p_value"]

_USER_OPENING = "<|im_start|>user\n"


async def prompt_p_value(target: Backend, text: str) -> float:
    """Share of training prompts at least as strange to the target as `text` (conservative conformal p-value).

    The instruction to box the answer does not count. 1.0 where `target` cannot open a raw text.
    """
    open_text: Any = getattr(target, "open_text", None)
    if open_text is None:
        return 1.0
    sequence = await open_text(_USER_OPENING)
    try:
        scores = await sequence.score(StepText(text=text.removesuffix(BLANK_LINE + BOXED_INSTRUCTION)))
    finally:
        await sequence.close(resumed=False)
    nll = -sum(scores.logprobs) / max(1, len(scores.logprobs))
    known = await asyncio.to_thread(prompt_nlls)
    return (len(known) - bisect_left(known, nll) + 1) / (len(known) + 1)
