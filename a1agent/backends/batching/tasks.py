"""Calls as the worker sees them: what to decode, whose logits to read, what to do with them."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from a1agent.backends.base import Finish, Generated, Sampling, StepText, Stop, TokenScores, Work
from a1agent.backends.batching.cache import Lane, new_ids
from a1agent.backends.batching.runner import END, Vocabulary
from a1agent.backends.batching.text import TokenText, find_stop, word_end

__all__ = ["Generate", "Holder", "Prefill", "Score", "Task"]


class Holder:
    """The worker's side of a sequence: its lane, if it has one. A smaller `age` was opened earlier and goes first."""

    __slots__ = ("age", "closed", "forked", "lane", "prompt", "task")
    _next_age: ClassVar[int] = 0

    def __init__(self, prompt: int) -> None:
        self.lane: Lane | None = None
        self.task: Task | None = None
        self.prompt = prompt
        self.closed = False
        self.forked = False
        self.age = Holder._next_age
        Holder._next_age += 1


class Task:
    """One call. The ids before `goal` are decoded; logits are wanted from position `wanted` on.

    `ids` is the sequence's text plus what the call adds. The sequence itself changes only when its coroutine takes the
    result, so a cancelled call has nothing to undo but the lane.
    """

    def __init__(self, holder: Holder, ids: array[int], goal: int, wanted: int) -> None:
        self.holder = holder
        self.ids = ids
        self.base = len(ids)
        self.goal = goal
        self.wanted: int = wanted
        self.decoded = 0
        self.cached = 0
        self.compute_s = 0.0
        self.forward_s = 0.0
        self.started = time.perf_counter()
        self.sampler: Any = None
        self._resolve: Callable[[object], None] = _ignore

    @property
    def done(self) -> bool:
        """Whether nothing is left to decode."""
        raise NotImplementedError

    def remaining(self) -> int:
        """Tokens to decode next."""
        lane = self.holder.lane
        return self.goal - (len(lane) if lane is not None else 0)

    def targets(self, start: int, stop: int) -> list[int | None]:
        """For each wanted position in `start:stop`: the id to score there, or None for one to sample."""
        raise NotImplementedError

    def reads(self, token: int) -> int:
        """The target whose log-probability is wanted of a sampled token."""
        return token

    def accept(self, tokens: list[int], logprobs: list[float]) -> None:
        """Takes the results of the positions asked for last."""
        raise NotImplementedError

    def result(self) -> object:
        """What the call returns."""
        raise NotImplementedError

    def work(self) -> Work:
        """What the call cost so far."""
        waited = time.perf_counter() - self.started - self.forward_s
        return Work(
            decoded_tokens=self.decoded,
            cached_tokens=self.cached,
            compute_s=self.compute_s,
            waiting_s=max(0.0, waited),
        )

    def bind(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        """The future that the call's coroutine awaits; the worker resolves it from its thread."""
        future: asyncio.Future[Any] = loop.create_future()

        def deliver(outcome: object) -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        def resolve(outcome: object) -> None:
            try:
                loop.call_soon_threadsafe(deliver, outcome)
            except RuntimeError:  # the loop was closed: nobody is left to tell
                return

        self._resolve = resolve
        return future

    def resolve(self, outcome: object) -> None:
        """Hands a result or an error to the waiting coroutine."""
        self._resolve(outcome)


def _ignore(_outcome: object) -> None:
    return


class Prefill(Task):
    """Decodes a prompt but for its last id, which stays pending."""

    def __init__(self, holder: Holder, ids: array[int]) -> None:
        super().__init__(holder, ids, goal=len(ids) - 1, wanted=len(ids) - 1)

    @property
    def done(self) -> bool:
        return self.remaining() <= 0

    def targets(self, start: int, stop: int) -> list[int | None]:
        return []

    def accept(self, tokens: list[int], logprobs: list[float]) -> None:
        return

    def result(self) -> Work:
        return self.work()


class Score(Task):
    """Appends a step and reads the log-probability of each of its ids, and of ending the turn when `end` is set."""

    def __init__(self, holder: Holder, ids: array[int], step: Sequence[int], end: bool) -> None:
        base = len(ids)
        self._step = tuple(step)
        self._end = end
        self._logprobs: list[float] = []
        super().__init__(holder, ids + new_ids(step), goal=base - 1 + len(step) + end, wanted=base - 1)
        self.base = base

    @property
    def done(self) -> bool:
        return self.wanted >= self.goal

    def targets(self, start: int, stop: int) -> list[int | None]:
        known = self.ids[start + 1 : stop + 1].tolist()
        return [*known, END] if stop == len(self.ids) else [*known]

    def accept(self, tokens: list[int], logprobs: list[float]) -> None:
        self._logprobs.extend(logprobs)
        self.wanted += len(logprobs)

    def result(self) -> TokenScores:
        end = self._logprobs[-1] if self._end else None
        scores = self._logprobs[: len(self._step)]
        return TokenScores(ids=self._step, logprobs=tuple(scores), end=end, work=self.work())


class Generate(Task):
    """Samples tokens until a stop, the end of the turn, or `limit` tokens.

    A stop may fall inside a token. Its text before the stop is then tokenized anew and scored, so that ids, text and
    log-probabilities of the step agree.
    """

    def __init__(
        self, holder: Holder, ids: array[int], limit: int, sampling: Sampling, stop: Stop, vocabulary: Vocabulary
    ) -> None:
        super().__init__(holder, ids, goal=len(ids), wanted=len(ids) - 1)
        self.sampling = sampling
        self._limit = limit
        self._stop = stop
        self._vocabulary = vocabulary
        self._text = TokenText()
        self._logprobs: list[float] = []
        self._forced: list[int] = []
        self._finish: Finish | None = None
        self._end: float | None = None
        self._stop_string: str | None = None
        self._trimmed = 0

    @property
    def done(self) -> bool:
        return self._finish is not None and not self._forced

    def targets(self, start: int, stop: int) -> list[int | None]:
        return [self._forced[0]] if self._forced else [None]

    def reads(self, token: int) -> int:
        return END if token in self._vocabulary.end_ids else token

    def accept(self, tokens: list[int], logprobs: list[float]) -> None:
        token = tokens[0]
        if self._forced:
            self._append(self._forced.pop(0), logprobs[0])
        elif token in self._vocabulary.end_ids:
            self._end = logprobs[0]
            self._finish_at(self._text.tokens_within(len(self._text.text)), "end")
        else:
            self._append(token, logprobs[0])
            self._look_for_stop()

    def result(self) -> Generated:
        ids = tuple(self.ids[self.base :])
        step = StepText(text=self._text.text, ids=ids, tokenizer_fingerprint=self._vocabulary.fingerprint)
        return Generated(
            step=step,
            logprobs=tuple(self._logprobs),
            finish=self._finish or "length",
            end=self._end,
            stop_string=self._stop_string,
            trimmed_tokens=self._trimmed,
            work=self.work(),
        )

    def _append(self, token: int, logprob: float) -> None:
        self.ids.append(token)
        self._logprobs.append(logprob)
        self._text.push(self._vocabulary.piece(token))
        self.goal += 1
        self.wanted += 1

    def _look_for_stop(self) -> None:
        cut = find_stop(self._text, self._stop)
        if cut is not None:
            self._stop_string = cut.string
            self._stop_at(cut.length)
        elif len(self._logprobs) >= self._limit:
            whole = self._text.tokens_within(len(self._text.text))
            self._finish_at(word_end(self._text) if self._stop.whole_words else whole, "length")

    def _stop_at(self, length: int) -> None:
        text = self._text.text
        kept = len(self._text.ends) if length == len(text) else self._text.tokens_within(length)
        rest = text[self._text.before(kept) : length]
        self._finish_at(kept, "stop")
        if rest:
            self._forced = self._vocabulary.tokenize(rest)

    def _finish_at(self, kept: int, finish: Finish) -> None:
        self._finish = finish
        dropped = len(self._logprobs) - kept
        if dropped:
            self._trimmed += dropped
            pieces = self.ids[self.base : self.base + kept]
            del self.ids[self.base + kept :], self._logprobs[kept:]
            self.goal -= dropped
            self.wanted -= dropped
            self._text = TokenText()
            for token in pieces:
                self._text.push(self._vocabulary.piece(token))
