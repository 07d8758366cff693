"""A tiny model in llama.cpp as a server sees it: ids in, sampled tokens and log-probabilities out."""

import asyncio
import codecs
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a1agent.backends import llama_cpp
from a1agent.backends.base import Sampling, StepText, Stop
from a1agent.backends.batching.cache import new_ids
from a1agent.backends.batching.tasks import Generate, Holder

# Half floats and flash attention make the third digit of a score depend on what else is in the batch.
EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "off", "n_threads": 1}


@dataclass
class Sampled:
    """A token as it was drawn: its text so far, and whether it ended the turn. `cached`: tokens before all of them that
    were in the cache.
    """

    token: int
    logprob: float
    text: str
    finish: str | None = None
    cached: int = 0


class _Raw(Generate):
    """Draws tokens and hands each over at once; nothing is trimmed, no stop is looked for."""

    def __init__(self, *args: Any, emit: Any) -> None:
        super().__init__(*args)
        self._emit = emit
        self._over = False

    @property
    def done(self) -> bool:
        return self._over

    def reads(self, token: int) -> int:
        return token

    def accept(self, tokens: list[int], logprobs: list[float]) -> None:
        self.ids.append(tokens[0])
        self.goal, self.wanted = len(self.ids), len(self.ids) - 1
        ended = tokens[0] in self._vocabulary.end_ids
        self._over = ended or len(self.ids) - self.base >= self.limit
        self._emit((tokens[0], logprobs[0], "stop" if ended else "length" if self._over else None))


class Model:
    """Loads a GGUF file; used from one event loop."""

    def __init__(self, path: Path, context: int = 1024) -> None:
        self.path = path
        self.backend = llama_cpp.load(str(path), n_ctx=context, **EXACT)
        self.context = self.backend.info.context_length
        self.vocabulary: Any = self.backend.vocabulary
        self.template: Any = self.backend._template
        self.generated = 0
        self._progress = threading.Condition()

    def wait_for(self, generated: int) -> None:
        """Blocks until that many tokens were drawn in all."""
        with self._progress:
            assert self._progress.wait_for(lambda: self.generated >= generated, timeout=30)

    def ids(self, text: str) -> list[int]:
        """As a server's tokenizer does it: control tokens are parsed wherever they stand, no BOS."""
        ids = self.vocabulary.tokenize_pieces(list(self.template.split(text))) if text else []
        return ids[1:] if self.vocabulary.bos is not None else ids

    def render(self, messages: list[dict[str, Any]], started: bool, told: dict[str, Any] | None = None) -> str:
        """A conversation through the chat template; of one that is `started` the last message stays open."""
        if not started:
            return self.template._render(messages, None, told or {}, add_generation_prompt=True)
        return self.template._continued(messages, None, told or {}, "\ue123")

    def prompt(self, messages: list[dict[str, Any]], started: bool, told: dict[str, Any] | None = None) -> list[int]:
        return self.with_bos(self.ids(self.render(messages, started, told)))

    def with_bos(self, ids: list[int]) -> list[int]:
        bos = self.vocabulary.bos
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    async def score(self, ids: list[int], start: int) -> tuple[list[float], int]:
        """Log-probabilities of `ids[start:]`, and how many tokens before were in the cache."""
        sequence = await self.backend.open_ids(ids[:start])
        try:
            step = StepText(text="", ids=tuple(ids[start:]), tokenizer_fingerprint=self.vocabulary.fingerprint)
            scores = await sequence.score(step)
            return list(scores.logprobs), sequence.prompt_work.cached_tokens
        finally:
            await sequence.close()

    async def sample(self, ids: list[int], limit: int, sampling: Sampling) -> AsyncGenerator[Sampled, None]:
        """Tokens as they are drawn; closing the generator stops the model."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        holder = Holder(len(ids))
        task = _Raw(
            holder,
            new_ids(ids),
            min(limit, self.context - len(ids)),
            sampling,
            Stop(),
            self.vocabulary,
            emit=lambda item: loop.call_soon_threadsafe(queue.put_nowait, item),
        )
        future = task.bind(loop)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.backend.engine.opened()
        self.backend.engine.start(task)
        finish = None
        try:
            while finish is None:
                token, logprob, finish = await queue.get()
                with self._progress:
                    self.generated += 1
                    self._progress.notify_all()
                piece = b"" if token in self.vocabulary.end_ids else self.vocabulary.piece(token)
                yield Sampled(token, logprob, decoder.decode(piece, finish is not None), finish, task.cached)
        finally:
            if finish is None:
                self.backend.engine.cancel(task)
            future.cancel()
            self.backend.engine.release(holder)
