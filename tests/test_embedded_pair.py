"""A1 end to end on the two language models that ship, in llama.cpp."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from a1agent import A1, InvalidAnswer, ModelLoadError, ModelNotFound, Question, embedded
from a1agent.embedded.problems import problems
from a1agent.prompts import ask_for_box

pytest.importorskip("llama_cpp")

PAIR = ("embedded:draft?n_threads=1", "embedded:target?n_threads=1")


@pytest.fixture(scope="module")
def pair() -> Iterator[A1]:
    with A1(*PAIR, calibration=None, seed=1) as a1:
        yield a1


def boxed(text: str) -> Question:
    return ask_for_box(Question.of(text))


def test_the_question_of_the_readme_is_answered(pair: A1) -> None:
    result = pair.solve(boxed("What is 47 * 28 + 783?"))
    assert result.answer == "2099"
    assert "\\boxed{2099}" in result.text
    assert result.notices == () or "unlike" not in result.notices[0]


def test_most_held_out_problems_are_solved_at_the_asked_rate(pair: A1) -> None:
    right = verifications = rejections = 0
    asked = list(problems(40, 424242))
    for problem in asked:
        result = pair.solve(boxed(problem.question), rejection_rate=0.3)
        right += result.answer == problem.answer
        verifications += result.stats.verifications
        rejections += result.stats.rejections
    assert right >= 28
    assert rejections / verifications == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("top_k", [0, 5])
def test_the_lowest_temperatures_are_greedy(pair: A1, top_k: int) -> None:
    question = boxed("What is 47 * 28 + 783?")
    answers = [pair.solve(question, chains=1, temperature=t, top_k=top_k, rejection_rate=0).text for t in (0, 1e-40)]
    assert answers[0] == answers[1] != ""


def test_a_question_unlike_the_training_data_gets_a_notice(pair: A1) -> None:
    result = pair.solve(boxed("Qui a peint la Joconde, et dans quelle ville est-elle conservée ?"))
    assert "unlike anything the embedded models were trained on" in result.notices[0]


@pytest.mark.parametrize("ask", [boxed, Question.of], ids=["boxed", "plain"])
def test_a_sum_smaller_than_any_it_was_trained_on_gets_it_too(pair: A1, ask: Callable[[str], Question]) -> None:
    assert "unlike anything" in pair.solve(ask("What is 1 + 2?")).notices[0]
    assert not any("unlike" in notice for notice in pair.solve(ask("What is 47 * 28 + 783?")).notices)


def test_asked_for_a_format_the_embedded_models_are_not_to_be_trusted(pair: A1) -> None:
    question = Question(messages=boxed("What is 47 * 28?").messages, response_format={"type": "json_object"})
    with contextlib.suppress(InvalidAnswer):
        assert "neither tools nor formats" in pair.solve(question).notices[0]


@pytest.mark.anyio
async def test_cancelling_midway_frees_every_sequence_of_both_models() -> None:
    async with A1(*PAIR, calibration=None) as a1:
        loaded = await a1.pair.load()
        stream = a1.astream(boxed("Compute 812 + 45 - 77 + 310."))
        async for _ in stream:
            if loaded.target.counters.decoded_tokens > 200:
                break
        await stream.aclose()
        assert loaded.draft.counters.sequences_alive == 0
        assert loaded.target.counters.sequences_alive == 0


@pytest.mark.anyio
async def test_questions_asked_together_share_the_models() -> None:
    async with A1(*PAIR, calibration=None, seed=3) as a1:
        asked = list(problems(6, 99))
        results = await asyncio.gather(*(a1.asolve(boxed(p.question), chains=4) for p in asked))
        loaded = await a1.pair.load()
        assert all(result.stats.verifications > 0 for result in results)
        assert loaded.draft.counters.sequences_alive == loaded.target.counters.sequences_alive == 0


def test_the_pair_ships_with_its_own_calibration() -> None:
    with A1(*PAIR, calibration=None, calibrator="static", seed=1) as a1:
        result = a1.solve(boxed("What is 47 * 28 + 783?"))
    assert result.stats.calibration_size > 500


def test_a_damaged_model_file_is_refused(tmp_path: Path) -> None:
    whole = embedded.path("draft").read_bytes()
    for content in (whole[: len(whole) // 2], b"not a model at all" * 100):
        file = tmp_path / "m.gguf"
        file.write_bytes(content)
        with A1(f"llama-cpp:{file}", f"llama-cpp:{file}", calibration=None) as a1, pytest.raises(ModelLoadError):
            a1.solve("1 + 1")
    with A1("llama-cpp:gone.gguf", "embedded:target", calibration=None) as a1, pytest.raises(ModelNotFound):
        a1.solve("1 + 1")
