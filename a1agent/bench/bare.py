"""Rates of a model with nothing but the model at work: what a run's seconds are held against."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import cycle, islice

from a1agent.backends.base import Backend, Sampling, Sequence, StepText, Stop
from a1agent.types import Question, Result

__all__ = ["Workload", "scoring_rate", "writing_rate"]

_SECONDS, _MOST_ROUNDS = 0.3, 8
_TOKENS = 64
"""Tokens a sequence writes in one go, and in a round. Rounds go on until there is something to measure."""


class Workload:
    """What a run had its models do: a question, and chains whose steps are scored and gone on from once more."""

    def __init__(self, question: Question, result: Result) -> None:
        self.question = question
        chains = [[turn.drafted for turn in chain.turns if turn.drafted.text] for chain in result.chains]
        self.chains = [chain for chain in chains if chain]
        self.texts = [chain.text for chain in result.chains if chain.text]


async def writing_rate(backend: Backend, work: Workload, batch: int, sampling: Sampling) -> float:
    """Tokens per second of `batch` sequences that write steps at once, from the middle of their chains on."""
    root = await backend.open(work.question)
    grown: list[Sequence] = []
    for text in islice(cycle(work.texts or [""]), batch):
        sequence = root.fork()
        grown.append(sequence)
        await sequence.append(StepText(text=text[: len(text) // 2]))
    freely = Stop(whole_words=False)
    await asyncio.gather(*(sequence.generate(1, sampling, freely) for sequence in grown))

    async def step(index: int) -> int:
        child = grown[index % batch].fork()
        drawn = replace(sampling, seed=sampling.seed + index)
        said = await child.generate(_TOKENS, drawn, freely)
        await child.close()
        return len(said.logprobs) + said.trimmed_tokens + (said.finish == "end")

    rate = await _rate(step, batch)
    await asyncio.gather(*(sequence.close() for sequence in (*grown, root)))
    return rate


async def scoring_rate(backend: Backend, work: Workload, batch: int) -> float:
    """Tokens per second of `batch` sequences whose steps are scored at once."""
    root = await backend.open(work.question)
    fingerprint = backend.info.tokenizer_fingerprint
    texts = [[step.text for step in chain] for chain in work.chains] or [[" "]]
    chains = [[StepText(text=t, ids=backend.tokenize(t), tokenizer_fingerprint=fingerprint) for t in c] for c in texts]

    async def chain(index: int) -> int:
        sequence, tokens = root.fork(), 0
        for step in chains[index % len(chains)]:
            tokens += len((await sequence.score(step)).ids)
        await sequence.close()
        return tokens

    rate = await _rate(chain, batch)
    await root.close()
    return rate


async def _rate(work: Callable[[int], Awaitable[int]], batch: int) -> float:
    """Tokens per second of `work`, `batch` at a time. The first round is warm-up and does not count."""
    await _round(work, batch)
    began, tokens = time.perf_counter(), 0
    for _ in range(_MOST_ROUNDS):
        tokens += await _round(work, batch)
        if time.perf_counter() - began > _SECONDS:
            break
    return tokens / (time.perf_counter() - began)


async def _round(work: Callable[[int], Awaitable[int]], batch: int) -> int:
    """Workers go on until their tokens are done together, so that the batch stays full to the last."""
    quota, done = batch * _TOKENS, 0

    async def worker(index: int) -> None:
        nonlocal done
        at = index
        while done < quota:
            tokens = await work(at)  # not inside the sum: others add to it meanwhile
            done, at = done + tokens, at + batch

    await asyncio.gather(*(worker(index) for index in range(batch)))
    return done
