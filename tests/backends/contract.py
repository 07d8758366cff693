"""What every backend must do: subclass `Contract` in a test module and provide a `backend_factory` fixture.

    class TestMine(Contract):
        capabilities = Capabilities(...)

        @pytest.fixture
        def backend_factory(self) -> BackendFactory: ...

`backend_factory(context)` loads the model, with a context of that many tokens where one is given.
"""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from a1agent.backends.base import Backend, Generated, Sampling, Sequence, StepText, Stop
from a1agent.errors import BackendClosed, BackendError, CannotRewind, CannotScore, ContextOverflow
from a1agent.types import Message, Question

BackendFactory = Callable[[int | None], Backend]

FREELY = Stop(whole_words=False)
GREEDY = Sampling(temperature=0)
STEP = StepText(text=" then we add the parts.\n\n")
OTHER = StepText(text=" so the rest is 12 + 7 = 19.\n\n")


@dataclass(frozen=True)
class Capabilities:
    """What applies to a backend. `counts`: it decodes in a cache of its own, and its counters say how much.

    `shares`: sequences share the cells of a common prefix; where not, each holds a copy.
    `constrain`: it can be held to a JSON schema.
    `guards`: a sequence refuses a second call while one runs, and calls end when the backend is closed.
    `logprobs`: it tells the log-probability of all that it writes; one that it does not tell is not a number.
    `seeded`: a seed makes a call repeatable. `chance`: it samples from probabilities that it also scores with.
    `control`: text of one of its control tokens.
    `tolerance`: nats by which a score may depend on what else is in the batch (quantized weights).
    """

    constrain: bool = False
    counts: bool = True
    shares: bool = True
    guards: bool = True
    logprobs: bool = True
    seeded: bool = True
    chance: bool = True
    score: bool = True
    rewind: bool = True
    control: str | None = None
    small_context: int = 64
    tolerance: float = 1e-3
    question: str = "the sum of 1 and 2"


@asynccontextmanager
async def loaded(factory: BackendFactory, context: int | None = None) -> AsyncIterator[Backend]:
    """A backend that is closed at the end. What hangs is given up; interpreted kernels of servers take minutes."""
    backend = await asyncio.to_thread(factory, context)
    try:
        async with asyncio.timeout(300):
            yield backend
    finally:
        await backend.aclose()


def assert_alike(found: tuple[StepText, tuple[float, ...]], expected: tuple[StepText, tuple[float, ...]]) -> None:
    """The same text, and scores that differ by no more than what else was in the batch makes of them."""
    assert found[0] == expected[0]
    assert found[1] == pytest.approx(expected[1], abs=0.1)


async def settle(backend: Backend) -> None:
    """Lets a backend with a worker of its own do what was asked for so far."""
    settled = getattr(backend, "settle", None)
    if settled is not None:
        await settled()


def close_to(values: tuple[float, ...], others: tuple[float, ...], tolerance: float = 1e-3) -> bool:
    return len(values) == len(others) and all(abs(a - b) < tolerance for a, b in zip(values, others, strict=True))


@pytest.mark.anyio
class Contract:
    """The suite."""

    capabilities = Capabilities()

    @pytest.fixture
    def question(self) -> Question:
        return Question.of(self.capabilities.question)

    def needs(self, *names: str) -> None:
        missing = [name for name in names if not getattr(self.capabilities, name)]
        if missing:
            pytest.skip(f"does not apply: {', '.join(missing)}")

    def repeatable(self, seed: int) -> Sampling:
        return Sampling(temperature=1.2, seed=seed) if self.capabilities.seeded else GREEDY

    @pytest.mark.parametrize("temperature", [0.0, 2.0])
    async def test_what_is_written_under_a_schema_matches_it_and_ends_the_turn(
        self, backend_factory: BackendFactory, question: Question, temperature: float
    ) -> None:
        self.needs("constrain")
        fields = {"colour": {"enum": ["red", "blue"]}, "sure": {"type": "boolean"}}
        required = ["colour", "sure"]
        schema = {"type": "object", "properties": fields, "required": required, "additionalProperties": False}
        async with loaded(backend_factory) as backend:
            assert backend.info.can_constrain
            sequence = await backend.open(question)
            for seed in range(5):
                mark = sequence.mark()
                sampling = Sampling(seed=seed, temperature=temperature, schema=schema)
                generated = await sequence.generate(400, sampling, FREELY)
                answer = json.loads(generated.step.text)
                assert answer["colour"] in ("red", "blue")
                assert answer["sure"] in (True, False)
                assert generated.finish == "end"
                assert len(generated.logprobs) == len(generated.step.ids or ())
                sequence.rewind(mark)

    @pytest.mark.parametrize(
        "pattern",
        [r"^\d{3}-(?:\d{2}|x)$", r"^[^\W\d]{1,3}?@[\w.]{2,4}$", r"^[ -~]{3,9}$", "^(ab|c){2}$|^dé$"],
    )
    async def test_what_is_written_under_a_schema_matches_its_pattern(
        self, backend_factory: BackendFactory, question: Question, pattern: str
    ) -> None:
        self.needs("constrain")
        fields = {"a": {"type": "string", "pattern": pattern, "maxLength": 20}}
        schema = {"type": "object", "properties": fields, "required": ["a"], "additionalProperties": False}
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            for seed in range(5):
                mark = sequence.mark()
                generated = await sequence.generate(200, Sampling(seed=seed, temperature=2.0, schema=schema), FREELY)
                text = json.loads(generated.step.text)["a"]
                assert re.search(pattern, text), text
                sequence.rewind(mark)

    async def test_a_sequence_and_its_forks_know_whether_the_prompt_ends_inside_a_thought(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            for said, thinking in ((None, False), ("<think>\nthe sum", True), ("<think>the</think> sum", False)):
                begun = () if said is None else (Message(role="assistant", content=said),)
                root = await backend.open(Question(messages=(*question.messages, *begun)))
                assert root.thinking is thinking
                assert root.fork().fork().thinking is thinking

    async def test_generating_appends_what_it_returns(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            before = sequence.length
            generated = await sequence.generate(20, Sampling(seed=1), FREELY)
            ids = generated.step.ids
            assert ids is not None
            assert len(ids) <= 20
            assert ids or generated.finish == "end"
            assert sequence.length == before + len(ids)
            assert len(generated.logprobs) == len(ids)
            told = self.capabilities.logprobs
            assert all(logprob <= 0 or (math.isnan(logprob) and not told) for logprob in generated.logprobs)
            assert generated.step.tokenizer_fingerprint == backend.info.tokenizer_fingerprint

    async def test_the_same_seed_gives_the_same_text(self, backend_factory: BackendFactory, question: Question) -> None:
        self.needs("rewind")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            start = sequence.mark()
            drawn = (Sampling(seed=7), Sampling(seed=2**63 + 5, top_k=20, top_p=0.9, min_p=0.01))
            for sampling in (*(drawn if self.capabilities.seeded else ()), GREEDY):
                first = await sequence.generate(24, sampling, FREELY)
                sequence.rewind(start)
                again = await sequence.generate(24, sampling, FREELY)
                sequence.rewind(start)
                assert again.step == first.step

    async def test_different_seeds_give_different_texts(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("chance")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            forks = [sequence.fork() for _ in range(8)]
            texts = [await fork.generate(24, Sampling(temperature=1.5, seed=i), FREELY) for i, fork in enumerate(forks)]
            assert len({generated.step.ids for generated in texts}) > 1

    async def test_log_probabilities_of_generated_tokens_are_their_scores(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("chance", "score", "rewind")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            start = sequence.mark()
            for sampling in (Sampling(temperature=0.5, top_k=30, seed=3), Sampling(temperature=1.3, seed=4), GREEDY):
                generated = await sequence.generate(24, sampling, FREELY)
                sequence.rewind(start)
                scores = await sequence.score(generated.step)
                sequence.rewind(start)
                assert scores.ids == generated.step.ids
                assert close_to(scores.logprobs, generated.logprobs, self.capabilities.tolerance)

    async def test_scores_do_not_depend_on_how_a_text_is_cut(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("chance", "score")
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            whole, pieces, appended = root.fork(), root.fork(), root.fork()
            scores = await whole.score(STEP, end=True)
            one_by_one: list[float] = []
            for token in scores.ids:
                single = self._step(backend, (token,))
                one_by_one += (await pieces.score(single)).logprobs
            assert close_to(scores.logprobs, tuple(one_by_one), self.capabilities.tolerance)
            half = len(scores.ids) // 2
            await appended.append(self._step(backend, scores.ids[:half]))
            rest = await appended.score(self._step(backend, scores.ids[half:]), end=True)
            assert close_to(scores.logprobs[half:], rest.logprobs, self.capabilities.tolerance)
            assert scores.end is not None
            assert rest.end is not None
            assert abs(scores.end - rest.end) < self.capabilities.tolerance

    async def test_an_empty_step_scores_nothing_but_its_end(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("score")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            before = sequence.length
            scores = await sequence.score(StepText(text=""), end=True)
            assert scores.ids == scores.logprobs == ()
            assert scores.end is not None
            assert (await sequence.score(StepText(text=""))).end is None
            assert sequence.length == before

    async def test_a_step_is_tokenized_alone_and_gets_no_space(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            before = sequence.length
            await sequence.append(StepText(text="the parts"))
            assert sequence.length - before == len(backend.tokenize("the parts"))
            assert backend.tokenize("the parts") != backend.tokenize(" the parts")
            assert backend.tokenize("") == ()

    async def test_ids_are_told_as_text(self, backend_factory: BackendFactory, question: Question) -> None:
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            text = "the parts: é\n"
            ids = backend.tokenize(text)
            told = [sequence.text_of(ids[:count]) for count in range(len(ids) + 1)]
            if not backend.info.can_spell:
                assert set(told) == {None}
                return
            assert told[0] == "" and told[-1] == text
            assert all(part is None or text.startswith(part) for part in told)

    async def test_ids_of_another_tokenizer_are_not_used(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            before = sequence.length
            await sequence.append(StepText(text="the parts", ids=(1, 2, 3), tokenizer_fingerprint="another"))
            assert sequence.length - before == len(backend.tokenize("the parts"))

    async def test_a_fork_is_independent_of_its_parent(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("rewind")
        async with loaded(backend_factory) as backend:
            parent = await backend.open(question)
            await parent.generate(8, GREEDY, FREELY)
            expected = await self._continued(parent.fork())
            child = parent.fork()
            await parent.append(OTHER)
            await parent.generate(4, Sampling(seed=1), FREELY)
            await parent.close()
            assert_alike(await self._continued(child), expected)

    async def test_rewinding_and_growing_again_is_as_if_it_had_never_grown(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("rewind")
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            expected = await self._continued(root.fork())
            grown = root.fork()
            start = grown.mark()
            await grown.generate(12, Sampling(seed=5), FREELY)
            await grown.append(OTHER)
            middle = grown.mark()
            await grown.generate(6, Sampling(seed=6), FREELY)
            grown.rewind(middle)
            grown.rewind(start)
            assert grown.length == root.length
            assert_alike(await self._continued(grown), expected)

    async def test_a_mark_beyond_the_end_is_refused(self, backend_factory: BackendFactory, question: Question) -> None:
        self.needs("rewind")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            start = sequence.mark()
            await sequence.append(STEP)
            end = sequence.mark()
            sequence.rewind(start)
            with pytest.raises(CannotRewind):
                sequence.rewind(end)

    async def test_a_stop_string_is_found_wherever_tokens_end_and_is_dropped(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("rewind")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            start = sequence.mark()
            for seed in range(6):
                sampling = self.repeatable(seed)
                text = (await sequence.generate(24, sampling, FREELY)).step.text
                sequence.rewind(start)
                for at in range(1, len(text) - 3, 5):
                    string = text[at : at + 3]
                    stop = Stop(strings=("not in it at all", string), whole_words=False)
                    stopped = await sequence.generate(24, sampling, stop)
                    assert stopped.step.text == text[: text.index(string)]
                    assert (stopped.finish, stopped.stop_string) == ("stop", string)
                    await self._is_consistent(backend, sequence, start.length, stopped)
                    sequence.rewind(start)

    async def test_a_boundary_belongs_to_its_step_and_waits_for_enough_tokens(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("rewind")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            start = sequence.mark()
            sampling = self.repeatable(11)
            text = (await sequence.generate(32, sampling, FREELY)).step.text
            sequence.rewind(start)
            boundary = text[4:6]
            stopped = await sequence.generate(32, sampling, Stop(boundary=boundary, whole_words=False))
            assert stopped.finish == "stop"
            assert stopped.stop_string is None
            assert stopped.step.text.rstrip().endswith(boundary.rstrip())
            assert text.startswith(stopped.step.text)
            await self._is_consistent(backend, sequence, start.length, stopped)
            sequence.rewind(start)
            late = await sequence.generate(32, sampling, Stop(boundary=boundary, min_tokens=33, whole_words=False))
            assert late.step.text == text

    async def test_a_text_cut_by_length_ends_at_a_word(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            for tokens in (1, 5, 17):
                fork = root.fork()
                generated = await fork.generate(tokens, Sampling(seed=tokens), Stop())
                ids = generated.step.ids or ()
                assert len(ids) + generated.trimmed_tokens <= tokens
                assert fork.length == root.length + len(ids)
                assert "\ufffd" not in generated.step.text[-1:] or len(ids) > 0

    async def test_sixty_four_sequences_run_at_once(self, backend_factory: BackendFactory, question: Question) -> None:
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            alone = await root.fork().generate(12, GREEDY, FREELY)
            forks = [root.fork() for _ in range(64)]
            together = await asyncio.gather(*(fork.generate(12, GREEDY, FREELY) for fork in forks))
            assert {generated.step.text for generated in together} == {alone.step.text}

    async def test_calls_of_different_kinds_share_batches(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("score")
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            steps = [StepText(text=f" take {i} and add the rest of the parts") for i in range(8)]
            alone = [await root.fork().score(step, end=True) for step in steps]
            written = [await root.fork().generate(16, GREEDY, FREELY) for _ in range(4)]
            calls = [root.fork().score(step, end=True) for step in steps]
            texts = [root.fork().generate(16, GREEDY, FREELY) for _ in range(4)]
            others = asyncio.gather(*(backend.open(Question.of(f"{question.text} {i}")) for i in range(3)))
            together, generated, _ = await asyncio.gather(asyncio.gather(*calls), asyncio.gather(*texts), others)
            for one, many in zip(alone, together, strict=True):
                assert close_to(one.logprobs, many.logprobs, self.capabilities.tolerance)
            assert [g.step.ids for g in generated] == [g.step.ids for g in written]

    async def test_a_cancelled_call_leaves_the_sequence_as_it_was(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("rewind")
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            expected = await self._continued(root.fork())
            sequence = root.fork()
            before, mark = sequence.length, sequence.mark()
            for turns in (0, 1, 3, 20):
                task = asyncio.create_task(sequence.generate(400, Sampling(seed=turns), FREELY))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.result().step.ids is not None
                if not task.cancelled():  # it was done sooner than that
                    sequence.rewind(mark)
            assert sequence.length == before
            assert_alike(await self._continued(sequence), expected)

    async def test_a_prompt_that_nobody_waits_for_any_more_is_not_kept_open(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            for turns in (0, 1, 2, 3, 5, 8):
                task = asyncio.create_task(backend.open(question))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():  # it was done sooner than that
                    await task.result().close()
                assert backend.counters.sequences_alive == 0

    async def test_a_second_call_on_a_busy_sequence_is_refused(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("guards")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            task = asyncio.create_task(sequence.generate(8, GREEDY, FREELY))
            await asyncio.sleep(0)
            with pytest.raises(BackendError):
                await sequence.append(STEP)
            with pytest.raises(BackendError):
                sequence.fork()
            assert (await task).step.ids

    async def test_a_prompt_beyond_the_context_is_refused(self, backend_factory: BackendFactory) -> None:
        async with loaded(backend_factory, self.capabilities.small_context) as backend:
            with pytest.raises(ContextOverflow):
                await backend.open(Question.of("add the parts " * 200))
            assert backend.counters.sequences_alive == 0

    async def test_a_step_beyond_the_context_is_refused_and_changes_nothing(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory, self.capabilities.small_context) as backend:
            sequence = await backend.open(question)
            expected = await sequence.fork().generate(4, GREEDY, FREELY)
            before = sequence.length
            long = StepText(text=" add the parts" * 100)
            if self.capabilities.score:
                with pytest.raises(ContextOverflow):
                    await sequence.score(long)
            with pytest.raises(ContextOverflow):
                await sequence.append(long)
            assert sequence.length == before
            assert (await sequence.generate(4, GREEDY, FREELY)).step == expected.step

    async def test_generation_ends_where_the_context_does(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("guards")
        async with loaded(backend_factory, self.capabilities.small_context) as backend:
            sequence = await backend.open(question)
            limit = backend.info.context_length
            while sequence.length < limit:
                await sequence.append(StepText(text="7"))
            with pytest.raises(ContextOverflow):
                await sequence.generate(4, GREEDY, FREELY)
            assert sequence.length == limit

    async def test_closed_sequences_are_not_counted_and_not_usable(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            forks = [sequence.fork() for _ in range(3)]
            assert backend.counters.sequences_alive == 4
            for each in (sequence, *forks, *forks):
                await each.close()
            assert backend.counters.sequences_alive == 0
            with pytest.raises(BackendClosed):
                await sequence.generate(4, GREEDY, FREELY)

    async def test_closing_the_backend_ends_running_calls(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("guards")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            tasks = [asyncio.create_task(sequence.fork().generate(500, Sampling(seed=i), FREELY)) for i in range(4)]
            await asyncio.sleep(0)
            await backend.aclose()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, BackendClosed | Generated) for outcome in outcomes)
            assert any(isinstance(outcome, BackendClosed) for outcome in outcomes)
            with pytest.raises(BackendClosed):
                await backend.open(question)
            await backend.aclose()

    def test_several_event_loops_may_use_one_backend(self, backend_factory: BackendFactory, question: Question) -> None:
        backend = backend_factory(None)

        async def ask() -> str:
            sequence = await backend.open(question)
            generated = await sequence.generate(8, GREEDY, FREELY)
            await sequence.close()
            return generated.step.text

        assert asyncio.run(ask()) == asyncio.run(ask())
        asyncio.run(backend.aclose())

    async def test_a_backend_that_cannot_score_says_so(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            assert backend.info.can_score == self.capabilities.score
            if not self.capabilities.score:
                with pytest.raises(CannotScore):
                    await (await backend.open(question)).score(STEP)

    async def test_a_backend_that_cannot_rewind_says_so(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        async with loaded(backend_factory) as backend:
            assert backend.info.can_rewind == self.capabilities.rewind
            if not self.capabilities.rewind:
                sequence = await backend.open(question)
                start = sequence.mark()
                await sequence.append(STEP)
                with pytest.raises(CannotRewind):
                    sequence.rewind(start)

    # Counts

    async def test_scoring_k_tokens_decodes_k_whatever_the_length_of_the_chain(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("counts", "score")
        async with loaded(backend_factory) as backend:
            sequence = await backend.open(question)
            for _ in range(8):
                before = backend.counters.decoded_tokens
                scores = await sequence.score(STEP)
                assert backend.counters.decoded_tokens - before == len(scores.ids) == scores.work.decoded_tokens
            before = backend.counters.decoded_tokens
            scores = await sequence.score(STEP, end=True)
            assert backend.counters.decoded_tokens - before == len(scores.ids) + 1

    async def test_chains_share_one_prefill_and_a_fork_decodes_its_pending_token_only(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("counts")
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            assert backend.counters.decoded_tokens == root.length - 1
            forks = [root.fork() for _ in range(16)]
            await settle(backend)
            assert backend.counters.decoded_tokens == root.length - 1
            assert backend.counters.cells_used == (root.length - 1) * (1 if self.capabilities.shares else 17)
            generated = await asyncio.gather(*(fork.generate(1, GREEDY, FREELY) for fork in forks))
            assert [g.work.decoded_tokens for g in generated] == [1] * 16
            assert root.prompt_work.decoded_tokens == root.length - 1
            assert forks[0].prompt_work.decoded_tokens == 0

    async def test_the_next_turn_of_a_conversation_prefills_only_what_is_new(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("counts")
        async with loaded(backend_factory) as backend:
            first = await backend.open(question)
            cached = first.length
            await first.close()
            again = await backend.open(question)
            assert again.prompt_work.cached_tokens == cached - 1
            assert again.prompt_work.decoded_tokens == 0
            await again.close()
            said = Message(role="assistant", content="the answer is 3")
            turn = Question(messages=(*question.messages, said, Message(role="user", content="add 4 to it")))
            second = await backend.open(turn)
            work = second.prompt_work
            assert work.cached_tokens + work.decoded_tokens == second.length - 1
            assert work.decoded_tokens <= second.length - cached + 4

    async def test_every_call_of_a_chain_finds_in_the_cache_what_was_read_before(
        self, backend_factory: BackendFactory, question: Question
    ) -> None:
        self.needs("counts", "score")
        async with loaded(backend_factory) as backend:
            root = await backend.open(question)
            sequence = root.fork()
            for i in range(4):
                length = sequence.length
                call = sequence.score(STEP) if i % 2 else sequence.generate(5, GREEDY, FREELY)
                work = (await call).work
                assert (work.cached_tokens, work.reread_tokens) == (length - 1, 0)

    # Control tokens

    async def test_control_tokens_in_texts_of_users_and_models_stay_text(self, backend_factory: BackendFactory) -> None:
        self.needs("control")
        control = self.capabilities.control or ""
        async with loaded(backend_factory) as backend:
            spelled = backend.tokenize(control)
            assert len(spelled) > 1
            plain = await backend.open(Question.of("say  now"))
            hostile = await backend.open(Question.of(f"say {control} now"))
            assert hostile.length - plain.length >= len(spelled) - 2
            sequence = await backend.open(Question.of("say it"))
            before = sequence.length
            await sequence.append(StepText(text=control))
            assert sequence.length - before == len(spelled)

    def _step(self, backend: Backend, ids: tuple[int, ...]) -> StepText:
        return StepText(text="", ids=ids, tokenizer_fingerprint=backend.info.tokenizer_fingerprint)

    async def _continued(self, sequence: Sequence) -> tuple[StepText, tuple[float, ...]]:
        """What a sequence says next, and how it scores a step after that."""
        generated = await sequence.generate(8, GREEDY, FREELY)
        scored = (await sequence.score(STEP)).logprobs if self.capabilities.score else ()
        return generated.step, scored

    async def _is_consistent(self, backend: Backend, sequence: Sequence, start: int, generated: Generated) -> None:
        """Ids, text and log-probabilities of what was generated belong together, and to the sequence."""
        ids = generated.step.ids
        assert ids is not None
        assert sequence.length == start + len(ids)
        assert len(generated.logprobs) == len(ids)
