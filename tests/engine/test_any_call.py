"""Calls of every kind, drawn at random: with whatever options, models that fail and callers that leave, the books
balance and nothing is left behind."""

import asyncio
import hashlib
import math
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from a1agent import (
    A1,
    A1Error,
    ChainFinished,
    ChainStarted,
    Event,
    QuestionOpened,
    Result,
    StepAccepted,
    StepDrafted,
    StepTakenOver,
    StepVerified,
    VoteClosed,
)
from a1agent.backends.scripted import ScriptedBackend
from a1agent.config import Options
from a1agent.conformal.store import summary_of
from a1agent.events import StepDropped
from a1agent.fold import StatsFold

pytestmark = pytest.mark.anyio

PIECES = (
    "a b c",
    "word " * 9,
    "\u2211 \u00fc",
    "STOP",
    "\n\n",
    "\n",
    "<think>",
    "</think>",
    "\\boxed{1}",
    "\\boxed{2}",
    "",
)


@dataclass(frozen=True)
class Erratic:
    """Writes anything, fails now and then, and scores some steps as nothing that is a number."""

    seed: int
    failing: float
    strange: float

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        if rng.random() < self.failing:
            raise OSError("the model fell over")
        return "".join(rng.choices(PIECES, k=rng.randint(0, 6)))

    def nll(self, prompt: str, text: str, step: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}\0{text}\0{step}".encode(), digest_size=4).digest()
        share = int.from_bytes(digest, "little") / 2**32
        return math.nan if share < self.strange else 3 * share


class Recorded(StatsFold):
    """Keeps the events of a call, those included that its caller did not wait for."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        self.events.append(event)
        super().add(event)


def model(rng: random.Random, name: str) -> ScriptedBackend:
    script = Erratic(rng.randrange(99), rng.choice([0, 0, 0.05, 0.5]), rng.choice([0, 0.1, 1]))
    return ScriptedBackend(
        script,
        name=name,
        context_length=rng.choice([65536, 400]),
        at_once=rng.choice([None, 3]),
        processor=name,
        reuses_prefix=rng.random() < 0.8,
        jitter=rng.choice([0, 3]),
        arrival_seed=rng.randrange(99),
    )


def options(rng: random.Random) -> dict[str, Any]:
    return {
        "chains": rng.choice([1, 3, 8]),
        "turns": rng.choice([1, 3, 8]),
        "rejection_rate": rng.choice([0, 0.3, 0.3, 1]),
        "takeover": rng.choice(["rewrite", "rollback", "continue", "resample"]),
        "vote": rng.choice(["auto", "majority", "temporal", "best"]),
        "start": rng.choice(["all", "needed"]),
        "early_stop": rng.choice(["exact", "beta", "off"]),
        "lookahead": rng.choice(["auto", "off"]),
        "coverage": rng.choice(["marginal", "conditional"]),
        "step_tokens": rng.choice([512, 5]),
        "min_step_tokens": rng.choice([0, 20]),
        "max_tokens": rng.choice([None, None, 40]),
        "stop": rng.choice([(), ("STOP",)]),
        "seed": rng.choice([None, 1]),
    }


async def ask(a1: A1, leaves_after: float) -> Result | None:
    """The result of a call whose caller leaves after so many events, if it gives one."""
    events = a1.astream("1 + 2 = ? Put it in \\boxed{}.")
    seen = 0
    try:
        async for event in events:
            if isinstance(event, VoteClosed):
                return event.result
            seen += 1
            if seen > leaves_after:
                return None
    except (A1Error, OSError):
        return None
    finally:
        await events.aclose()
    return None


@pytest.mark.parametrize("seed", range(40))
async def test_the_books_balance_and_nothing_is_left(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, folds = random.Random(seed), list[Recorded]()
    monkeypatch.setattr("a1agent.agent.StatsFold", lambda given: folds.append(Recorded(given)) or folds[-1])
    others = asyncio.all_tasks()
    draft, target, chosen = model(rng, "draft"), model(rng, "target"), options(rng)
    async with A1(draft, target, calibration=tmp_path / "calibration.db", **chosen) as a1:
        leaving = [rng.choice([math.inf, math.inf, rng.randrange(40)]) for _ in range(5)]
        results = await asyncio.gather(*(ask(a1, after) for after in leaving))
    assert draft.counters.sequences_alive == target.counters.sequences_alive == 0
    assert asyncio.all_tasks() == others
    for fold in folds:
        balance(fold)
    told = [fold.stats(0.0) for fold in folds]
    assert all(result.stats.model_copy(update={"wall_s": 0.0}) in told for result in results if result is not None)
    scored = sum(stats.verifications - stats.non_finite_scores for stats in told)
    stored = await asyncio.to_thread(summary_of, tmp_path / "calibration.db")
    assert sum(entry.scores for entry in stored) == scored


def balance(fold: Recorded) -> None:
    """The numbers of a call are those of its events, and each of its chains tells a whole story."""
    stats, usage = fold.stats(1.0), fold.usage()
    events: dict[type, list[Any]] = defaultdict(list)
    stories: dict[int, list[Any]] = defaultdict(list)
    for event in fold.events:
        events[type(event)].append(event)
        if not isinstance(event, QuestionOpened):
            stories[event.chain].append(event)
    drafted = sum(e.step.tokens + e.trimmed_tokens for e in events[StepDrafted])
    assert stats.drafted_tokens == drafted + sum(e.tokens for e in events[StepDropped]) == usage.draft.output_tokens
    assert stats.drafted_tokens == stats.kept_tokens + stats.discarded_tokens
    assert stats.verifications == len(events[StepVerified]) == sum(stats.p_value_histogram) + stats.non_finite_scores
    assert stats.rejections == sum(e.verdict.rejected for e in events[StepVerified])
    assert stats.target_tokens == sum(e.step.tokens for e in events[StepTakenOver])
    assert stats.chains_started == stats.chains_finished + stats.chains_cancelled + stats.chains_failed
    assert sorted(stories) == list(range(stats.chains_started))
    kept = sum(tell(story) for story in stories.values())
    assert stats.kept_tokens == kept


def tell(story: list[Any]) -> int:
    """Follows a chain from its start to its end; how many of the draft's tokens stand in it."""
    first, *steps, last = story
    assert isinstance(first, ChainStarted) and isinstance(last, ChainFinished)
    ends = [event for event in steps if isinstance(event, StepAccepted | StepTakenOver)]
    assert [event.turn for event in ends] == [turn.index for turn in last.result.turns] == list(range(len(ends)))
    kept = sum(end.step.tokens if isinstance(end, StepAccepted) else end.kept_tokens for end in ends)
    written = sum(end.step.tokens for end in ends if isinstance(end, StepTakenOver))
    assert last.result.token_count == kept + written
    return kept
