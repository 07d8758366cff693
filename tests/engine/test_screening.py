"""Screening: the draft's own scores say which steps the target reads."""

import math
from typing import Any

import pytest

from a1agent import A1, InvalidOption, StepAccepted, StepVerified
from a1agent.backends.base import Generated
from a1agent.backends.scripted import ScriptedBackend
from a1agent.engine import attempt
from a1agent.engine.chain import Call, Chain
from a1agent.engine.screen import passes_unread
from a1agent.engine.verify import score_of
from tests.doubles import Fixed, sums_pair

pytestmark = pytest.mark.anyio

QUESTIONS = [f"What is {n} + {3 * n} + {n + 7} + 5 + 11?" for n in range(40)]


async def test_the_asked_share_of_steps_is_scored_and_the_rest_accepted_unscored() -> None:
    draft, target = sums_pair()
    async with A1(draft, target, calibration=None, min_step_tokens=0, seed=3, early_stop="off") as a1:
        results = [await a1.asolve(q, verify_rate=0.4, rejection_rate=0.25) for q in QUESTIONS]
    scored = sum(r.stats.verifications for r in results)
    unscored = sum(r.stats.unverified for r in results)
    taken = sum(r.stats.rejections for r in results)
    assert scored / (scored + unscored) == pytest.approx(0.4, abs=0.02)
    assert taken / scored == pytest.approx(0.25, abs=0.03)
    turns = [turn for r in results for chain in r.chains for turn in chain.turns]
    assert sum(turn.verdict is None for turn in turns) == unscored
    assert all(turn.taken_over is None for turn in turns if turn.verdict is None)


async def test_of_a_draft_that_tells_no_scores_none_is_read_where_none_is_to_be() -> None:
    draft, target = (
        ScriptedBackend(Fixed("I say \\boxed{1}.", score=math.nan)),
        ScriptedBackend(Fixed("I say \\boxed{2}.")),
    )
    async with A1(draft, target, calibration=None, min_step_tokens=0, chains=3, rejection_rate=0.0) as a1:
        some, none = [(await a1.asolve("What?", verify_rate=share)).stats for share in (0.2, 0.0)]
    assert some.verifications > 0 and none.verifications == 0 < none.unverified


async def test_the_events_say_which_steps_nobody_scored() -> None:
    draft, target = sums_pair()
    async with A1(draft, target, calibration=None, min_step_tokens=0, seed=3) as a1:
        events = [event async for event in a1.astream(QUESTIONS[0], verify_rate=0.5, rejection_rate=0.0)]
    accepted = [e for e in events if isinstance(e, StepAccepted)]
    verified = {(e.chain, e.turn) for e in events if isinstance(e, StepVerified)}
    assert {(e.chain, e.turn) for e in accepted if e.verified} <= verified
    assert {(e.chain, e.turn) for e in accepted if not e.verified}.isdisjoint(verified)
    assert 0 < sum(not e.verified for e in accepted) < len(accepted)


async def test_the_steps_that_are_scored_are_those_strange_to_the_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, list[float]] = {True: [], False: []}

    async def watched(call: Call, chain: Chain, turn: int, drafted: Generated) -> bool:
        unread = await passes_unread(call, chain, turn, drafted)
        seen[unread].append(score_of(call, drafted.logprobs, drafted.end))
        return unread

    monkeypatch.setattr(attempt, "passes_unread", watched)
    async with A1(calibration=None, seed=5, chains=4, early_stop="off", rejection_rate=0.0) as a1:
        for n in range(12):
            await a1.asolve(f"What is {37 + n} * 28 + 783?", verify_rate=0.5)
    ranks = [(r > u) + (r == u) / 2 for r in seen[False] for u in seen[True]]
    assert sum(ranks) / len(ranks) > 0.85


async def test_every_text_reaches_the_target_whether_it_is_scored_or_not() -> None:
    """Scores of later steps are those of a target that has read all that stands before them."""
    async with A1(calibration=None, seed=7, chains=2, early_stop="off", rejection_rate=0.0, temperature=0.0) as a1:
        whole = await a1.asolve("What is 47 * 28 + 783?")
        part = await a1.asolve("What is 47 * 28 + 783?", verify_rate=0.5)
    assert [c.text for c in whole.chains] == [c.text for c in part.chains]
    pairs = [
        (a.verdict.score, b.verdict.score)
        for one, other in zip(whole.chains, part.chains, strict=True)
        for a, b in zip(one.turns, other.turns, strict=True)
        if a.verdict is not None and b.verdict is not None
    ]
    assert pairs and part.stats.unverified > 0
    assert all(a == pytest.approx(b, abs=1e-3) for a, b in pairs)
    assert part.stats.scored_tokens < whole.stats.scored_tokens


async def test_a_model_that_judges_itself_scores_everything_for_nothing() -> None:
    async with A1("embedded:target", "same", calibration=None, seed=1, chains=2, takeover="resample") as a1:
        with pytest.raises(InvalidOption, match=r"verify_rate is 0\.3 and the target the draft itself"):
            await a1.asolve("What is 47 * 28 + 783?", verify_rate=0.3)
        alone = await a1.asolve("What is 47 * 28 + 783?", verify_rate=0.0, rejection_rate=0.0)
    assert alone.stats.unverified == 0


@pytest.mark.parametrize("options", [{"verify_rate": 0.5}, {"lookahead": "on"}])
def test_a_ranking_can_neither_be_screened_nor_look_ahead(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="ranking"):
        A1(**options, baseline="ranking")
