"""Models on servers, behind the same sequences as models in this process.

The ids of a chain live here and are sent with every call; the server's prefix cache makes that cheap. To rewind is to
cut the list, to fork is to copy it, to append is to let a text ride with the next call. Streams are read token by token
and closed as soon as the step is whole, so that the server stops; what it had sent beyond is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from a1agent.backends.base import Counters, ModelInfo, Sampling, StepText, TokenScores
from a1agent.backends.batching.sequence import BatchedBackend, BatchedSequence
from a1agent.backends.batching.tasks import Generate, Holder, Prefill, Score, Task
from a1agent.backends.batching.writing import Writing
from a1agent.backends.http import Http, Line, Refused
from a1agent.backends.retries import BadReply, Retryable
from a1agent.backends.server_schemas import ServerSchemas
from a1agent.backends.shared_time import SharedTime
from a1agent.backends.vocabulary import ChatTokenizer
from a1agent.backends.wire import UNKNOWN, Chunk, Read, Scored, Text, Tokens, Wire
from a1agent.errors import A1Error, BackendClosed, BackendError, CannotScore
from a1agent.types import Question

__all__ = ["RemoteBackend", "RemoteEngine"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_SINGLY = 8
"""Streams that are read token by token; of so many more a token more is asked for at a time."""
_MOST_AT_A_TIME = 8
"""Tokens. A step ends within a chunk: half a chunk is written for nothing."""


class RemoteEngine:
    """Carries out the calls of one model's sequences on its server. `turn_end`: the id that ends a turn, if known."""

    def __init__(self, http: Http, wire: Wire, tokenizer: ChatTokenizer, turn_end: int | None) -> None:
        self.closed = False
        self.http = http
        self.wire = wire
        self.tokenizer = tokenizer
        self._turn_end = turn_end
        self._time = SharedTime()
        self._schemas = ServerSchemas()
        self._name = secrets.token_hex(8)
        self._running: dict[Task, asyncio.Task[None]] = {}
        self._decoded = 0
        self._requests = 0
        self._alive = 0
        self._writing = 0

    @property
    def counters(self) -> Counters:
        """What was done so far; `forwards` counts attempts at calls, `decoded_tokens` what the server reports."""
        return Counters(decoded_tokens=self._decoded, forwards=self._requests, sequences_alive=self._alive)

    def opened(self) -> None:
        """Counts a sequence."""
        self._alive += 1

    def start(self, task: Task) -> None:
        """Runs a call."""
        self._post(lambda: self._spawn(task), otherwise=lambda: task.resolve(_closed()))

    def cancel(self, task: Task) -> None:
        """Ends a call: its request is closed, so that the server stops."""
        self._post(lambda: self._cancel(task))

    def trim(self, holder: Holder, length: int) -> None:
        """The next call sends what is left."""
        holder.read = min(holder.read, length - 1)

    def fork(self, parent: Holder, child: Holder, length: int) -> None:
        """Counts a sequence; it has its own session with the servers."""
        self.opened()
        child.read = min(parent.read, length - 1)

    def release(self, holder: Holder) -> None:
        """Forgets a sequence's session."""
        self._alive -= 1
        session = self._session(holder)
        self._post(lambda: self.http.replicas.forget(session))

    def settle(self, then: Callable[[], None]) -> None:
        """Calls `then` once the calls that run now have ended."""

        async def wait() -> None:
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            then()

        self._post(lambda: self._keep(asyncio.ensure_future(wait())), otherwise=then)

    def close(self, then: Callable[[], None]) -> None:
        """Ends running calls with `BackendClosed`, closes the connections, and calls `then`."""
        self.closed = True

        def shut() -> None:
            try:
                self.http.close()
                self.tokenizer.close()
            finally:
                then()

        threading.Thread(target=shut, name="a1agent-close").start()

    def _post(self, command: Callable[[], object], otherwise: Callable[[], None] | None = None) -> None:
        try:
            self.http.thread.loop.call_soon_threadsafe(command)
        except RuntimeError:  # the loop was closed
            if otherwise is not None:
                otherwise()

    def _session(self, holder: Holder) -> str:
        return f"{self._name}-{holder.age}"

    def _spawn(self, task: Task) -> None:
        if self.closed:
            task.resolve(_closed())
            return
        running = self._running[task] = asyncio.get_running_loop().create_task(self._run(task))
        running.add_done_callback(lambda _: self._running.pop(task, None))

    def _keep(self, future: asyncio.Future[None]) -> None:
        self._settling = future  # a task that nobody refers to may vanish

    def _cancel(self, task: Task) -> None:
        if task in self._running:
            self._running[task].cancel()

    async def _run(self, task: Task) -> None:
        try:
            await self._perform(task)
            task.resolve(task.result())
        except asyncio.CancelledError:
            task.resolve(_closed())
            raise
        except A1Error as error:
            task.resolve(error)
        except Exception as error:
            task.resolve(BackendError(f"the call on {self.http} failed: {error!r}", "please report this"))

    async def _perform(self, task: Task) -> None:
        session = self._session(task.holder)
        match task:
            case Generate():
                task.adopt(await self.http.call(lambda line: self._timed(task, self._write(line, task)), session))
            case Score() if not task.done:
                scored = await self.http.call(lambda line: self._timed(task, self._score(line, task)), session)
                task.accept([], scored.logprobs)
            case Prefill():
                text = Text(task.ids.tolist(), task.holder.prompt, task.holder.source)
                read = await self.http.call(lambda line: self._timed(task, self.wire.warm(line, text)), session)
                if read is None:
                    return
                self._count(task, read)
            case _:
                return
        task.holder.read = len(task.ids) - 1

    async def _timed(self, task: Task, attempt: Awaitable[T]) -> T:
        """Only the attempt that counts is the server's time; what came before it was waiting.

        What the server does at a time for several calls is shared out among them, as in forwards in this process.
        """
        self._requests += 1
        with self._time.call() as spent:
            result = await attempt
        task.compute_s, task.forward_s = spent.share_s, spent.total_s
        return result

    async def _write(self, line: Line, task: Generate) -> Writing:
        """What the server writes, held to as much of the schema as it has grammars for: whoever asked checks anyway."""
        asked = task.sampling.schema
        for schema in self._schemas.forms(asked):
            try:
                writing = await self._stream(line, task, replace(task.sampling, schema=schema))
            except Refused as error:
                _log.debug("the server refused the schema: %s", error)
            else:
                self._schemas.took(asked, schema)
                return writing
        writing = await self._stream(line, task, replace(task.sampling, schema=None))
        if self._schemas.took(asked, None):
            _log.warning("%s is not held to a JSON schema, answers are only checked afterwards", line.url)
        return writing

    async def _stream(self, line: Line, task: Generate, sampling: Sampling) -> Writing:
        """What the server writes, from the start: a stream that broke off leaves nothing behind."""
        ids, writing = task.ids.tolist(), Writing(task.limit, task.stop)
        text = Text(ids, task.holder.prompt, task.holder.source)
        self._writing += 1
        try:
            async with aclosing(self.wire.write(line, text, task.limit, sampling, self._interval())) as chunks:
                read = await self._take(chunks, writing)
        finally:
            self._writing -= 1
        if writing.finish is None:
            raise BadReply(f"{line.url} ended its stream in the middle of a text", "see the server's log")
        again = await self._complete(line, ids, writing, sampling)
        self._count(task, read or Read(len(ids)), written=len(writing.ids) + writing.trimmed)
        if again is not None:
            self._count(task, again)
        return writing

    def _interval(self) -> int:
        """Tokens to ask for at a time: what a chunk costs here is much the same however many it holds.

        One where tokens are known by the text they come with only.
        """
        if not self.tokenizer.exact:
            return 1
        return self.http.options.stream_interval or min(_MOST_AT_A_TIME, max(1, self._writing // _SINGLY))

    async def _take(self, chunks: AsyncGenerator[Chunk], writing: Writing) -> Read | None:
        """Reads a stream until the text is finished, and what the server says it read.

        One that the server ended is read to its end, so that its connection can be used again.
        """
        marks, read, ended = self.tokenizer.marks, None, False
        tokens = Tokens(self.tokenizer.piece if self.tokenizer.exact else None, marks.pieces if marks else {})
        ends = marks.ends if marks else ()
        try:
            async for chunk in chunks:
                read = chunk.read or read
                ended = ended or chunk.finish is not None
                _add(tokens, chunk, writing, ends)
                if writing.finish is not None and not ended:
                    break
        except Retryable:
            if not ended:
                raise
        return read

    async def _complete(self, line: Line, ids: list[int], writing: Writing, sampling: Sampling) -> Read | None:
        """Adds the text before a stop that fell inside a token, and log-probabilities that the stream did not have.

        What was read for those, if anything.
        """
        known = len(writing.ids)
        for token, piece in await self._pieces(writing.rest) if writing.rest else []:
            writing.add_rest(token, piece, UNKNOWN)
        if self.wire.raw(sampling):
            if len(writing.ids) == known or not self.wire.can_score:
                return None
        else:
            known = 0
        turn_end = self._end_after([*ids, *writing.ids]) if writing.finish == "end" else None
        end = [] if turn_end is None else [turn_end]
        start = len(ids) + known
        if len(writing.ids) + len(end) == known:
            return None
        scored = await self.wire.score(line, [*ids, *writing.ids, *end], start)
        scores = _checked(scored.logprobs, len(writing.ids) + len(end) - known, line)
        if end:
            writing.end = scores.pop()
        writing.logprobs[known:] = scores
        return scored.read

    async def _pieces(self, rest: str) -> list[tuple[int, bytes]]:
        ids = await self.tokenizer.learn(rest)
        if self.tokenizer.exact:
            return [(token, self.tokenizer.piece(token)) for token in ids]
        return [*((token, b"") for token in ids[:-1]), (ids[-1], rest.encode())]

    async def _score(self, line: Line, task: Score) -> Scored:
        ids = task.ids.tolist()
        if task.end:
            turn_end = self._end_after(ids)
            if turn_end is None:
                raise CannotScore("how this model ends its turn is not known", "give its tokenizer: ?tokenizer=PATH")
            ids.append(turn_end)
        scored = await self.wire.score(line, ids, task.base)
        _checked(scored.logprobs, len(ids) - task.base, line)
        self._count(task, scored.read)
        return scored

    def _end_after(self, ids: list[int]) -> int | None:
        own = self.tokenizer.marks.end_after(ids) if self.tokenizer.marks else None
        return self._turn_end if own is None else own

    def _count(self, task: Task, read: Read, written: int = 0) -> None:
        """What one request cost. A server that does not tell is taken to have read what it could not know yet."""
        known = min(task.holder.read, task.base)
        found = known if read.cached is None else read.cached
        task.cached += read.cached or 0
        task.reread += max(0, known - found) if read.exact else 0
        task.decoded += max(0, read.tokens - found) + written
        self._decoded += max(0, read.tokens - found) + written


class RemoteSequence(BatchedSequence):
    """A growing text whose ids live here."""

    _backend: RemoteBackend

    async def score(self, step: StepText, end: bool = False) -> TokenScores:
        """As of every sequence. Raises `CannotScore` too."""
        if not self._backend.info.can_score:
            name = self._backend.info.name
            raise CannotScore(f"{name} cannot score a given text", "use it as draft, with a target that can")
        self._check()
        await self._backend.learn(step)
        return await super().score(step, end)

    async def append(self, step: StepText) -> None:
        """As of every sequence."""
        self._check()
        await self._backend.learn(step)
        await super().append(step)


class RemoteBackend(BatchedBackend):
    """A model on a server."""

    sequence_type = RemoteSequence

    def __init__(self, engine: RemoteEngine, info: ModelInfo) -> None:
        super().__init__(engine, info, engine.tokenizer)
        self._remote = engine

    async def open(self, question: Question) -> BatchedSequence:
        """A sequence that holds the prompt of `question`, through the model's chat template.

        Raises `ContextOverflow` when the prompt does not fit, `UsageError` when the template cannot take it.
        """
        prompt = await self._there(self._remote.tokenizer.encode(question))
        return await self.open_ids(prompt.ids, question, prompt.thinking)

    async def learn(self, step: StepText) -> None:
        """Has the ids of a step ready, where they have to be asked for."""
        if step.tokenizer_fingerprint != self.vocabulary.fingerprint or step.ids is None:
            await self._there(self._remote.tokenizer.learn(step.text))

    async def _there(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the loop of the connections."""
        if self.engine.closed:
            coroutine.close()
            raise _closed()
        try:
            return await asyncio.wrap_future(self._remote.http.thread.submit(coroutine))
        except asyncio.CancelledError:
            if self.engine.closed:
                raise _closed() from None
            raise


def _add(tokens: Tokens, chunk: Chunk, writing: Writing, ends: tuple[int, ...]) -> None:
    """What comes after the text is finished is dropped, and counted. `ends`: ids that end a turn."""
    for token, piece, logprob in tokens.of(chunk):
        if writing.finish is not None:
            writing.trimmed += 1
        elif token in ends:
            writing.end_turn(logprob)
        else:
            writing.add(token, piece, logprob)
    if writing.finish is None and chunk.finish == "end":
        writing.end_turn(chunk.end)
    elif writing.finish is None and chunk.finish == "length":
        writing.end_by_length()


def _checked(logprobs: list[float], count: int, line: Line) -> list[float]:
    """Raises `BadReply` unless there are as many numbers as tokens; what is no number is left to the engine."""
    if len(logprobs) != count:
        raise BadReply(f"{line.url} scored {len(logprobs)} tokens of {count}", "see the server's log")
    if any(not math.isnan(value) and value > 1e-3 for value in logprobs):
        raise BadReply(f"{line.url} sent a probability above 1", "see the server's log")
    return logprobs


def _closed() -> BackendClosed:
    return BackendClosed("the backend was closed", "open it again")
