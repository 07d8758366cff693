"""What is known of a call while it runs, folded from its events: chains, their turns, and votes as they come in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from a1agent.engine.canonical import same_key
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
from a1agent.types import ChainResult, Verdict

__all__ = ["Cell", "ChainRow", "Progress", "ending"]

Cell = Literal["pending", "accepted", "unscored", "taken_over"]


@dataclass(slots=True)
class ChainRow:
    """One chain: a cell a turn, the last verdict, and what it is doing."""

    index: int
    cells: list[Cell] = field(default_factory=list[Cell])
    verdict: Verdict | None = None
    doing: str = "drafts"
    result: ChainResult | None = None


@dataclass(slots=True)
class Progress:
    """All chains of a call, which begin in the order of their numbers."""

    opened: bool = False
    rows: list[ChainRow] = field(default_factory=list[ChainRow])
    answers: Counter[str | None] = field(default_factory=Counter[str | None])  # by the first spelling seen
    finished: int = 0
    verified: int = 0
    rejected: int = 0
    unscored: int = 0

    def add(self, event: Event) -> None:
        """Takes one event in."""
        match event:
            case QuestionOpened():
                self.opened = True
            case ChainStarted():
                self.rows.append(ChainRow(event.chain))
            case StepDrafted() | StepVerified() | StepAccepted() | StepTakenOver():
                self._step(self.rows[event.chain], event)
            case ChainFinished():
                self._finish(self.rows[event.chain], event.result)
            case _:
                pass

    def _step(self, row: ChainRow, event: StepDrafted | StepVerified | StepAccepted | StepTakenOver) -> None:
        match event:
            case StepDrafted():
                if event.attempt == 0:
                    row.cells.append("pending")
                row.doing = "is verified"
            case StepVerified():
                row.verdict = event.verdict
                row.doing = "target takes over" if event.verdict.rejected else "drafts"
                self.verified += 1
                self.rejected += event.verdict.rejected
            case StepAccepted():
                row.cells[-1] = "accepted" if event.verified else "unscored"
                row.doing = "drafts"
                self.unscored += not event.verified
            case StepTakenOver():
                row.cells[-1] = "taken_over"
                row.doing = "drafts"

    def _finish(self, row: ChainRow, result: ChainResult) -> None:
        row.result = result
        if result.finished:
            self.finished += result.end != "timeout"
            self.answers[self._spelling(result.answer)] += 1

    def _spelling(self, answer: str | None) -> str | None:
        """The spelling under which an equal answer is counted; the vote itself also compares by algebra."""
        return next((known for known in self.answers if known and answer and same_key(known, answer)), answer)


def ending(result: ChainResult) -> str:
    """How a chain ended, in words."""
    if result.end == "failed":
        return f"failed: {result.error or 'no reason given'}"
    if result.end == "cancelled":
        return "cancelled: the vote was settled"
    if result.answer is not None:
        return f"answers {result.answer}"
    return {"timeout": "out of time", "turns": "out of turns", "tokens": "out of tokens"}.get(result.end, "no answer")
