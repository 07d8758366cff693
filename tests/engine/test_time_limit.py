"""A time limit bounds the whole call: the vote too waits for nobody once it has passed, and nothing is lost by it."""

import asyncio

import pytest

from a1agent import A1, Question, SolveError, TimedOut
from a1agent.backends.scripted import Replies, ScriptedBackend
from a1agent.engine.equivalence import Equivalence
from a1agent.prompts import ask_for_box
from tests.doubles import LIMIT_S, Clock, Late, NeverReads

pytestmark = pytest.mark.anyio

BOXED = ask_for_box(Question.of("What is it?"))
EXPRESSIONS = Replies(("\\boxed{x+1}", "\\boxed{1+x}", "\\boxed{x+2}", "\\boxed{x+3}"))


class SlowJudge:
    """Takes long for each pair, and finds all equal; `given_up`: pairs that nobody waits for any more."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.pairs = self.given_up = 0

    async def equal(self, a: str, b: str) -> bool | None:
        self.pairs += 1
        self.asked.release()
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return True

    async def aclose(self) -> None:
        pass


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> SlowJudge:
    judge = SlowJudge()
    monkeypatch.setattr("a1agent.agent.Equivalence", lambda: Equivalence(judge))
    return judge


def agent(model: ScriptedBackend, chains: int = 8) -> A1:
    return A1(model, model, calibration=None, seed=1, min_step_tokens=0, chains=chains, early_stop="off")


async def test_answers_that_are_compared_when_time_is_up_are_voted_on_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch, judge: SlowJudge
) -> None:
    clock, model = Clock(monkeypatch), ScriptedBackend(EXPRESSIONS, jitter=3)
    async with agent(model) as a1:
        call = asyncio.create_task(a1.asolve(BOXED, timeout_s=LIMIT_S, vote="majority"))
        await judge.asked.acquire()
        clock.pass_limit()
        result = await call
    assert (judge.pairs, judge.given_up) == (1, 1)
    assert not result.complete
    answers = [chain.answer for chain in result.chains if chain.end != "timeout"]
    assert len(set(answers)) > 1
    assert result.answer in answers
    assert result.confidence == sum(chain.answer == result.answer for chain in result.chains) / 8
    assert model.counters.sequences_alive == 0


async def test_a_call_that_is_cancelled_waits_for_no_comparison(judge: SlowJudge) -> None:
    model = ScriptedBackend(EXPRESSIONS, jitter=3)
    async with agent(model) as a1:
        call = asyncio.create_task(a1.asolve(BOXED))
        await judge.asked.acquire()
        call.cancel()
        await asyncio.wait([call])
    assert call.cancelled()
    assert (judge.pairs, judge.given_up) == (1, 1)
    assert model.counters.sequences_alive == 0


async def test_a_chain_that_ends_as_time_runs_out_keeps_its_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedBackend(Late(Clock(monkeypatch).pass_limit))
    async with agent(model, chains=1) as a1:
        result = await a1.asolve(BOXED, timeout_s=LIMIT_S)
    assert [(chain.end, chain.answer) for chain in result.chains] == [("ended", "4")]
    assert result.answer == "4"
    assert model.counters.sequences_alive == 0


async def test_a_chain_that_fails_as_time_runs_out_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def fall() -> None:
        clock.pass_limit()
        raise OSError("the model fell over")

    model = ScriptedBackend(Late(fall))
    async with agent(model, chains=1) as a1:
        with pytest.raises(SolveError, match="the model fell over") as caught:
            await a1.asolve(BOXED, timeout_s=LIMIT_S)
    assert [type(cause) for cause in caught.value.causes] == [OSError]
    assert caught.value.stats is not None
    assert caught.value.stats.chains_failed == 1
    assert model.counters.sequences_alive == 0


async def test_a_limit_that_passes_before_the_prompt_is_read_is_an_error_of_its_own() -> None:
    model = ScriptedBackend(Late(lambda: None), service=NeverReads())
    async with agent(model, chains=1) as a1:
        with pytest.raises(TimedOut, match="before the prompt was read"):
            await a1.asolve(BOXED, timeout_s=0.01)
    assert model.counters.sequences_alive == 0
