"""What a result says of itself beside the answer."""

import pytest

from a1agent import A1, InvalidAnswer, Message, Question
from a1agent.backends.scripted import ScriptedBackend, Sums
from a1agent.conformal.feedback import RATE_MARGIN, RATE_STEPS
from a1agent.notices import ceiling, off_rate
from tests.bench.made import stats
from tests.doubles import SUM, sums_pair


def test_what_is_said_once_is_said_of_a_call_that_has_an_answer() -> None:
    draft, target = ScriptedBackend(Sums()), ScriptedBackend(Sums(), reuses_prefix=False)
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}}
    told: list[int] = []
    with A1(draft, target, calibration=None, min_step_tokens=0) as a1:
        with pytest.raises(InvalidAnswer):
            a1.solve(Question(messages=(Message(role="user", content=SUM),), response_format=form))
        for _ in range(2):
            notices = a1.solve(SUM).notices
            told.append(sum("reads the whole chain again" in notice for notice in notices))
    assert told == [1, 0]


@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
def test_a_short_call_is_told_of_its_rate_where_conditional_coverage_could_not_keep_it(coverage: str) -> None:
    found: set[bool] = set()
    for seed in range(12):
        with A1(*sums_pair(), calibration=None, seed=seed, chains=1, coverage=coverage, min_step_tokens=0) as a1:
            result = a1.solve("1 + 2 + 3", early_stop="off")
        assert 0 < result.stats.verifications < RATE_STEPS
        assert result.stats.observed_rate is not None
        off = abs(result.stats.observed_rate - result.stats.asked_rate) > RATE_MARGIN
        said = [notice for notice in result.notices if "conditional coverage" in notice]
        assert len(said) == (off and coverage == "conditional")
        found.add(off)
    assert found == {True, False}


def test_a_call_of_enough_steps_is_within_the_margin_and_told_nothing() -> None:
    for seed in range(6):
        with A1(*sums_pair(), calibration=None, seed=seed, coverage="conditional", min_step_tokens=0) as a1:
            result = a1.solve(SUM, early_stop="off")
        assert result.stats.verifications >= RATE_STEPS
        assert not any("conditional coverage" in notice for notice in result.notices)


def test_a_rate_at_the_edge_of_the_margin_is_kept_and_one_beyond_it_is_explained() -> None:
    def said(steps: int, rejected: int) -> list[str]:
        return off_rate(stats(steps, rejected, asked_rate=0.2, coverage="conditional"))

    assert said(20, 1) == said(20, 7) == said(0, 0) == []
    assert len(said(20, 0)) == 1 and "overall rate" in said(20, 0)[0]
    assert len(said(1, 1)) == 1 and "there was 1;" in said(1, 1)[0]
    assert len(said(4, 2)) == 1 and "is 0.50, asked for 0.20" in said(4, 2)[0] and "there were 4;" in said(4, 2)[0]


def test_the_ceiling_of_models_that_run_at_once_is_that_of_the_busier_one() -> None:
    # 1.25 ms to write a token of the target's, 0.5 to draft one, 0.25 to score one; a fifth of the steps is taken over
    assert ceiling(stats()) == pytest.approx(1.25 / (0.5 + 0.25 + 0.2 * 1.25))
    assert ceiling(stats(in_turn=False)) == pytest.approx(1.25 / 0.5)
    assert ceiling(stats(in_turn=False, rejections=20)) == pytest.approx(1.25 / (0.25 + 1.25))


def test_the_ceiling_counts_of_steps_that_were_rolled_back_what_the_target_wrote() -> None:
    rolled_back = stats(target_tokens=30, spared_tokens=10)
    assert ceiling(rolled_back) == pytest.approx(1.25 / (0.5 + 0.25 + 0.2 * 0.75 * 1.25))


@pytest.mark.anyio
@pytest.mark.parametrize("processors", [("one", "one"), ("one", "another"), (None, None)])
async def test_models_with_devices_of_their_own_may_run_at_once(processors: tuple[str | None, str | None]) -> None:
    pair = [ScriptedBackend(Sums(), name=name, processor=each) for name, each in zip("ab", processors, strict=True)]
    async with A1(*pair, calibration=None, min_step_tokens=0) as a1:
        result = await a1.asolve("What is 4 + 5 + 12?")
    assert result.stats.in_turn == (processors == ("one", "one"))
