"""`A1` on scripted models: what a user of the library sees."""

import asyncio
import math
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from a1agent import (
    A1,
    A1Error,
    BackendClosed,
    BackendError,
    CannotRewind,
    CannotScore,
    ChainFinished,
    ChainStarted,
    ContextOverflow,
    Event,
    InvalidOption,
    InvalidQuestion,
    Message,
    Question,
    QuestionOpened,
    Result,
    SolveError,
    StepAccepted,
    StepDrafted,
    StepTakenOver,
    StepVerified,
    VoteClosed,
)
from a1agent.backends.base import Backend
from a1agent.backends.registry import Address
from a1agent.backends.scripted import Replies, Script, ScriptedBackend, ScriptedSequence, Sums
from a1agent.conformal.feedback import RATE_MARGIN
from a1agent.prompts import ask_for_box
from tests.doubles import LIMIT_S, SUM, Clock, Failing, Fixed, Rambling, sums_pair, until

BOXED = ask_for_box(Question.of(SUM))


def agent(accuracy: float = 0.6, **options: Any) -> A1:
    draft, target = sums_pair(accuracy)
    return A1(draft, target, calibration=None, **{"seed": 1, "min_step_tokens": 0, **options})


def test_a_target_that_takes_over_every_step_makes_the_answer_right() -> None:
    with agent(accuracy=0.0, rejection_rate=1.0) as a1:
        result = a1.solve(BOXED)
    assert result.answer == "21"
    assert result.confidence == 1.0
    assert result.stats.observed_rate == 1.0
    assert result.complete


class Closed(ScriptedSequence):
    """Tells its backend what was closed to be resumed."""

    backend: "Resumable"

    async def close(self, *, resumed: bool = True) -> None:
        if self.open and resumed:
            self.backend.resumed.append(self.text)
        await super().close(resumed=resumed)


class Resumable(ScriptedBackend):
    """Lists the texts that were closed to be resumed."""

    sequence_type = Closed

    def __init__(self, script: Script, **options: Any) -> None:
        super().__init__(script, **options)
        self.resumed: list[str] = []


def test_of_all_chains_the_winners_is_kept_for_the_next_turn_of_the_conversation() -> None:
    for seed in range(5):
        draft, target = Resumable(Sums(0.6), name="draft"), Resumable(Sums(), name="target")
        with A1(draft, target, calibration=None, chains=16, min_step_tokens=0, rejection_rate=0.5) as a1:
            result = a1.solve(BOXED, seed=seed)
        for model in (draft, target):
            kept = [text for text in model.resumed if text]
            assert kept[-1] == result.text
            assert len(kept) < result.stats.chains_started


def test_without_takeovers_the_draft_alone_decides() -> None:
    with agent(accuracy=0.0, rejection_rate=0.0, early_stop="off") as a1:
        result = a1.solve(BOXED)
    assert result.stats.rejections == 0
    assert result.stats.target_tokens == 0
    assert result.answer != "21"


def test_rewriting_wrong_steps_makes_more_chains_right_than_rewriting_none() -> None:
    with agent(accuracy=0.6, early_stop="off", chains=32) as a1:
        for number in range(40):  # the calibrator sees what steps look like
            a1.solve(ask_for_box(Question.of(f"{SUM} + {number}")))
        right = [a1.solve(BOXED, rejection_rate=rate) for rate in (0.0, 0.5)]
    shares = [sum(c.answer == "21" for c in r.chains) / 32 for r in right]
    assert shares[1] > shares[0] + 0.3
    assert right[1].stats.selectivity is not None
    assert right[1].stats.selectivity > 0.9


def test_the_paper_s_takeover_leaves_the_drafted_step_and_writes_after_it() -> None:
    with agent(accuracy=0.0, rejection_rate=1.0, takeover="continue", chains=1) as a1:
        result = a1.solve(BOXED)
    first = result.chains[0].turns[0]
    assert first.taken_over is not None
    assert result.chains[0].text.startswith(first.drafted.text + first.taken_over.text)
    assert result.stats.discarded_tokens == 0


@pytest.mark.anyio
async def test_it_answers_inside_a_running_event_loop() -> None:
    with agent() as a1:
        assert a1.solve(BOXED).answer is not None


@pytest.mark.anyio
async def test_the_stream_tells_each_step_and_ends_with_the_result() -> None:
    async with agent(chains=3, early_stop="off") as a1:
        events = [event async for event in a1.astream(BOXED)]
    assert isinstance(events[0], QuestionOpened)
    assert isinstance(events[-1], VoteClosed)
    for chain in range(3):
        kinds = [type(e) for e in events if getattr(e, "chain", None) == chain]
        assert kinds[0] is ChainStarted
        assert kinds[-1] is ChainFinished
        body = kinds[1:-1]
        assert body[0::3] == [StepDrafted] * (len(body) // 3)
        assert body[1::3] == [StepVerified] * (len(body) // 3)
        assert set(body[2::3]) <= {StepAccepted, StepTakenOver}


@pytest.mark.anyio
async def test_closing_the_stream_midway_frees_every_sequence() -> None:
    draft, target = sums_pair(jitter=3)
    async with A1(draft, target, calibration=None, seed=1, min_step_tokens=0) as a1:
        stream = a1.astream(BOXED)
        async for event in stream:
            if isinstance(event, StepVerified):
                break
        await stream.aclose()
        assert draft.counters.sequences_alive == target.counters.sequences_alive == 0


@pytest.mark.anyio
async def test_cancelling_a_call_frees_every_sequence() -> None:
    draft, target = sums_pair(jitter=200)
    async with A1(draft, target, calibration=None, min_step_tokens=0) as a1:
        calls = [asyncio.create_task(a1.asolve(f"{SUM} + {n}")) for n in range(5)]
        await until(lambda: draft.counters.forwards >= 20)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert all(call.cancelled() for call in calls)
        assert draft.counters.sequences_alive == target.counters.sequences_alive == 0


@pytest.mark.anyio
@pytest.mark.parametrize("turns", range(0, 160, 3))
async def test_a_call_may_be_cancelled_at_any_moment(turns: int) -> None:
    draft, target = sums_pair(jitter=2)
    async with A1(draft, target, calibration=None, min_step_tokens=0, chains=4, seed=2) as a1:
        await a1.load()
        call = asyncio.create_task(a1.asolve("1 + 2 + 3"))
        await until(lambda: draft.counters.sequences_alive > 0)
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert draft.counters.sequences_alive == target.counters.sequences_alive == 0


@pytest.mark.anyio
async def test_many_questions_at_once_on_one_instance_all_get_their_own_answer() -> None:
    draft, target = sums_pair(accuracy=1.0, jitter=4)
    async with A1(draft, target, calibration=None, min_step_tokens=0, chains=4) as a1:
        questions = [ask_for_box(Question.of(f"{n} + {2 * n} + 7")) for n in range(50)]
        results = await asyncio.gather(*(a1.asolve(q) for q in questions))
    assert [r.answer for r in results] == [str(3 * n + 7) for n in range(50)]
    assert draft.counters.sequences_alive == target.counters.sequences_alive == 0


@pytest.mark.anyio
@pytest.mark.parametrize("calibrator", ["static", "adaptive"])
async def test_the_same_seed_gives_the_same_text_whatever_the_arrival_order(calibrator: str) -> None:
    texts: list[list[str]] = []
    for arrival_seed in range(4):
        draft, target = sums_pair(jitter=7, arrival_seed=arrival_seed)
        chains = 8 if calibrator == "static" else 1
        async with A1(draft, target, calibration=None, min_step_tokens=0, seed=5, chains=chains) as a1:
            results = await asyncio.gather(
                *(a1.asolve(f"{SUM} + {n}", calibrator=calibrator, early_stop="off") for n in range(3))
            )
        if calibrator == "adaptive":  # one call after the other: the calibrator itself depends on who came before
            results = results[:0]
            async with A1(draft, target, calibration=None, min_step_tokens=0, seed=5, chains=1) as a1:
                results = [await a1.asolve(f"{SUM} + {n}") for n in range(3)]
        texts.append([chain.text for result in results for chain in result.chains])
    assert texts[0]
    assert all(text == texts[0] for text in texts)


@pytest.mark.anyio
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
async def test_the_rate_is_kept_from_a_cold_start(rate: float, coverage: str) -> None:
    draft, target = sums_pair(accuracy=0.7)
    verifications = rejections = 0
    gaps: list[float] = []
    options: dict[str, Any] = {"rejection_rate": rate, "coverage": coverage, "early_stop": "off"}
    async with A1(draft, target, calibration=None, min_step_tokens=0, seed=3, **options) as a1:
        for n in range(40):
            stats = (await a1.asolve(ask_for_box(Question.of(f"{SUM} + {n} + 8")))).stats
            assert stats.verifications >= 16 and stats.observed_rate is not None
            gaps.append(abs(stats.observed_rate - rate))
            verifications += stats.verifications
            rejections += stats.rejections
    assert rejections / verifications == pytest.approx(rate, abs=0.03)
    assert gaps[0] <= RATE_MARGIN
    # Marginal coverage lets a question that is harder than others have more.
    most = {"marginal": 2, "conditional": 0}[coverage]
    assert sum(gap > RATE_MARGIN for gap in gaps) <= most


@pytest.mark.anyio
@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
async def test_the_very_first_call_of_a_pair_is_close_to_the_rate(coverage: str) -> None:
    """The embedded pair, at a length of step that no calibration ships for."""
    options: dict[str, Any] = {"rejection_rate": 0.6, "coverage": coverage, "early_stop": "off", "step_tokens": 511}
    for n in range(6):
        async with A1(calibration=None, seed=n, **options) as a1:
            stats = (await a1.asolve(ask_for_box(Question.of(f"What is {23 + 9 * n} * 4{n} + 78{n}?")))).stats
        assert stats.verifications >= 16 and stats.observed_rate is not None
        assert abs(stats.observed_rate - 0.6) <= RATE_MARGIN + 1e-9


def test_one_failing_chain_is_recorded_and_the_others_go_on() -> None:
    draft = ScriptedBackend(Failing(failures=1))
    _, target = sums_pair()
    with A1(draft, target, calibration=None, min_step_tokens=0, early_stop="off", chains=4) as a1:
        result = a1.solve(BOXED)
    assert result.answer == "21"
    assert result.stats.chains_failed == 1
    assert [c.error for c in result.chains if c.end == "failed"] == ["the model fell over"]
    assert result.notices[0] == f"1 of {len(result.chains)} chains failed and did not vote: the model fell over"
    assert result.confidence == 0.75


def test_all_chains_failing_is_one_error_with_causes_and_statistics() -> None:
    draft = ScriptedBackend(Failing(failures=100))
    _, target = sums_pair()
    with A1(draft, target, calibration=None, chains=3) as a1, pytest.raises(SolveError) as caught:
        a1.solve(BOXED)
    assert len(caught.value.causes) == 3
    assert caught.value.stats is not None
    assert caught.value.stats.chains_failed == 3
    assert draft.counters.sequences_alive == target.counters.sequences_alive == 0


@pytest.mark.parametrize("answer", ["auto", "boxed", "choice"])
@pytest.mark.parametrize(
    "aside",
    ["Let us look at (A).", "**Option A:**", "The answer: look at each.", "They are [1, 2].", "(See \\boxed{}.)"],
)
def test_a_chain_that_was_asked_for_a_box_does_not_stop_before_it(aside: str, answer: str) -> None:
    model = ScriptedBackend(Fixed(f"{aside}\n\nThat is wrong.\n\nSo \\boxed{{B}}.\n\nAnd (C) is" + "\n\non" * 99))
    with A1(model, model, calibration=None, min_step_tokens=0, chains=1, rejection_rate=0.0) as a1:
        result = a1.solve(BOXED, answer=answer)
    assert (result.answer, result.chains[0].end, len(result.chains[0].turns)) == ("B", "answered", 3)


def test_a_chain_out_of_turns_is_made_to_state_its_answer() -> None:
    rambling = ScriptedBackend(Rambling())
    with A1(rambling, rambling, calibration=None, min_step_tokens=0, turns=3, chains=2, rejection_rate=0.0) as a1:
        result = a1.solve(BOXED)
    assert result.answer == "7"
    assert {c.end for c in result.chains if c.finished} == {"turns"}
    assert len(result.chains[0].turns) == 4
    assert result.reasoning.endswith("The final answer is \\boxed{7}.")


def test_a_chain_out_of_tokens_is_made_to_state_its_answer() -> None:
    rambling = ScriptedBackend(Rambling())
    with A1(rambling, rambling, calibration=None, min_step_tokens=0, max_tokens=40, chains=1) as a1:
        result = a1.solve(BOXED)
    assert result.chains[0].end == "tokens"
    assert result.answer == "7"


def test_a_chain_that_fills_the_context_still_states_its_answer() -> None:
    rambling = ScriptedBackend(Rambling(), context_length=400)
    with A1(rambling, rambling, calibration=None, min_step_tokens=0, turns=1000, chains=2) as a1:
        result = a1.solve(BOXED)
    assert {c.end for c in result.chains if c.finished} == {"tokens"}
    assert result.answer == "7"


def test_a_thinking_chain_out_of_turns_closes_its_thinking_first() -> None:
    thinking = ScriptedBackend(Rambling(opening="<think>\n"))
    with A1(thinking, thinking, calibration=None, min_step_tokens=0, turns=2, chains=1, rejection_rate=0.0) as a1:
        result = a1.solve(BOXED)
    assert "</think>\n\nThe final answer is \\boxed{" in result.chains[0].text
    assert result.reasoning.startswith("and so on,")
    assert result.text == "The final answer is \\boxed{7}."


@pytest.mark.anyio
async def test_the_time_limit_returns_the_best_answer_so_far() -> None:
    answering = Fixed("It is \\boxed{4}.\n\n" + "wait,\n\n" * 10_000)
    draft = ScriptedBackend(answering, jitter=2)
    async with A1(draft, draft, calibration=None, min_step_tokens=0, turns=10_000) as a1:
        result = await a1.asolve("What is it?", timeout_s=0.2, answer="boxed", rejection_rate=0.0)
    assert not result.complete
    assert result.answer == "4"
    assert {c.end for c in result.chains} == {"timeout"}
    assert draft.counters.sequences_alive == 0


class Uncounted(ScriptedBackend):
    """Its tokenizer is asked over a wire: what `reply` does for an answer."""

    def __init__(self, reply: Callable[[], object]) -> None:
        super().__init__(Fixed("<think>\nIt is four.\n</think>\n\nIt is \\boxed{4}."))
        self._reply = reply

    def tokenize(self, text: str) -> tuple[int, ...]:
        self._reply()
        raise BackendError("the server is gone")


def test_a_result_is_not_lost_because_its_tokens_cannot_be_counted() -> None:
    model = Uncounted(lambda: None)
    with A1(model, model, calibration=None, chains=2) as a1:
        result = a1.solve(BOXED)
    assert (result.answer, result.complete) == ("4", True)
    assert result.text_tokens == len(result.text)  # as many as the chain's tokens, which are bytes, have it


@pytest.mark.anyio
async def test_tokens_that_are_counted_too_slowly_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, go_on = Clock(monkeypatch), threading.Event()

    def hang() -> None:
        clock.pass_limit()
        go_on.wait(30)

    model = Uncounted(hang)
    async with A1(model, model, calibration=None, chains=2) as a1:
        result = await a1.asolve(BOXED, timeout_s=LIMIT_S)
        assert not go_on.is_set()
    go_on.set()
    assert (result.answer, result.complete) == ("4", True)
    assert result.text_tokens == len(result.text)


def test_chains_are_cancelled_once_the_majority_cannot_change() -> None:
    long = "So,\n\n" * 10 + "\\boxed{4}"
    model = ScriptedBackend(Replies(("\\boxed{4}", "\\boxed{4}.", "It is \\boxed{4}", long)), jitter=2)
    with A1(model, model, calibration=None, min_step_tokens=0, seed=1, chains=9, rejection_rate=0.0) as a1:
        result = a1.solve(BOXED)
        everyone = a1.solve(BOXED, early_stop="off")
    assert result.answer == everyone.answer == "4"
    assert result.stats.chains_cancelled > 0
    assert result.stats.drafted_tokens < everyone.stats.drafted_tokens
    assert everyone.stats.chains_cancelled == 0


@pytest.mark.parametrize("takeover", ["rewrite", "rollback", "continue"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_statistics_add_up(takeover: str, rate: float) -> None:
    events: list[Event] = []

    async def collect(a1: A1) -> None:
        async for event in a1.astream(BOXED):
            events.append(event)

    with agent(takeover=takeover, rejection_rate=rate, chains=7) as a1:
        asyncio.run(collect(a1))
    closed = events[-1]
    assert isinstance(closed, VoteClosed)
    _check_sums(closed.result, events)


def _check_sums(result: Result, events: list[Event]) -> None:
    stats, usage = result.stats, result.usage
    assert stats.drafted_tokens == stats.kept_tokens + stats.discarded_tokens
    assert stats.verifications == sum(t.verifications for t in stats.by_turn) == sum(stats.p_value_histogram)
    assert stats.rejections == sum(t.rejections for t in stats.by_turn)
    assert stats.rejections == sum(isinstance(e, StepTakenOver) for e in events)
    assert stats.chains_started == stats.chains_finished + stats.chains_cancelled + stats.chains_failed
    written = [step for c in result.chains for t in c.turns for step in (t.taken_over,) if step]
    assert stats.target_tokens >= sum(s.tokens for s in written)
    drafted = sum(e.step.tokens + e.trimmed_tokens for e in events if isinstance(e, StepDrafted))
    assert usage.draft.output_tokens == stats.drafted_tokens == drafted
    assert usage.target.scored_tokens == stats.scored_tokens
    assert usage.input_tokens == stats.prompt_tokens + stats.scored_tokens
    assert usage.as_dict()["total_tokens"] == usage.input_tokens + usage.output_tokens
    assert stats.model_dump(mode="json") == result.as_dict()["stats"]


def test_a_score_that_is_not_finite_is_taken_over_and_counted() -> None:
    draft = ScriptedBackend(Fixed("I say \\boxed{1}."))
    target = ScriptedBackend(Fixed("I say \\boxed{2}.", score=math.nan))
    with A1(draft, target, calibration=None, min_step_tokens=0, rejection_rate=0.1, chains=3, early_stop="off") as a1:
        result = a1.solve(BOXED)
    assert result.answer == "2"
    assert result.stats.non_finite_scores == 3


@pytest.mark.parametrize(("takeover", "standing"), [("rewrite", 1), ("continue", 2)])
def test_a_chain_is_judged_by_the_steps_that_stand_in_its_text(takeover: str, standing: int) -> None:
    draft = ScriptedBackend(Fixed("I say \\boxed{1}."))
    target = ScriptedBackend(Fixed("I say \\boxed{2}.", score=5.0))
    options: dict[str, Any] = {"calibration": None, "min_step_tokens": 0, "chains": 1, "takeover": takeover}
    with A1(draft, target, rejection_rate=1.0, **options) as a1:
        chain = a1.solve(BOXED).chains[0]
    assert len(chain.turns) == 1
    assert len(chain.scores) == standing


def test_open_ended_text_goes_to_the_best_chain() -> None:
    poems = ScriptedBackend(Replies(("Roses are red.", "Violets are blue.")))
    with A1(poems, poems, calibration=None, chains=5, rejection_rate=0.0, seed=2) as a1:
        result = a1.solve("Write a poem.")
    assert result.winner is not None
    assert result.text in ("Roses are red.", "Violets are blue.")
    best = min((c for c in result.chains if c.finished), key=lambda c: c.mean_score)
    assert result.text == best.text


@pytest.mark.parametrize("vote", ["majority", "weighted", "shortest", "temporal", "best"])
def test_every_vote_finds_the_answer_of_chains_that_agree(vote: str) -> None:
    with agent(accuracy=1.0, vote=vote) as a1:
        assert a1.solve(BOXED).answer == "21"


def test_a_stop_string_ends_the_message_before_itself() -> None:
    talking = ScriptedBackend(Fixed("Thought: add.\nObservation: 3"))
    with A1(talking, talking, calibration=None, chains=2, rejection_rate=0.0, stop=("\nObservation",)) as a1:
        assert a1.solve("Hi").text == "Thought: add."


def test_messages_may_be_mappings() -> None:
    with agent() as a1:
        result = a1.solve([{"role": "system", "content": "Be brief."}, Message(role="user", content=SUM)])
    assert result.text


@pytest.mark.parametrize(
    "question",
    [
        *("", "   \n", [], None, 5, ["1 + 1"], "caf\udce9"),
        *([{"role": "user"}], [{"role": "user", "content": 5}], [{"role": "robot", "content": "x"}]),
    ],
)
def test_a_malformed_question_is_refused(question: Any) -> None:
    with agent() as a1, pytest.raises(InvalidQuestion):
        a1.solve(question)


@pytest.mark.parametrize(
    "options",
    [
        {"rejection_rate": 1.5},
        {"rejection_rate": math.nan},
        {"chains": 0},
        {"turns": 0},
        {"chains": 2.5},
        {"chians": 8},
        {"vote": "democratic"},
        {"top_p": 0},
        {"temperature": -1},
        {"timeout_s": 0},
        {"coverage": "conditional", "calibrator": "online"},
    ],
)
def test_an_impossible_option_is_refused_at_construction_and_per_call(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        A1("scripted:sums", "scripted:sums", **options)
    with agent() as a1, pytest.raises(InvalidOption):
        a1.solve(BOXED, **options)


def test_an_unknown_option_names_the_nearest_known_one() -> None:
    with pytest.raises(InvalidOption) as caught:
        A1(rejectionrate=0.2)
    assert "rejection_rate" in caught.value.hint


@pytest.mark.parametrize("model", [Path("model.gguf"), None, 5])
def test_a_model_that_is_neither_address_nor_backend_is_refused(model: Any) -> None:
    with pytest.raises(InvalidOption, match="a model is"):
        A1("scripted:sums", model)


@pytest.mark.parametrize("target", ["scripted:sums?can_score=false", ScriptedBackend(Sums(), can_score=False)])
def test_a_target_that_cannot_score_is_refused_at_construction(target: Any) -> None:
    with pytest.raises(CannotScore):
        A1("scripted:sums", target)


def test_a_model_that_cannot_rewind_is_refused_where_steps_are_rewritten() -> None:
    with A1("scripted:sums?can_rewind=false", "scripted:sums", calibration=None) as a1:
        with pytest.raises(CannotRewind):
            a1.solve(BOXED)
        assert a1.solve(BOXED, takeover="continue").answer == "21"


def test_a_question_longer_than_the_context_is_refused() -> None:
    with (
        A1("scripted:sums?context_length=50", "scripted:sums", calibration=None) as a1,
        pytest.raises(ContextOverflow),
    ):
        a1.solve("1 + " * 100 + "1")


def test_writing_ahead_needs_a_draft_that_can_rewind() -> None:
    with A1("scripted:sums?can_rewind=false", "scripted:sums", calibration=None, takeover="continue") as a1:
        with pytest.raises(CannotRewind):
            a1.solve(BOXED, lookahead="on")
        assert a1.solve(BOXED, lookahead="off").answer == "21"


@pytest.mark.anyio
async def test_a_model_server_that_never_answers_keeps_nobody_from_other_models() -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))  # waiting for a server takes none of the loop's few threads
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        stuck = A1(f"vllm:http://127.0.0.1:{silent.getsockname()[1]}?retries=0", "scripted:sums", calibration=None)
        loads = [asyncio.create_task(stuck.load()) for _ in range(3)]
        with (await loop.sock_accept(silent))[0]:
            async with asyncio.timeout(30), A1("scripted:sums", "scripted:sums?accuracy=1", calibration=None) as other:
                assert (await other.asolve(BOXED)).answer == "21"
            assert not any(load.done() for load in loads)
    for load in loads:
        with pytest.raises(A1Error):
            await load
    await stuck.aclose()


@pytest.mark.anyio
async def test_closing_does_not_wait_for_a_server_and_what_loads_too_late_is_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go, load = threading.Event(), threading.Event(), Address.load

    def slow(address: Address, _: Any) -> Backend:
        begun.set()
        assert go.wait(30)
        return load(address)

    monkeypatch.setattr(Address, "load", slow)
    a1 = A1("scripted:sums?accuracy=0.25", "scripted:sums?accuracy=0.75", calibration=None)
    loading = asyncio.create_task(a1.pair.load())
    await until(begun.is_set)
    await a1.aclose()
    assert not loading.done()
    go.set()
    loaded = await loading
    for backend in (loaded.draft, loaded.target):
        with pytest.raises(BackendClosed):
            await backend.open(BOXED)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("same", "scripted:sums, its own target"),
        ("scripted:sums", "scripted:sums, its own target"),
        ("scripted:sums?accuracy=1", "scripted:sums and scripted:sums?accuracy=1.0"),
    ],
)
def test_a_pair_of_one_model_names_it_once(target: str, named: str) -> None:
    with A1("scripted:sums", target, calibration=None) as a1:
        assert str(a1.pair) == named


def test_a_closed_agent_says_so() -> None:
    a1 = agent()
    a1.close()
    with pytest.raises(BackendClosed):
        a1.solve(BOXED)


@pytest.mark.anyio
async def test_calls_on_backends_of_the_callers_go_on_when_the_agent_is_closed(tmp_path: Path) -> None:
    draft, target = sums_pair()
    a1 = A1(draft, target, calibration=tmp_path / "calibration.db", min_step_tokens=0, rejection_rate=0.5)
    calls = [asyncio.create_task(a1.asolve(BOXED, seed=seed)) for seed in range(4)]
    await until(lambda: target.counters.sequences_alive > 4)
    await a1.aclose()
    async with asyncio.timeout(30):
        results = await asyncio.gather(*calls)
    assert [result.answer for result in results] == ["21"] * 4
    assert not any(result.stats.chains_failed for result in results)
    with pytest.raises(BackendClosed):
        await a1.asolve(BOXED)


@pytest.mark.anyio
async def test_a_model_is_told_which_of_its_pair_is_loaded_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load, told = Address.load, list[tuple[str, list[str]]]()

    def noting(address: Address, later: list[Address]) -> Backend:
        told.append((str(address), [str(each) for each in later]))
        return load(address)

    monkeypatch.setattr(Address, "load", noting)
    draft, target = "scripted:sums?accuracy=0.35", "scripted:sums?accuracy=0.85"
    async with A1(draft, target, calibration=None) as a1:
        await a1.load()
        async with A1(draft, "scripted:sums?accuracy=0.95", calibration=None) as other:
            await other.load()
    assert told == [(draft, [target]), (target, []), ("scripted:sums?accuracy=0.95", [])]
