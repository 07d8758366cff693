"""The narrator tells one chain's reasoning while it is written, and that of the winner in any case."""

import itertools
from typing import Any

import pytest

from a1agent import A1, ChainFinished, StepAccepted, StepTakenOver, VoteClosed
from a1agent.backends.scripted import Replies, ScriptedBackend
from a1agent.narrator import Narrator
from tests.doubles import SUM, sums_pair


def told(seed: int, **options: Any) -> tuple[Narrator, list[Any], list[str]]:
    draft, target = sums_pair(accuracy=0.6, jitter=5, arrival_seed=seed)
    with A1(draft, target, calibration=None, seed=seed, min_step_tokens=0, **options) as a1:
        events = list(a1.stream(SUM))
    narrator = Narrator()
    return narrator, events, [narrator.tell(event) for event in events]


@pytest.mark.parametrize("lookahead", ["on", "off"])
@pytest.mark.parametrize("takeover", ["rewrite", "rollback", "continue"])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_told_ends_with_the_reasoning_of_the_winner(seed: int, takeover: str, lookahead: str) -> None:
    narrator, events, parts = told(seed, takeover=takeover, lookahead=lookahead)
    result = events[-1].result
    assert "".join(parts).rstrip().endswith(result.reasoning)
    if narrator.chain == result.winner:
        assert "".join(parts).strip() == result.reasoning
        assert parts[-1] == ""


def test_one_chain_is_followed_while_others_run() -> None:
    narrator, events, parts = told(1)
    first_end = next(i for i, event in enumerate(events) if isinstance(event, ChainFinished))
    speaking = [event for event, part in zip(events[:-1], parts, strict=False) if part]
    assert all(isinstance(event, StepAccepted | StepTakenOver) for event in speaking)
    assert {event.chain for event in speaking} == {narrator.chain}
    assert sum(bool(part) for part in parts[:first_end]) >= 2


def test_thinking_is_told_without_its_tags_and_without_the_message() -> None:
    backend = ScriptedBackend(Replies(("<think>\nOne.\n\nTwo.\n</think>\n\nThree.\n\nFour.",)))
    narrator = Narrator()
    with A1(backend, backend, calibration=None, min_step_tokens=0, chains=1) as a1:
        parts = [narrator.tell(event) for event in a1.stream("Count.")]
    assert [part for part in parts if part] == ["One.\n\n", "Two.\n"]


def test_a_stream_given_up_midway_is_cancelled_before_it_returns() -> None:
    draft, target = sums_pair(jitter=3)
    with A1(draft, target, calibration=None, min_step_tokens=0) as a1:
        stream = a1.stream(SUM)
        assert len(list(itertools.islice(stream, 20))) == 20
        stream.close()
        assert draft.counters.sequences_alive == target.counters.sequences_alive == 0


def test_an_error_ends_a_stream_as_it_ends_a_call() -> None:
    with A1("scripted:sums", "scripted:sums", calibration=None) as a1, pytest.raises(ValueError, match="empty"):
        list(a1.stream(" "))


def test_the_last_event_of_a_stream_is_the_result() -> None:
    assert isinstance(told(2)[1][-1], VoteClosed)
