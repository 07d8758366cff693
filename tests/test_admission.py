"""The line before a model: who waits, who is let in, and what is given back."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from a1agent import A1
from a1agent.admission import Line, enter
from a1agent.backends.scripted import ScriptedBackend, Sums


async def spin() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def model(at_once: int | None) -> SimpleNamespace:
    class Model(SimpleNamespace):
        __hash__ = object.__hash__

    return Model(info=SimpleNamespace(at_once=at_once))


@pytest.mark.anyio
async def test_questions_are_let_in_whole_and_in_order() -> None:
    line, seen = Line(16), []

    async def ask(name: str, chains: int) -> int:
        places = await line.enter(chains)
        seen.append(name)
        return places

    first = await ask("first", 10)
    large, small = asyncio.create_task(ask("large", 16)), asyncio.create_task(ask("small", 2))
    await spin()
    assert seen == ["first"] and line.waiting == 2  # the small one would fit, but it came later
    line.leave(first)
    await large
    await spin()
    assert seen == ["first", "large"]
    line.leave(16)
    assert await small == 2


@pytest.mark.anyio
async def test_a_question_larger_than_the_line_runs_alone() -> None:
    line = Line(4)
    assert await line.enter(64) == 4
    other = asyncio.create_task(line.enter(1))
    await spin()
    assert not other.done()
    line.leave(4)
    assert await other == 1


@pytest.mark.anyio
async def test_a_cancelled_question_leaves_the_line_and_keeps_no_place() -> None:
    line = Line(4)
    await line.enter(4)
    waiting, admitted = asyncio.create_task(line.enter(3)), asyncio.create_task(line.enter(4))
    await spin()
    waiting.cancel()
    await spin()
    line.leave(4)
    admitted.cancel()  # after it was admitted, before it could know
    await asyncio.gather(waiting, admitted, return_exceptions=True)
    assert line.waiting == 0 and await line.enter(4) == 4


@pytest.mark.anyio
async def test_a_line_that_lost_its_event_loop_lets_the_next_one_in() -> None:
    line = Line(1)
    await line.enter(1)

    def wait_in_a_loop_of_its_own() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(line.enter(1))
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    thread = threading.Thread(target=wait_in_a_loop_of_its_own)
    thread.start()
    thread.join()
    mine = asyncio.create_task(line.enter(1))
    await spin()
    assert line.waiting == 2
    line.leave(1)
    assert await mine == 1


@pytest.mark.anyio
async def test_chains_that_end_make_room_before_their_question_does() -> None:
    small = model(8)
    ticket = await enter([small], 8)
    waiting = asyncio.create_task(enter([small], 3))
    for _ in range(2):
        ticket.chain_ended()
    await spin()
    assert not waiting.done()
    ticket.chain_ended()
    other = await waiting
    ticket.close()
    other.close()
    assert (await enter([small], 8)).queued_s < 1


@pytest.mark.anyio
async def test_two_models_in_either_role_never_wait_for_each_other() -> None:
    one, two, free = model(2), model(2), model(None)

    async def ask(*models: SimpleNamespace) -> None:
        ticket = await enter(models, 2)
        await spin()
        ticket.close()

    async with asyncio.timeout(20):
        await asyncio.gather(*(ask(one, two, free) if i % 2 else ask(two, one) for i in range(40)))


@pytest.mark.anyio
async def test_a_call_says_how_long_it_waited_and_all_are_answered() -> None:
    draft, target = ScriptedBackend(Sums(), at_once=8), ScriptedBackend(Sums())
    async with A1(draft, target, calibration=None, seed=1) as a1:
        results = await asyncio.gather(*(a1.asolve(f"What is {n} + 12 + 30?") for n in range(4)))
    queued = sorted(result.stats.queued_s for result in results)
    assert all(result.answer for result in results)
    assert queued[0] < queued[1] < queued[-1]
