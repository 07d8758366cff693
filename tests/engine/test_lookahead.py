"""Looking ahead: the draft writes on while the target reads, and nothing but the clock may tell."""

import asyncio
from typing import Any

import pytest

from a1agent import A1, Event, Result, StepDropped
from a1agent.models import Loaded
from tests.doubles import SUM, sums_pair
from tests.simulated import DRAFT_1B, TARGET_32B, Costs, Strides, run_virtual, simulated


def texts(result: Result) -> list[tuple[str, list[tuple[str, bool]]]]:
    return [(c.text, [(t.drafted.text, t.taken_over is not None) for t in c.turns]) for c in result.chains]


async def ask(lookahead: str, **options: Any) -> tuple[Result, list[Event]]:
    draft, target = sums_pair(jitter=3)
    events: list[Event] = []
    async with A1(draft, target, calibration=None, min_step_tokens=0, seed=11, lookahead=lookahead, **options) as a1:
        async for event in a1.astream(SUM):
            events.append(event)
    assert draft.counters.sequences_alive == target.counters.sequences_alive == 0
    return events[-1].result, events  # type: ignore[union-attr]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "options",
    [
        {"chains": 1},
        {"chains": 6, "calibrator": "static"},
        {"chains": 1, "takeover": "continue"},
        {"chains": 1, "takeover": "rollback"},
        {"chains": 1, "takeover": "resample", "rejection_rate": 0.6},
        {"chains": 1, "turns": 3},
        {"chains": 1, "max_tokens": 60},
        {"chains": 1, "verify_rate": 0.5},
    ],
    ids=str,
)
async def test_it_never_changes_what_is_written_or_accepted(options: dict[str, Any]) -> None:
    options = {"early_stop": "off", "rejection_rate": 0.4, **options}
    (without, _), (with_it, _) = await ask("off", **options), await ask("on", **options)
    assert texts(without) == texts(with_it)
    assert without.answer == with_it.answer


@pytest.mark.anyio
async def test_what_was_written_for_nothing_is_counted() -> None:
    result, events = await ask("on", chains=8, rejection_rate=0.5, early_stop="off")
    dropped = [e for e in events if isinstance(e, StepDropped)]
    stats = result.stats
    assert dropped and all(e.tokens > 0 for e in dropped)
    assert stats.drafted_tokens == stats.kept_tokens + stats.discarded_tokens
    without, _ = await ask("off", chains=8, rejection_rate=0.5, early_stop="off")
    assert without.stats.discarded_tokens < stats.discarded_tokens


@pytest.mark.anyio
async def test_cancelling_ends_what_is_written_ahead() -> None:
    draft, target = sums_pair(jitter=4)
    async with A1(draft, target, calibration=None, min_step_tokens=0, chains=4, lookahead="on") as a1:
        await a1.asolve(SUM)
        for moment in range(0, 60, 3):
            task = asyncio.create_task(a1.asolve(SUM))
            for turn in range(moment):
                await asyncio.sleep(0.0005 if turn < 8 else 0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert draft.counters.sequences_alive == target.counters.sequences_alive == 0


def test_it_is_on_where_the_models_do_not_share_a_processor() -> None:
    apart = Loaded(simulated(Strides(), DRAFT_1B, "one"), simulated(Strides(), TARGET_32B, "two"), False)
    shared = Loaded(*sums_pair(), False)
    for loaded, expected in ((apart, True), (shared, False)):
        with A1(loaded.draft, loaded.target, calibration=None) as a1:
            assert loaded.looks_ahead(a1.options) is expected


def seconds(lookahead: str, target_costs: Costs) -> float:
    draft, target = simulated(Strides(), DRAFT_1B, "draft"), simulated(Strides(), target_costs, "target")

    async def work() -> None:
        options = {"chains": 1, "rejection_rate": 0.0, "lookahead": lookahead}
        async with A1(draft, target, calibration=None, seed=5, min_step_tokens=0, **options) as a1:
            for n in range(4):
                await a1.asolve(f"Question {n}")

    return run_virtual(work())[1]


def test_the_draft_does_not_wait_for_a_target_on_another_server() -> None:
    """What is saved is the time of reading, as far as the next step takes as long."""
    quick, slow = TARGET_32B, Costs(step=0.028, sequence=0.0003, read=400)
    assert seconds("auto", quick) < 0.97 * seconds("off", quick)
    assert seconds("auto", slow) < 0.75 * seconds("off", slow)
