"""Time in phases, from events and when they came."""

import pytest

from a1agent.backends.base import Work
from a1agent.bench.timeline import Span, Timeline
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
from a1agent.types import ChainResult, Step, Verdict

STEP = Step(text="a", author="draft", tokens=3)


def verified(chain: int, rejected: bool) -> Event:
    verdict = Verdict(score=1, p_value=0.5, level=0.3, rejected=rejected, calibration_size=1)
    return StepVerified(chain=chain, turn=0, verdict=verdict, scored_tokens=3)


def finished(chain: int) -> Event:
    result = ChainResult(index=chain, text="a", answer=None, turns=(), end="ended")
    return ChainFinished(chain=chain, result=result)


EVENTS: list[tuple[float, Event]] = [
    (12, QuestionOpened(draft_prompt_tokens=1, target_prompt_tokens=1, draft_work=Work(), target_work=Work())),
    (12, ChainStarted(chain=0)),
    (12, ChainStarted(chain=1)),
    (14, StepDrafted(chain=0, turn=0, step=STEP)),
    (15, verified(0, rejected=True)),
    (16, StepDrafted(chain=1, turn=0, step=STEP)),
    (18, StepTakenOver(chain=0, turn=0, step=STEP, takeover="rewrite")),
    (19, verified(1, rejected=False)),
    (19, StepAccepted(chain=1, turn=0, step=STEP)),
    (19, finished(1)),
    (21, finished(0)),
]


def test_phases_are_what_each_chain_was_in_between_its_events() -> None:
    line = Timeline(10)
    for now, event in EVENTS:
        line.add(event, now)
    assert line.prompt_s == 2
    assert line.spans() == {
        "draft": Span(busy_s=7, chain_s=9),  # chain 0: 12 to 14 and 18 to 21, chain 1: 12 to 16
        "verify": Span(busy_s=4, chain_s=4),
        "takeover": Span(busy_s=3, chain_s=3),
    }


def test_where_steps_are_drafted_anew_nobody_takes_over() -> None:
    line = Timeline(10, resamples=True)
    for now, event in EVENTS[:6]:
        line.add(event, now)
    assert line.spans()["takeover"] == Span()


def test_the_batch_is_chains_at_once_while_there_are_any() -> None:
    assert (Span(busy_s=2, chain_s=5) + Span(busy_s=2, chain_s=3)).batch == pytest.approx(2)
    assert Span().batch == 0
