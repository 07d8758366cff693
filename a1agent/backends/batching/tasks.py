"""Calls as the worker sees them: what to decode, whose logits to read, what to do with them."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from a1agent.backends.base import Generated, Sampling, Stop, TokenScores, Work
from a1agent.backends.batching.cache import Lane, new_ids
from a1agent.backends.batching.runner import END, Vocabulary
from a1agent.backends.batching.writing import Writing

__all__ = ["Generate", "Holder", "Prefill", "Score", "Task"]


class Holder:
    """The worker's side of a sequence: its lane, if it has one. A smaller `age` was opened earlier and goes first.

    `source`: what the prompt was made from, for backends that send it anew with every call. `read`: how many leading
    tokens of its text the model has run on, whether or not they are still in a cache. `resumed`: a prompt to come may
    go on from its text.
    """

    __slots__ = ("age", "closed", "forked", "lane", "prompt", "read", "resumed", "source", "task")
    _next_age: ClassVar[int] = 0

    def __init__(self, prompt: int, source: object = None) -> None:
        self.source = source
        self.lane: Lane | None = None
        self.task: Task | None = None
        self.prompt = prompt
        self.read = 0
        self.closed = False
        self.forked = False
        self.resumed = True
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
        self.reread = 0
        self.compute_s = 0.0
        self.forward_s = 0.0
        self.started = time.perf_counter()
        self.sampler: Any = None
        self.resolve: Callable[[object], None] = _ignore  # hands a result or an error to the coroutine, once bound

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
            reread_tokens=self.reread,
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

        self.resolve = resolve
        return future


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
        self.step = tuple(step)
        self.end = end
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
        end = self._logprobs[-1] if self.end else None
        scores = self._logprobs[: len(self.step)]
        return TokenScores(ids=self.step, logprobs=tuple(scores), end=end, work=self.work())


class Generate(Task):
    """Samples tokens until a stop, the end of the turn, or `limit` tokens."""

    def __init__(
        self, holder: Holder, ids: array[int], limit: int, sampling: Sampling, stop: Stop, vocabulary: Vocabulary
    ) -> None:
        super().__init__(holder, ids, goal=len(ids), wanted=len(ids) - 1)
        self.sampling = sampling
        self.limit = limit
        self.stop = stop
        self._vocabulary = vocabulary
        self._writing = Writing(limit, stop)
        self._forced: list[int] = []

    @property
    def done(self) -> bool:
        return self._writing.finish is not None and not self._forced

    def targets(self, start: int, stop: int) -> list[int | None]:
        return [self._forced[0]] if self._forced else [None]

    def reads(self, token: int) -> int:
        return END if token in self._vocabulary.end_ids else token

    def accept(self, tokens: list[int], logprobs: list[float]) -> None:
        token, writing = tokens[0], self._writing
        if self._forced:
            token = self._forced.pop(0)
            writing.add_rest(token, self._vocabulary.piece(token), logprobs[0])
        elif token in self._vocabulary.end_ids:
            writing.end_turn(logprobs[0])
        else:
            writing.add(token, self._vocabulary.piece(token), logprobs[0])
            self._forced = self._vocabulary.tokenize(writing.rest) if writing.rest else []
        self._follow(token)

    @property
    def left(self) -> int:
        """Most tokens that it may still write."""
        return self.limit - len(self._writing.ids)

    def adopt(self, writing: Writing) -> None:
        """Takes what was written elsewhere as the result of this call."""
        self._writing = writing
        self.ids.extend(writing.ids)

    def result(self) -> Generated:
        return self._writing.generated(self._vocabulary.fingerprint, self.work())

    def _follow(self, token: int) -> None:
        """Brings the ids to what is written: one token more, or some fewer where the text was trimmed."""
        written = len(self._writing.ids)
        if written > len(self.ids) - self.base:
            self.ids.append(token)
        del self.ids[self.base + written :]
        self.goal = len(self.ids)
        self.wanted = self.goal - 1
