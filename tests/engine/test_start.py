"""Chains that begin as the vote needs them: the same answers, from fewer tokens."""

import random
from typing import Any

import pytest

from a1agent import A1, ChainStarted, Result
from a1agent.backends.scripted import ScriptedBackend, Sums
from tests.doubles import SUM, sums_pair

BOXED = f"{SUM} Put it in \\boxed{{}}."


async def ask(accuracy: float = 1.0, question: str = BOXED, **options: Any) -> Result:
    draft, target = sums_pair(accuracy)
    async with A1(draft, target, calibration=None, **{"min_step_tokens": 0, "seed": 4, **options}) as a1:
        result = await a1.asolve(question)
    assert draft.counters.sequences_alive == target.counters.sequences_alive == 0
    return result


@pytest.mark.anyio
@pytest.mark.parametrize(("rule", "most"), [("exact", 5), ("beta", 4)])
async def test_chains_that_agree_are_all_it_takes(rule: str, most: int) -> None:
    result = await ask(chains=8, start="needed", early_stop=rule, rejection_rate=0.0)
    everyone = await ask(chains=8, early_stop="off", rejection_rate=0.0)
    assert result.stats.chains_started <= most
    assert result.answer == everyone.answer
    assert result.stats.drafted_tokens < 0.7 * everyone.stats.drafted_tokens
    assert result.confidence == result.stats.chains_started / 8  # those that were spared agree with nobody


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(6))
async def test_where_chains_disagree_further_ones_begin_and_the_answer_is_that_of_all(seed: int) -> None:
    options: dict[str, Any] = {"chains": 9, "rejection_rate": 0.0, "vote": "majority", "seed": seed}
    result = await ask(0.85, start="needed", early_stop="exact", **options)
    everyone = await ask(0.85, early_stop="off", **options)
    assert 5 <= result.stats.chains_started <= 9
    most, *others = sorted(votes(everyone).values(), reverse=True)
    assert result.answer == everyone.answer or most in others  # a tie goes by score


def votes(result: Result) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for chain in result.chains:
        found[chain.answer] = found.get(chain.answer, 0) + 1
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{"early_stop": "off"}, {"vote": "best"}, {"baseline": "ranking"}], ids=str)
async def test_all_chains_begin_at_once_where_the_vote_waits_for_every_one(options: dict[str, Any]) -> None:
    draft, target = sums_pair()
    async with A1(draft, target, calibration=None, chains=6, start="needed", seed=1, **options) as a1:
        events = [event async for event in a1.astream(BOXED)]
    assert [type(e) for e in events[1:7]] == [ChainStarted] * 6


class FailsFirst(Sums):
    """Breaks the first time it is asked to write."""

    broken = False

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        if not FailsFirst.broken:
            FailsFirst.broken = True
            raise RuntimeError("out of ink")
        return super().write(prompt, text, rng)


@pytest.mark.anyio
async def test_a_chain_that_fails_makes_room_for_another() -> None:
    draft, target = ScriptedBackend(FailsFirst(1.0), name="draft"), sums_pair()[1]
    async with A1(draft, target, calibration=None, chains=3, start="needed", min_step_tokens=0, seed=1) as a1:
        stats = (await a1.asolve(BOXED)).stats
    assert (stats.chains_started, stats.chains_failed, stats.chains_finished) == (3, 1, 2)
