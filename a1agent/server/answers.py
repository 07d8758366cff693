"""What both APIs tell of a call beside its text: how it ended, what it took, what A1 knows of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from a1agent.types import Result, Usage

__all__ = ["Tokens", "finish_reason", "outcome_of"]


def finish_reason(result: Result) -> str:
    """`tool_calls`, or `length` when the winner ran out of turns, tokens or time, or `stop`."""
    if result.tool_calls:
        return "tool_calls"
    winner = next((chain for chain in result.chains if chain.index == result.winner), None)
    if winner is None:
        return "stop" if result.complete else "length"
    return "stop" if winner.end in ("answered", "ended") else "length"


def outcome_of(result: Result) -> dict[str, Any]:
    """What A1 knows of one answer beside its text."""
    return {
        "answer": result.answer,
        "confidence": result.confidence,
        "complete": result.complete,
        "winner": result.winner,
        "notices": list(result.notices),
        "invalid_tool_calls": [dataclasses.asdict(call) for call in result.invalid_tool_calls],
    }


@dataclass(frozen=True, slots=True)
class Tokens:
    """Usage as OpenAI counts it: what both models read, and what both wrote; `reasoning` stands in no winning chain."""

    input: int
    cached: int
    output: int
    reasoning: int
    by_model: dict[str, Any]

    @classmethod
    def of(cls, usage: Usage, results: Sequence[Result]) -> Tokens:
        """Of calls that have ended."""
        winners = (c for r in results for c in r.chains if c.index == r.winner)
        kept = sum(chain.token_count for chain in winners)
        numbers = usage.as_dict()
        return cls(
            input=usage.input_tokens,
            cached=usage.draft.cached_tokens + usage.target.cached_tokens,
            output=usage.output_tokens,
            reasoning=max(0, usage.output_tokens - kept),
            by_model={model: numbers[model] for model in ("draft", "target")},
        )
