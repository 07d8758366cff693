"""The backend and its sequences as coroutines see them; what runs the model is the engine's worker."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from typing import Any, Protocol

from a1agent.backends.base import (
    Counters,
    Generated,
    Mark,
    ModelInfo,
    Sampling,
    StepText,
    Stop,
    TokenScores,
    Work,
)
from a1agent.backends.batching.cache import new_ids
from a1agent.backends.batching.runner import Vocabulary
from a1agent.backends.batching.tasks import Generate, Holder, Prefill, Score, Task
from a1agent.errors import BackendClosed, BackendError, CannotRewind, ContextOverflow, InvalidOption

__all__ = ["BatchedBackend", "BatchedSequence", "Caller"]


class Caller(Protocol):
    """What carries calls out: the engine of a model in this process, or one that asks a server. Nothing here blocks."""

    closed: bool

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        ...

    def opened(self) -> None:
        """Counts a sequence."""
        ...

    def start(self, task: Task) -> None:
        """Runs a call, and resolves it."""
        ...

    def cancel(self, task: Task) -> None:
        """Ends a call whose coroutine was cancelled."""
        ...

    def trim(self, holder: Holder, length: int) -> None:
        """A sequence was rewound to its first `length` ids."""
        ...

    def fork(self, parent: Holder, child: Holder, length: int) -> None:
        """A new sequence shares the first `length` ids of another; counts it."""
        ...

    def release(self, holder: Holder) -> None:
        """A sequence was closed."""
        ...

    def settle(self, then: Callable[[], None]) -> None:
        """Calls `then` once everything asked for so far was done."""
        ...

    def close(self, then: Callable[[], None]) -> None:
        """Ends running calls with `BackendClosed`, frees what is held, and calls `then`."""
        ...


class BatchedSequence:
    """One growing text: the ids, all but a pending tail of them decoded in a lane of the model's cache.

    The ids belong to the coroutine side and change only when a call has ended, so cancelling a call restores them by
    doing nothing.
    """

    def __init__(
        self, backend: BatchedBackend, ids: array[int], prompt: int, source: object = None, thinking: bool = False
    ) -> None:
        self._backend = backend
        self._engine = backend.engine
        self._ids = ids
        self._prompt = prompt
        self._holder = Holder(prompt, source)
        self._running = False
        self._closed = False
        self.prompt_work = Work()
        self.thinking = thinking

    @property
    def length(self) -> int:
        """Tokens in the sequence, prompt included."""
        return len(self._ids)

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens of the sequence, prompt included."""
        return tuple(self._ids)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self._prompt

    async def generate(self, max_tokens: int, sampling: Sampling, stop: Stop) -> Generated:
        """Samples up to `max_tokens` tokens and appends them.

        Raises `ContextOverflow` when not even one token fits, `BackendError` when the model fails.
        """
        self._check()
        if max_tokens < 1:
            raise InvalidOption(f"max_tokens is {max_tokens}", "ask for at least one token")
        self._check_room(1)
        limit = min(max_tokens, self._backend.info.context_length - len(self._ids))
        vocabulary = self._backend.vocabulary
        return await self._call(Generate(self._holder, self._ids[:], limit, sampling, stop, vocabulary))

    async def score(self, step: StepText, end: bool = False) -> TokenScores:
        """Appends the step and returns the log-probability of each of its tokens; with `end`, of ending the turn too.

        Raises `ContextOverflow` (the sequence is as before), `BackendError`.
        """
        self._check()
        ids = self._backend.ids_of(step)
        self._check_room(len(ids))
        return await self._call(Score(self._holder, self._ids[:], ids, end))

    def text_of(self, ids: tuple[int, ...]) -> str | None:
        """The text of tokens of this model; None where they end inside a character, or the model cannot tell."""
        if not self._backend.info.can_spell:
            return None
        try:
            return b"".join(map(self._backend.vocabulary.piece, ids)).decode()
        except UnicodeDecodeError:
            return None

    async def append(self, step: StepText) -> None:
        """Appends the step without running the model: it rides with the next call. Raises `ContextOverflow`."""
        self._check()
        ids = self._backend.ids_of(step)
        self._check_room(len(ids))
        self._ids.extend(ids)

    async def prefill(self) -> None:
        """Decodes the prompt but for its last token; `prompt_work` then says what that cost."""
        self._check()
        self.prompt_work = await self._call(Prefill(self._holder, self._ids[:]))

    def fork(self) -> BatchedSequence:
        """An independent sequence with the same text; shares the prefix in the cache and decodes nothing."""
        self._check()
        child = type(self)(self._backend, self._ids[:], self._prompt, self._holder.source, self.thinking)
        self._engine.fork(self._holder, child._holder, len(self._ids))
        return child

    def mark(self) -> Mark:
        """The present end of the sequence."""
        return Mark(len(self._ids))

    def rewind(self, mark: Mark) -> None:
        """Drops what came after `mark`. Raises `CannotRewind` where the model cannot."""
        self._check()
        if not 0 < mark.length <= len(self._ids):
            raise CannotRewind(f"the mark is at {mark.length}, the sequence ends at {len(self._ids)}", "rewind once")
        if mark.length == len(self._ids):
            return
        if not self._backend.info.can_rewind:
            raise CannotRewind(f"{self._backend.info.name} keeps a state that only grows", "use an attention model")
        del self._ids[mark.length :]
        self._engine.trim(self._holder, mark.length)

    async def close(self, *, resumed: bool = True) -> None:
        """Frees the sequence; closing twice is fine. Of what was closed the text `resumed` last stays cached."""
        self._holder.resumed = resumed
        self._release()

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.release(self._holder)

    async def _call(self, task: Task) -> Any:
        future = task.bind(asyncio.get_running_loop())
        self._running = True
        self._engine.start(task)
        try:
            result = await future
        except asyncio.CancelledError:
            self._engine.cancel(task)
            raise
        finally:
            self._running = False
        self._ids = task.ids
        return result

    def _check(self) -> None:
        if self._engine.closed or self._closed:
            what = "backend" if self._engine.closed else "sequence"
            raise BackendClosed(f"the {what} was closed", "open it again")
        if self._running:
            raise BackendError("a call runs on this sequence", "await it first, or fork the sequence before")

    def _check_room(self, tokens: int) -> None:
        context = self._backend.info.context_length
        if len(self._ids) + tokens > context:
            raise ContextOverflow(
                f"{len(self._ids)} + {tokens} tokens are more than the context of {context}",
                "raise n_ctx, or lower the number of turns or the step length",
            )


class BatchedBackend:
    """A loaded model behind an engine. Subclasses say how a question becomes ids (`open`)."""

    def __init__(self, engine: Caller, info: ModelInfo, vocabulary: Vocabulary) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self._info = info

    @property
    def info(self) -> ModelInfo:
        """What the model is and can do."""
        return self._info

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        return self.engine.counters

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of a text; control tokens in it are plain text."""
        return tuple(self.vocabulary.tokenize(text))

    def ids_of(self, step: StepText) -> tuple[int, ...]:
        """A step's ids in this vocabulary: those it carries when they are of this vocabulary, else of its text."""
        ours = step.tokenizer_fingerprint == self.vocabulary.fingerprint
        if ours and step.ids is not None and all(0 <= token < self.vocabulary.size for token in step.ids):
            return step.ids
        return self.tokenize(step.text)

    sequence_type: type[BatchedSequence] = BatchedSequence

    async def open_ids(self, ids: list[int], source: object = None, thinking: bool = False) -> BatchedSequence:
        """A sequence that holds a prompt of token ids. Raises `ContextOverflow` when it does not fit.

        `thinking`: the prompt ends inside a thought.
        """
        if self.engine.closed:
            raise BackendClosed(f"{self._info.name} was closed", "load it again")
        if len(ids) >= self._info.context_length:
            raise ContextOverflow(
                f"the prompt has {len(ids)} tokens, the context of {self._info.name} holds {self._info.context_length}",
                "shorten the question or raise n_ctx",
            )
        self.engine.opened()
        sequence = self.sequence_type(self, new_ids(ids), len(ids), source, thinking)
        try:
            await sequence.prefill()
        except BaseException:
            await sequence.close()
            raise
        return sequence

    async def settle(self) -> None:
        """Returns when what was closed, forked and rewound so far is done in the cache; for tests that count."""
        if not self.engine.closed:
            future, done = _completion()
            self.engine.settle(done)
            await future

    async def aclose(self) -> None:
        """Frees the model; running calls end with `BackendClosed`. Closing twice is fine."""
        if self.engine.closed:
            return
        future, done = _completion()
        self.engine.close(done)
        await future


def _completion() -> tuple[asyncio.Future[None], Any]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def deliver() -> None:
        if not future.done():
            future.set_result(None)

    def done() -> None:
        try:
            loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop was closed: nobody waits
            return

    return future, done
