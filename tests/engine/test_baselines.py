"""What A1 is measured against: a barrier at every turn, and steps chosen by chance."""

import asyncio
from typing import Any

import pytest

from a1agent import A1
from a1agent.backends.scripted import ScriptedBackend, Sums
from a1agent.engine.ranking import Ranking
from a1agent.events import StepDrafted, StepVerified, VoteClosed
from a1agent.types import Result
from tests.doubles import SUM, Failing, Fixed, sums_pair

pytestmark = pytest.mark.anyio
COMMON: dict[str, Any] = {"calibration": None, "seed": 3, "chains": 8, "early_stop": "off"}


async def ask(a1: A1, **options: Any) -> tuple[Result, list[Any]]:
    events = [event async for event in a1.astream(SUM, **options)]
    assert isinstance(events[-1], VoteClosed)
    return events[-1].result, events


async def test_the_worst_scores_of_a_turn_are_rejected_once_all_chains_are_there() -> None:
    ranking = Ranking(4, 0.5)
    waiting = [asyncio.create_task(ranking.decide(chain, score)) for chain, score in enumerate([1.0, 9.0, 2.0])]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    last = await ranking.decide(3, 5.0)
    decisions = [*[await task for task in waiting], last]
    assert [d.rejected for d in decisions] == [False, True, False, True]
    assert [d.p_value for d in decisions] == [1.0, 0.25, 0.75, 0.5]


async def test_a_share_that_is_no_whole_number_is_carried_over() -> None:
    ranking = Ranking(3, 0.25)
    rejected = 0
    for turn in range(40):
        decisions = await asyncio.gather(*(ranking.decide(chain, float(chain + turn)) for chain in range(3)))
        rejected += sum(d.rejected for d in decisions)
    assert rejected == 30


async def test_a_chain_that_has_ended_is_waited_for_no_more() -> None:
    ranking = Ranking(2, 0.5)
    waiting = asyncio.create_task(ranking.decide(0, 1.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    ranking.leave(1)
    assert (await waiting).calibration_size == 0


async def test_a_score_that_is_not_finite_is_rejected_beside_the_share() -> None:
    ranking = Ranking(3, 0.0)
    decisions = await asyncio.gather(*(ranking.decide(i, s) for i, s in enumerate([1.0, float("nan"), 2.0])))
    assert [d.rejected for d in decisions] == [False, True, False]
    assert decisions[1].forced


async def test_with_a_ranking_every_turn_is_drafted_by_all_before_any_is_decided() -> None:
    async with A1(*sums_pair(jitter=20), rejection_rate=0.25, baseline="ranking", **COMMON) as a1:
        result, events = await ask(a1)
    steps = [(type(e), e.turn) for e in events if isinstance(e, StepDrafted | StepVerified)]
    for turn in range(max(t for _, t in steps) + 1):
        first = steps.index((StepVerified, turn))
        drafted_before = steps[:first].count((StepDrafted, turn))
        assert drafted_before == steps.count((StepDrafted, turn))
    assert result.stats.observed_rate == pytest.approx(0.25, abs=0.02)
    assert result.stats.chains_finished == 8


async def test_a_ranking_goes_on_when_a_chain_fails() -> None:
    target = ScriptedBackend(Sums(1.0))
    async with A1(ScriptedBackend(Failing(2)), target, baseline="ranking", **COMMON) as a1:
        result, _ = await ask(a1)
    assert (result.stats.chains_failed, result.stats.chains_finished) == (2, 6)


async def test_chance_rejects_as_many_steps_and_does_not_look_at_the_scores() -> None:
    async with A1(*sums_pair(), rejection_rate=0.3, **COMMON) as a1:
        chosen = [await ask(a1, seed=seed) for seed in range(12)]
        chance = [await ask(a1, seed=seed, baseline="random") for seed in range(12)]
    rates = [sum(r.stats.rejections for r, _ in runs) for runs in (chosen, chance)]
    steps = [sum(r.stats.verifications for r, _ in runs) for runs in (chosen, chance)]
    assert rates[0] / steps[0] == pytest.approx(0.3, abs=0.03) == rates[1] / steps[1]
    by_score, by_chance = (mean_selectivity([r for r, _ in runs]) for runs in (chosen, chance))
    assert by_score > 0.85 and 0.35 < by_chance < 0.65


def mean_selectivity(results: list[Result]) -> float:
    known = [r.stats.selectivity for r in results if r.stats.selectivity is not None]
    return sum(known) / len(known)


async def test_chance_leaves_the_scores_of_the_chains_as_they_are() -> None:
    fixed = ScriptedBackend(Fixed("The answer is \\boxed{3}.", score=0.7))
    async with A1(fixed, fixed, baseline="random", rejection_rate=0.0, **COMMON) as a1:
        result, _ = await ask(a1)
    assert {score for chain in result.chains for score in chain.scores} == {0.7}
