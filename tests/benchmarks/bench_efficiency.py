"""Efficiency: what llama.cpp alone would take for the tokens of a run, as a share of what the run took.

    python tests/benchmarks/bench_efficiency.py [--chains 16] [--turns 8] [--rounds 2] [--rate 0.3] [--kv apart] [--cpu]

A random draft of 30 million and a random target of 300 million parameters (Q8_0, written on first use) share the
processor. Ideal seconds: drafted tokens / the draft's decode rate + scored tokens / the target's scoring rate + the
target's tokens / its decode rate, each measured with bare llama.cpp (`bench_llama_cpp.Bare`) after each run, at the
mean batch that occurred; medians count, for one such measurement is as uncertain as the machine is restless. Two kinds
of run are held against it: `backends` drives the sequences and nothing else; `A1` is a whole call, with events,
calibration, tokenizing and voting. The prompt is in the seconds and not in the ideal ones.
`--kv`: chains have cells of their own, or share one pool, where each token is compared with cells of all.
`--cpu` counts seconds of this process's CPU instead of the clock's: other programs on the machine disturb them less,
and time in which nothing ran is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

from bench_llama_cpp import Bare, Clock, some_ids
from random_gguf import Shape, random_model

from a1agent import A1, Question, Result, VoteClosed
from a1agent.backends.base import Backend, Sampling, Sequence, Stop
from a1agent.backends.llama_options import physical_cores
from a1agent.bench.timeline import PHASES, Phase, Timeline

DRAFT = Shape("30m", width=384, layers=3, inner=1024, heads=6)
TARGET = Shape("300m", width=1024, layers=18, inner=2816, heads=16)
STEP = 48
FREELY = Stop(whole_words=False)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a run and the tokens it was for, by phase."""

    seconds: float
    tokens: dict[Phase, int]

    def ideal(self, seconds_a_token: dict[Phase, float]) -> float:
        """What the tokens take at bare rates."""
        return sum(self.tokens[phase] * seconds_a_token[phase] for phase in PHASES)


async def whole_call(a1: A1, question: Question, clock: Clock) -> tuple[Cost, Result, dict[Phase, int]]:
    """A call of A1: its cost, its result, and the mean batch of each phase."""
    began, line = clock(), Timeline(time.perf_counter())
    result: Result | None = None
    async for event in a1.astream(question):
        line.add(event, time.perf_counter())
        result = event.result if isinstance(event, VoteClosed) else None
    seconds = clock() - began
    assert result is not None
    read, written = result.stats.scored_tokens, result.usage.target.output_tokens
    tokens: dict[Phase, int] = {"draft": result.stats.drafted_tokens, "verify": read, "takeover": written}
    batches = {phase: max(1, round(span.batch)) for phase, span in line.spans().items()}
    return Cost(seconds, tokens), result, batches


async def backends_alone(
    draft: Backend, target: Backend, question: Question, clock: Clock, options: argparse.Namespace
) -> Cost:
    """The same schedule without an engine: chance says what is taken over."""
    began = clock()
    roots = await asyncio.gather(draft.open(question), target.open(question))
    tokens: dict[Phase, int] = dict.fromkeys(PHASES, 0)

    async def chain(index: int) -> None:
        rng = random.Random(index)
        d, t = (root.fork() for root in roots)
        for turn in range(options.turns):
            sampling, marks = Sampling(seed=1000 * index + turn), (d.mark(), t.mark())
            said = await d.generate(STEP, sampling, FREELY)
            scores = await t.score(said.step)
            tokens["draft"] += len(said.logprobs)
            tokens["verify"] += len(scores.ids)
            if rng.random() < options.rate:
                d.rewind(marks[0])
                t.rewind(marks[1])
                written = await take_over(d, t, replace(sampling, seed=sampling.seed + 500))
                tokens["takeover"] += written
        await asyncio.gather(d.close(), t.close())

    await asyncio.gather(*(chain(i) for i in range(options.chains)))
    await asyncio.gather(*(root.close() for root in roots))
    return Cost(clock() - began, tokens)


async def take_over(draft: Sequence, target: Sequence, sampling: Sampling) -> int:
    """Tokens that the target wrote."""
    said = await target.generate(STEP, sampling, FREELY)
    await draft.append(said.step)
    return len(said.logprobs)


def bare_costs(batches: dict[Phase, int], clock: Clock, threads: int) -> dict[Phase, float]:
    """Seconds a token of bare llama.cpp in each phase."""

    def timed(shape: Shape, phase: Phase) -> float:
        chains = batches[phase]
        bare = Bare(random_model(shape), threads, chains, clock)
        steps = [some_ids(i, STEP) for i in range(chains)]
        ids = some_ids(chains, 128)
        tokens, took = bare.score(ids, steps) if phase == "verify" else bare.generate(ids, STEP)
        bare.close()
        return took / tokens

    return {"draft": timed(DRAFT, "draft"), "verify": timed(TARGET, "verify"), "takeover": timed(TARGET, "takeover")}


async def measure(options: argparse.Namespace) -> dict[str, float]:
    """The efficiency of all rounds together, by what ran; tells where the seconds of each call went."""
    clock: Clock = time.process_time if options.cpu else time.perf_counter
    names = [
        f"llama-cpp:{random_model(shape)}?n_threads={options.threads}&n_ctx=1024&kv={options.kv}"
        for shape in (DRAFT, TARGET)
    ]
    settings: dict[str, Any] = {
        "chains": options.chains,
        "turns": options.turns,
        "rejection_rate": options.rate,
        "step_tokens": STEP,
        "min_step_tokens": STEP,
        "answer_tokens": 1,
        "early_stop": "off",
    }
    found: dict[str, list[Cost]] = {"A1": [], "backends": []}
    bares: list[dict[Phase, float]] = []
    async with A1(*names, calibration=None, **settings) as a1:
        pair = await a1.pair.load()
        await a1.asolve("w1 w2 w3", turns=1)  # what is done once is not what is measured
        for number in range(options.rounds):
            question = Question.of(" ".join(f"w{i}" for i in some_ids(number, 16)))
            call, result, batches = await whole_call(a1, question, clock)
            bares.append(await asyncio.to_thread(bare_costs, batches, clock, options.threads))
            alone = await backends_alone(pair.draft, pair.target, question, clock, options)
            bares.append(await asyncio.to_thread(bare_costs, batches, clock, options.threads))
            for name, cost in (("A1", call), ("backends", alone)):
                found[name].append(cost)
            tell(call, result, batches, middle(bares))
    bare = middle(bares)
    print("\nbare, ms a token:", {phase: [round(each[phase] * 1e3, 2) for each in bares] for phase in PHASES})
    return {name: sum(c.ideal(bare) for c in costs) / sum(c.seconds for c in costs) for name, costs in found.items()}


def middle(bares: list[dict[Phase, float]]) -> dict[Phase, float]:
    """The median of each phase."""
    return {phase: statistics.median(each[phase] for each in bares) for phase in PHASES}


def tell(call: Cost, result: Result, batches: dict[Phase, int], bare: dict[Phase, float]) -> None:
    """Where the seconds of a call went."""
    s = result.stats
    spent: dict[Phase, float] = {"draft": s.draft_s, "verify": s.verify_s, "takeover": s.takeover_s}
    print(f"\na call of {call.seconds:.1f} s; in forwards, by the clock: {sum(spent.values()):.1f} s of {s.wall_s:.1f}")
    print("| phase | tokens | mean batch | ideal s | in forwards, s |\n|---|---|---|---|---|")
    for phase in PHASES:
        ideal = call.tokens[phase] * bare[phase]
        print(f"| {phase} | {call.tokens[phase]} | {batches[phase]} | {ideal:.1f} | {spent[phase]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=physical_cores(), help="fewer: the models run side by side")
    parser.add_argument("--kv", choices=["apart", "shared"], default="apart", help="option of the llama.cpp backend")
    parser.add_argument("--cpu", action="store_true", help="count seconds of CPU instead of the clock's")
    found = asyncio.run(measure(parser.parse_args()))
    for name, value in found.items():
        print(f"\nefficiency of {name}: {value:.2f}")


if __name__ == "__main__":
    main()
