"""`A1`: a draft and a target model that reason together on questions, at a rejection rate that is kept."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from collections.abc import Sequence as Messages
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from a1agent import facade
from a1agent.admission import Ticket, enter
from a1agent.answers import Asked, prepare, result_of
from a1agent.backends.base import Backend, Sequence, Work
from a1agent.calibration import Calibrations, key_of
from a1agent.config import Options
from a1agent.conformal.calibrators import Calibrator
from a1agent.conformal.scores import score_function
from a1agent.engine.chain import Call
from a1agent.engine.equivalence import Equivalence
from a1agent.engine.finish import finish
from a1agent.engine.loop import Outcome, reason
from a1agent.engine.ranking import Ranking
from a1agent.engine.vote import Tally
from a1agent.errors import A1Error, TimedOut
from a1agent.events import ChainFinished, Event, QuestionOpened, VoteClosed
from a1agent.fold import StatsFold
from a1agent.models import Loaded, Model, Pair
from a1agent.notices import Once, failures
from a1agent.types import Message, Question, Result

__all__ = ["A1"]

Askable = str | Question | Messages[Message | Mapping[str, Any]]
Emit = Callable[[Event], None]

_COUNT_S = 1.0
"""What counting the tokens of a text may take when the time limit has passed."""


class A1:
    """Two models that reason together: the draft writes in parallel chains, the target takes over a share of its steps.

    `draft` and `target` are model addresses or backends; without arguments the embedded pair runs, and with
    `target="same"` the draft judges its own steps (`takeover="resample"` goes well with it). `calibration` is
    where calibration is kept: `"default"` (the user's data folder), a path, or None (memory only). Every other keyword
    is a field of `Options`; the same keywords given to a call override them there.

    One instance answers many questions at once, from any thread or event loop. Close it, or use it as a context
    manager, to free the models.

    Raises `InvalidOption` for unknown or impossible options; with the first call `CalibrationError` for a calibration
    file of another kind, `CannotScore` for a target that cannot score, `ModelNotFound` for models that are not there.
    """

    def __init__(
        self,
        draft: Model = "embedded:draft",
        target: Model = "embedded:target",
        *,
        calibration: Path | str | Literal["default"] | None = "default",
        **options: Any,
    ) -> None:
        self.options = Options.of(**options)
        self.pair = Pair(draft, target, reads=self.options.verify_rate > 0)
        self._calibrations = Calibrations(calibration)
        self._equivalence = Equivalence()
        self._notices = Once()
        self._keys = _Keys()

    def solve(self, question: Askable, **options: Any) -> Result:
        """Answers a question; works inside a running event loop (a notebook) too.

        Raises `InvalidQuestion`, `InvalidOption`, `ContextOverflow`, and `SolveError` when every chain failed
        (`TimedOut` when `timeout_s` passed before one could begin).
        """
        return facade.run(self.asolve(question, **options))

    async def asolve(self, question: Askable, **options: Any) -> Result:
        """As `solve`, in an event loop. Cancelling it frees all it holds before it returns."""
        return await self._answer(Question.of(question), self.options.replace(**options), _ignore)

    async def astream(self, question: Askable, *, tenant: str = "", **options: Any) -> AsyncGenerator[Event, None]:
        """The call's events as they happen; the last is `VoteClosed` with the result. Closing it cancels the call.

        `tenant`: on whose behalf, for agents that serve several: each has its own calibration, so that none shifts
        another's rate.
        """
        asked, chosen = Question.of(question), self.options.replace(**options)
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        task = asyncio.create_task(self._answer(asked, chosen, queue.put_nowait, tenant))
        task.add_done_callback(_seen)
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            yield VoteClosed(result=await task)
        finally:
            task.cancel()
            if not task.done():  # at its end an event loop has no further turn for those that need not wait
                await finish(asyncio.wait([task]))

    def stream(self, question: Askable, **options: Any) -> Generator[Event]:
        """As `astream`, without an event loop; closing it early cancels the call before it returns."""
        return facade.iterate(self.astream(question, **options))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of a text in the target's vocabulary; loads the models when that was not done yet."""
        return facade.run(self.pair.load()).target.tokenize(text)

    async def load(self) -> None:
        """Loads both models now instead of with the first question.

        Raises `CalibrationError`, `ModelError`, `MissingExtra`.
        """
        await self._load()

    async def _load(self) -> Loaded:
        await asyncio.to_thread(self._calibrations.open)  # what is wrong with it is told before models are loaded
        return await self.pair.load()

    async def _answer(self, question: Question, options: Options, emit: Emit, tenant: str = "") -> Result:
        asked = await asyncio.to_thread(prepare, question, options)  # before any model is loaded
        loaded = await self._load()
        options = loaded.settle(options)
        started = time.perf_counter()
        fold = StatsFold(options)

        def record(event: Event) -> None:
            fold.add(event)
            emit(event)

        with self._keys.key(question, options.seed) as (key, seed):
            call = await self._call(asked, options, loaded, tenant, key, seed, record)
            outcome = await self._reason(call, asked.question, loaded)
        stats = fold.stats(time.perf_counter() - started)
        result = result_of(asked, outcome, stats, fold.usage())
        notices = failures(result.chains)
        notices += await self._notices.of_call(loaded, self.pair.embedded, question, stats)
        tokens = await _text_tokens(loaded.target, result, call.deadline)
        return replace(result, notices=tuple(notices), text_tokens=tokens)

    async def _call(
        self, asked: Asked, options: Options, loaded: Loaded, tenant: str, key: str, seed: int, emit: Emit
    ) -> Call:
        stored = key_of(options, asked.question, loaded.draft.info, loaded.target.info, tenant=tenant)
        calibrator = await asyncio.to_thread(self._calibrations.calibrator, stored, options)
        screen = await self._screen(asked.question, options, loaded, tenant) if options.verify_rate < 1 else None
        loop_time = asyncio.get_running_loop().time()
        return Call(
            key=key,
            options=options,
            seed=seed,
            statement=asked.statement,
            draft=loaded.draft.info,
            target=loaded.target.info,
            calibrator=calibrator,
            score=score_function(options.score),
            emit=emit,
            deadline=None if options.timeout_s is None else loop_time + options.timeout_s,
            ranking=Ranking(options.chains, options.rejection_rate) if options.baseline == "ranking" else None,
            screen=screen,
            looks_ahead=loaded.looks_ahead(options) and options.baseline != "ranking",
        )

    async def _screen(self, question: Question, options: Options, loaded: Loaded, tenant: str) -> Calibrator:
        """Keeps the share of steps that are scored."""
        stored = key_of(options, question, loaded.draft.info, loaded.target.info, tenant=tenant, screen=True)
        adaptive = options.replace(rejection_rate=options.verify_rate, calibrator="adaptive", coverage="marginal")
        return await asyncio.to_thread(self._calibrations.calibrator, stored, adaptive)

    async def _reason(self, call: Call, question: Question, loaded: Loaded) -> Outcome:
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout_at(call.deadline):
                    ticket = await enter((loaded.draft, loaded.target), call.options.chains)
                    stack.callback(ticket.close)
                    draft, target = await _open(loaded, question, stack)
                call.emit(
                    QuestionOpened(
                        draft_prompt_tokens=draft.prompt_tokens,
                        target_prompt_tokens=0 if target is draft else target.prompt_tokens,
                        draft_work=draft.prompt_work,
                        target_work=Work() if target is draft else target.prompt_work,
                        queued_s=ticket.queued_s,
                        in_turn=loaded.in_turn,
                    )
                )
                tally = Tally(self._equivalence, histories=call.options.vote == "temporal", deadline=call.deadline)
                return await reason(replace(call, emit=_with_ticket(call.emit, ticket)), draft, target, tally)
        except TimeoutError:
            raise TimedOut(
                f"the time limit of {call.options.timeout_s} s passed before the prompt was read",
                "raise timeout_s, or ask fewer questions at a time",
            ) from None
        finally:
            for calibrator in (call.calibrator, call.screen):
                if calibrator is not None:
                    calibrator.close_question(call.key)

    async def aclose(self) -> None:
        """Frees the models that nobody else uses, which ends calls under way, and writes the calibration.

        Calls on backends of the caller's go on to their ends; what they score from now on is not kept.
        """
        await self._equivalence.aclose()
        await asyncio.to_thread(self._calibrations.close)
        await self.pair.aclose()

    def close(self) -> None:
        """As `aclose`."""
        facade.run(self.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Keys:
    """Names for calls: the same for the same question and seed, yet no two open calls share one."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def key(self, question: Question, seed: int | None) -> Generator[tuple[str, int]]:
        """(name, seed) of a call while it is open."""
        seed = secrets.randbits(32) if seed is None else seed
        digest = hashlib.blake2b(repr((seed, question)).encode(), digest_size=8).hexdigest()
        with self._lock:
            copy = next(n for n in range(len(self._open) + 1) if f"{digest}.{n}" not in self._open)
            name = f"{digest}.{copy}"
            self._open.add(name)
        try:
            yield name, seed
        finally:
            with self._lock:
                self._open.discard(name)


def _with_ticket(emit: Emit, ticket: Ticket) -> Emit:
    def told(event: Event) -> None:
        emit(event)
        if isinstance(event, ChainFinished):
            ticket.chain_ended()

    return told


async def _text_tokens(target: Backend, result: Result, deadline: float | None) -> int:
    """Tokens of the text; by its share of the chain where the target's server no longer tells, or not in time."""
    if deadline is not None:
        deadline = max(deadline, asyncio.get_running_loop().time() + _COUNT_S)
    try:
        async with asyncio.timeout_at(deadline):
            return len(await asyncio.to_thread(target.tokenize, result.text))
    except (A1Error, TimeoutError):
        written = [(chain.token_count, len(chain.text)) for chain in result.chains if chain.index == result.winner]
        return sum(round(tokens * len(result.text) / max(length, 1)) for tokens, length in written)


def _ignore(event: Event) -> None:
    pass


def _seen(task: asyncio.Task[Result]) -> None:
    if not task.cancelled():
        task.exception()  # it is raised where the task is awaited, or nobody waits for it any more


async def _open(loaded: Loaded, question: Question, stack: contextlib.AsyncExitStack) -> tuple[Sequence, Sequence]:
    async def one(backend: Backend) -> Sequence:
        sequence = await backend.open(question)
        stack.push_async_callback(lambda: finish(sequence.close()))
        return sequence

    if loaded.judges_itself:
        both = await one(loaded.draft)
        return both, both
    # Both come to an end before one's error is raised: what is opened after the stack was left would stay open.
    draft, target = await asyncio.gather(one(loaded.draft), one(loaded.target), return_exceptions=True)
    for opened in (draft, target):
        if isinstance(opened, BaseException):
            raise opened
    return cast("tuple[Sequence, Sequence]", (draft, target))
