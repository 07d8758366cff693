"""A call that is cancelled, at whatever moment and however often, frees all it held before it returns."""

import asyncio

import pytest

from a1agent import A1
from a1agent.engine.finish import finish
from tests.doubles import SUM, sums_pair

pytestmark = pytest.mark.anyio

MOMENTS = range(100)


async def cancel_after(task: asyncio.Task[object], moment: int) -> None:
    for turn in range(moment):
        await asyncio.sleep(0.0005 if turn < 10 else 0)  # a call begins in threads, which take no turns of the loop
    task.cancel()


async def cancel_again_and_again(task: asyncio.Task[object], moment: int) -> None:
    """As the cancel scopes of anyio do."""
    await cancel_after(task, moment)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


async def consume(a1: A1) -> None:
    async for _ in a1.astream(SUM):
        pass


@pytest.mark.parametrize("cancel", [cancel_after, cancel_again_and_again])
@pytest.mark.parametrize("call", [A1.asolve, consume])
async def test_nothing_is_left_whenever_a_call_is_cancelled(call, cancel) -> None:
    draft, target = sums_pair(jitter=2)
    async with A1(draft, target, calibration=None, min_step_tokens=0, chains=4, seed=1) as a1:
        await a1.asolve(SUM)
        for moment in MOMENTS:
            task = asyncio.create_task(a1.asolve(SUM) if call is A1.asolve else consume(a1))
            await cancel(task, moment)
            await asyncio.gather(task, return_exceptions=True)
            alive = draft.counters.sequences_alive + target.counters.sequences_alive
            assert alive == 0, f"{alive} sequences left when cancelled after {moment} steps of the loop"


def test_what_has_to_be_finished_is_also_when_its_event_loop_ends() -> None:
    finished: list[bool] = []

    async def work() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        finished.append(True)

    async def begin() -> None:
        tasks.append(asyncio.create_task(finish(work())))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(begin())  # cancels whatever runs
    assert tasks[0].cancelled()
    assert finished == [True]
