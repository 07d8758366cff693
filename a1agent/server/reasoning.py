"""What the chains write, as one text that grows: each step that stands, under the number of its chain."""

from __future__ import annotations

from dataclasses import dataclass, field

from a1agent.events import Event, StepAccepted, StepDrafted, StepTakenOver
from a1agent.types import Result

__all__ = ["ReasoningText", "finish_reason", "reasoning_of"]


@dataclass(slots=True)
class ReasoningText:
    """Folds the events of one call into the text."""

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


def _labelled(chain: int, text: str) -> str:
    return f"[{chain + 1}] {text.rstrip()}\n\n"
