"""What happens in a call, as it happens. Statistics are folded from these and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from a1agent.backends.base import Work
from a1agent.config import TakeoverMode
from a1agent.types import ChainResult, Result, Step, Verdict

__all__ = [
    "ChainFinished",
    "ChainStarted",
    "Event",
    "QuestionOpened",
    "StepAccepted",
    "StepDrafted",
    "StepDropped",
    "StepTakenOver",
    "StepVerified",
    "VoteClosed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOpened:
    """Both models hold the prompt. `queued_s`: seconds the question waited in line before.

    `in_turn`: the models run one at a time, on one device; otherwise they may run at once.
    """

    draft_prompt_tokens: int
    target_prompt_tokens: int
    draft_work: Work
    target_work: Work
    queued_s: float = 0.0
    in_turn: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStarted:
    """A chain begins."""

    chain: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDrafted:
    """The draft wrote a step. `trimmed_tokens` were sampled and rewound before anyone saw them.

    `attempt`: 0, or how often this step was rejected and drafted anew (`takeover="resample"`). `lead`: what stands in
    the chain's text before the step and no model wrote: `<think>` where the prompt opens a thought, `</think>`, and the
    words that open the statement of an answer.
    """

    chain: int
    turn: int
    step: Step
    lead: str = ""
    attempt: int = 0
    trimmed_tokens: int = 0
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDropped:
    """The draft wrote a step ahead that is not needed: the one before it was rejected, or its chain has ended."""

    chain: int
    turn: int
    tokens: int
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerified:
    """The target scored a step and the calibrator decided. A model that judges itself reads no step twice: 0 tokens."""

    chain: int
    turn: int
    verdict: Verdict
    scored_tokens: int
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAccepted:
    """The drafted step stays; with `takeover="resample"` the best one, when every attempt was rejected.

    `verified`: the target has scored it; not so where `verify_rate` is below 1 and the step was plain to the draft.
    """

    chain: int
    turn: int
    step: Step
    verified: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTakenOver:
    """The target wrote `step`: instead of the drafted one (`rewrite`), after it (`continue`), or after a part of it.

    `kept`: what of the drafted step stands before it; `kept_tokens`: as tokens of the draft. `takeover` is how it came
    about here: a statement is rewritten also where other steps are not.
    """

    chain: int
    turn: int
    step: Step
    takeover: TakeoverMode
    kept: str = ""
    kept_tokens: int = 0
    trimmed_tokens: int = 0
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFinished:
    """A chain came to an end, was cancelled, or failed; `result.end` says which."""

    chain: int
    result: ChainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteClosed:
    """The last event of a call: its result, statistics included."""

    result: Result


Event = (
    QuestionOpened
    | ChainStarted
    | StepDrafted
    | StepDropped
    | StepVerified
    | StepAccepted
    | StepTakenOver
    | ChainFinished
    | VoteClosed
)
