"""A model that is its own target, and steps that are drafted anew."""

import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from a1agent import A1, InvalidOption, Question
from a1agent.backends.scripted import ScriptedBackend
from a1agent.events import ChainFinished, Event, StepDrafted, StepTakenOver, StepVerified, VoteClosed
from a1agent.prompts import ask_for_box
from a1agent.types import Result
from tests.doubles import Fixed

QUESTION = ask_for_box(Question.of("What is 47 * 28 + 783?"))
COMMON: dict[str, Any] = {"calibration": None, "seed": 4, "chains": 6, "early_stop": "off"}

pytestmark = pytest.mark.anyio


async def run(a1: A1, **options: Any) -> tuple[Result, list[Event]]:
    events = [event async for event in a1.astream(QUESTION, **options)]
    last = events[-1]
    assert isinstance(last, VoteClosed)
    return last.result, events


def finished(result: Result) -> dict[int, list[float]]:
    return {chain.index: [turn.verdict.score for turn in chain.turns] for chain in result.chains}


async def test_what_it_writes_is_scored_as_another_copy_of_it_would_score_it() -> None:
    async with A1("embedded:draft", "same", rejection_rate=0.0, **COMMON) as own:
        result, _ = await run(own)
    async with A1("embedded:draft", "embedded:draft?n_batch=300", rejection_rate=0.0, **COMMON) as apart:
        expected, _ = await run(apart)
    assert [chain.text for chain in result.chains] == [chain.text for chain in expected.chains]
    for index, scores in finished(result).items():
        assert scores == pytest.approx(finished(expected)[index], abs=1e-3)


async def test_it_reads_nothing_twice() -> None:
    async with A1("embedded:draft", "same", rejection_rate=0.3, **COMMON) as own:
        result, _ = await run(own)
        loaded = await own.pair.load()
        counters: Any = loaded.draft
        decoded = counters.counters.decoded_tokens
    usage = result.usage
    assert usage.target.scored_tokens == usage.target.prompt_tokens == 0
    written = usage.draft.output_tokens + usage.target.output_tokens
    # a fork, a step whose surplus was dropped, and a chain taken back each decode the one token before them again
    again = COMMON["chains"] + result.stats.verifications + result.stats.rejections
    assert decoded <= usage.draft.prompt_tokens + written + again < usage.draft.prompt_tokens + 1.2 * written


@dataclass
class Declining:
    """Of each attempt at a step the next one is stranger. Keeps the texts that it was to go on from."""

    attempts: int = 0
    seen: list[str] = field(default_factory=list[str])

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        self.seen.append(text)
        self.attempts += 1
        return f"attempt {self.attempts}\n\nand so on\n\n"

    def nll(self, prompt: str, text: str, step: str) -> float:
        return float(re.findall(r"\d+", step)[0])


async def test_both_models_go_on_from_the_best_attempt_whichever_came_last() -> None:
    script = Declining()
    options = {
        "takeover": "resample",
        "attempts": 3,
        "rejection_rate": 1.0,
        "chains": 1,
        "turns": 3,
        "lookahead": "off",
    }
    draft, target = ScriptedBackend(script), ScriptedBackend(script)
    async with A1(draft, target, calibration=None, min_step_tokens=0, **options) as a1:
        await run(a1)
    assert script.seen[:9] == [
        *([""] * 3),
        *(["attempt 1\n\n"] * 3),
        *(["attempt 1\n\nattempt 4\n\n"] * 3),
    ]


@pytest.mark.parametrize("target", ["same", "embedded:target"])
async def test_a_rejected_step_is_drafted_anew_until_one_is_accepted_or_the_best_stands(target: str) -> None:
    async with A1("embedded:draft", target, rejection_rate=0.5, takeover="resample", attempts=3, **COMMON) as a1:
        result, events = await run(a1)
    tried: dict[tuple[int, int], list[StepVerified]] = defaultdict(list)
    for event in events:
        if isinstance(event, StepVerified):
            tried[event.chain, event.turn].append(event)
    assert max(len(attempts) for attempts in tried.values()) == 3
    for chain in result.chains:
        assert chain.text == "".join(turn.drafted.text for turn in chain.turns)
        for turn in chain.turns:
            attempts = [event.verdict for event in tried[chain.index, turn.index]]
            assert all(verdict.rejected for verdict in attempts[:-1])
            if attempts[-1].rejected:
                assert turn.verdict == min(attempts, key=lambda verdict: verdict.score)
            else:
                assert turn.verdict == attempts[-1]
    stats = result.stats
    assert stats.verifications == sum(len(attempts) for attempts in tried.values())
    drafted = sum(e.step.tokens + e.trimmed_tokens for e in events if isinstance(e, StepDrafted))
    assert stats.drafted_tokens == drafted == stats.kept_tokens + stats.discarded_tokens
    ended = [e.result for e in events if isinstance(e, ChainFinished)]
    assert stats.kept_tokens == sum(turn.drafted.tokens for chain in ended for turn in chain.turns)
    assert stats.target_tokens == 0


async def test_a_score_that_is_no_number_stands_only_when_all_are() -> None:
    draft = ScriptedBackend(Fixed("I say \\boxed{1}."))
    target = ScriptedBackend(Fixed("I say \\boxed{2}.", score=float("nan")))
    async with A1(draft, target, takeover="resample", min_step_tokens=0, rejection_rate=0.2, **COMMON) as a1:
        result, _ = await run(a1)
    assert result.answer == "1"
    assert result.stats.verifications == result.stats.rejections == 3 * COMMON["chains"]


async def test_the_rate_is_kept_over_all_attempts() -> None:
    options: dict[str, Any] = {**COMMON, "chains": 8, "rejection_rate": 0.3, "takeover": "resample"}
    async with A1("embedded:draft", "same", **options) as own:
        asked = [f"What is {47 + i} * 28 + 783?" for i in range(6)]
        counts = [(await own.asolve(ask_for_box(Question.of(question)))).stats for question in asked]
    rejected, verified = sum(s.rejections for s in counts), sum(s.verifications for s in counts)
    assert abs(rejected / verified - 0.3) < 0.05


async def test_it_writes_on_from_where_it_finds_itself_strange() -> None:
    async with A1("embedded:target", "same", takeover="rollback", rejection_rate=0.5, **COMMON) as own:
        result, events = await run(own)
    assert result.stats.rejections == sum(isinstance(event, StepTakenOver) for event in events) > 0
    assert result.stats.kept_tokens + result.stats.discarded_tokens == result.stats.drafted_tokens
    for chain in result.chains:
        assert chain.text == "".join(
            t.kept + t.taken_over.text if t.taken_over else t.drafted.text for t in chain.turns
        )


async def test_a_model_that_judges_itself_cannot_look_ahead() -> None:
    async with A1("embedded:draft", "same", **COMMON, lookahead="on") as own:
        with pytest.raises(InvalidOption, match="lookahead"):
            await own.asolve(QUESTION)
