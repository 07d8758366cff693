"""What both APIs tell of a call: the chains' reasoning as one text that grows, how an answer ended, what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from a1agent.events import Event, StepAccepted, StepDrafted, StepTakenOver
from a1agent.types import Result, Usage

__all__ = ["ReasoningText", "Tokens", "finish_reason", "outcome_of", "reasoning_of"]


@dataclass(slots=True)
class ReasoningText:
    """Folds the events of one call into the text: each step that stands, under the number of its chain."""

    drafted: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, event: Event) -> str:
        """What the event adds to the text; often nothing."""
        match event:
            case StepDrafted():
                self.drafted[event.chain] = event.step.text
                return ""
            case StepAccepted():
                return _labelled(event.chain, event.step.text)
            case StepTakenOver():
                stands = self.drafted[event.chain] if event.takeover == "continue" else ""
                return _labelled(event.chain, stands + event.step.text)
            case _:
                return ""


def reasoning_of(result: Result) -> str | None:
    """The winner's reasoning, where its message is not all of it."""
    return None if result.reasoning == result.text else result.reasoning


def finish_reason(result: Result) -> str:
    """`length` when the winner ran out of turns, tokens or time, else `stop`."""
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


def _labelled(chain: int, text: str) -> str:
    return f"[{chain + 1}] {text.rstrip()}\n\n"
