"""Tells the reasoning of a call while it is written: one chain's text, for those who watch a stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from a1agent.call_formats import OPENINGS
from a1agent.events import Event, StepAccepted, StepDrafted, StepTakenOver, VoteClosed
from a1agent.prompts import BLANK_LINE, THINK_CLOSE, is_thinking, without_opening
from a1agent.types import Result

__all__ = ["Narrator"]


@dataclass(slots=True)
class Narrator:
    """Follows the chain that settles a step first, to its end: `tell` gives what each event adds to its reasoning.

    Only steps that stand are told, not tokens as they are drawn: until a step is whole and scored the target may
    replace it, and most who watch (chat clients, LangChain) cannot unsay what they were given. When another chain wins
    the vote, its reasoning follows, so that what was told always holds the reasoning of the answer.
    """

    chain: int | None = None
    _text: str = ""
    _told: int = 0
    _drafted: dict[tuple[int, int], StepDrafted] = field(default_factory=dict[tuple[int, int], StepDrafted])

    def tell(self, event: Event) -> str:
        """The text that an event adds; empty for most."""
        match event:
            case StepDrafted():
                self._drafted[event.chain, event.turn] = event
                return ""
            case StepAccepted():
                return self._add(event.chain, self._drafted[event.chain, event.turn].lead + event.step.text)
            case StepTakenOver():
                lead = self._drafted[event.chain, event.turn].lead
                return self._add(event.chain, lead + event.kept + event.step.text)
            case VoteClosed():
                return self._close(event.result)
            case _:
                return ""

    def _add(self, chain: int, text: str) -> str:
        if self.chain is None:
            self.chain = chain
        if chain != self.chain:
            return ""
        self._text += text
        reasoning = _reasoning(self._text)
        new, self._told = reasoning[self._told :], max(self._told, len(reasoning))
        return new

    def _close(self, result: Result) -> str:
        if result.winner is None or result.winner == self.chain or not result.reasoning:
            return ""
        lead = f"{BLANK_LINE}Chain {result.winner + 1} won the vote:{BLANK_LINE}" if self._told else ""
        return lead + result.reasoning


def _reasoning(text: str) -> str:
    """What a text says before its message and its tool calls."""
    thinks = THINK_CLOSE in text or is_thinking(text)
    reasoning = text.partition(THINK_CLOSE)[0]
    for mark in () if thinks else OPENINGS:  # in a thought it calls nothing yet
        reasoning = reasoning.partition(mark)[0]
    return without_opening(reasoning).lstrip()
