"""What the chains of a call were doing when: how many drafted, were verified and taken over at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from a1agent.events import (
    ChainFinished,
    ChainStarted,
    Event,
    QuestionOpened,
    StepAccepted,
    StepDrafted,
    StepTakenOver,
    StepVerified,
)

__all__ = ["PHASES", "Phase", "Span", "Timeline"]

Phase = Literal["draft", "verify", "takeover"]
PHASES: tuple[Phase, ...] = ("draft", "verify", "takeover")


class Span(BaseModel):
    """Time in one phase: `busy_s` seconds in which any chain was in it, `chain_s` seconds summed over the chains."""

    model_config = ConfigDict(frozen=True)

    busy_s: float = 0.0
    chain_s: float = 0.0

    @property
    def batch(self) -> float:
        """Chains in the phase at once, on average while there was any; 0 when there was none."""
        return self.chain_s / self.busy_s if self.busy_s > 0 else 0.0

    def __add__(self, other: Span) -> Span:
        return Span(busy_s=self.busy_s + other.busy_s, chain_s=self.chain_s + other.chain_s)


class Timeline:
    """Folds the events of a call and the moments (seconds) at which they came. `resamples`: nobody takes over."""

    def __init__(self, began: float, *, resamples: bool = False) -> None:
        self.prompt_s = 0.0
        self._began = self._now = began
        self._rejected: Phase = "draft" if resamples else "takeover"
        self._phase_of: dict[int, Phase] = {}
        self._busy = dict.fromkeys(PHASES, 0.0)
        self._chain = dict.fromkeys(PHASES, 0.0)

    def add(self, event: Event, now: float) -> None:
        """Takes an event in."""
        self._advance(now)
        match event:
            case QuestionOpened():
                self.prompt_s = now - self._began
            case ChainStarted() | StepAccepted() | StepTakenOver():
                self._phase_of[event.chain] = "draft"
            case StepDrafted():
                self._phase_of[event.chain] = "verify"
            case StepVerified():
                self._phase_of[event.chain] = self._rejected if event.verdict.rejected else "draft"
            case ChainFinished():
                self._phase_of.pop(event.chain, None)
            case _:
                pass

    def spans(self) -> dict[Phase, Span]:
        """Time in each phase so far."""
        return {phase: Span(busy_s=self._busy[phase], chain_s=self._chain[phase]) for phase in PHASES}

    def _advance(self, now: float) -> None:
        passed, self._now = now - self._now, now
        for phase in PHASES:
            count = sum(at == phase for at in self._phase_of.values())
            self._busy[phase] += passed * (count > 0)
            self._chain[phase] += passed * count
