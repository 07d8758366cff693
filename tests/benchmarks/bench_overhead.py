"""What A1 itself costs: microseconds of CPU a verified step, and bytes a chain, beside what the models take.

    python tests/benchmarks/bench_overhead.py [--plots FOLDER] [--rounds N]

Both models stand on simulated servers: each call takes the time of its tokens on a clock that jumps, and costs next to
no CPU. The same calls are made once by A1 (engine, calibrator, statistics, events, vote) and once by bare coroutines;
the difference in CPU seconds of this process, over the verified steps, is the overhead. Looking ahead makes more calls,
of steps that are then dropped: they count as overhead. Memory is what Python
allocates at its highest during a call, less the chains' texts, over the chains.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from a1agent import A1, Question, Result  # noqa: E402
from a1agent.backends.base import (  # noqa: E402
    Counters,
    Generated,
    Mark,
    ModelInfo,
    Sampling,
    Sequence,
    StepText,
    Stop,
    TokenScores,
    Work,
)
from tests.benchmarks.tables import head, plot, row  # noqa: E402
from tests.simulated import DRAFT_1B, TARGET_32B, Costs, run_virtual  # noqa: E402

TURNS = 8
TOKENS = 96
FILLER = "let x be the sum of all that was said so far, and take one half of it. " * 6
QUESTION = "How much is it? Answer in \\boxed{}."
RATE = 0.3


@dataclass(frozen=True, slots=True)
class Model:
    """A model on a server with room for everyone: a call takes its tokens' time, whoever else is there."""

    info: ModelInfo
    costs: Costs

    @property
    def counters(self) -> Counters:
        return Counters()

    async def open(self, question: Question) -> Text:
        return Text(self, length=len(question.text), tokens=len(question.text))

    def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(range(len(text) // 4))

    async def aclose(self) -> None:
        pass


def model(name: str, costs: Costs) -> Model:
    info = ModelInfo(
        name=name, fingerprint=name, tokenizer_fingerprint="same", context_length=1 << 20, processor=name, at_once=None
    )
    return Model(info, costs)


class Text:
    """A sequence that only counts. Its steps differ, in words and in the time they take; the last states an answer."""

    thinking = False

    def __init__(self, model: Model, length: int, tokens: int) -> None:
        self.model = model
        self.length = length
        self.prompt_tokens = tokens
        self.prompt_work = Work()

    async def generate(self, max_tokens: int, sampling: Sampling, stop: Stop) -> Generated:
        await asyncio.sleep((TOKENS / 2 + sampling.seed % TOKENS) * self.model.costs.step)
        done = (self.length - self.prompt_tokens) // TOKENS
        text = f"{sampling.seed:010d} {FILLER}\n\n" if done < TURNS - 1 else f"\\boxed{{{sampling.seed % 3}}}"
        self.length += TOKENS
        nll = sampling.seed % 1009 / 500
        return Generated(step=StepText(text=text), logprobs=(-nll,) * TOKENS, finish="stop", work=WORK)

    async def score(self, step: StepText, end: bool = False) -> TokenScores:
        await asyncio.sleep(TOKENS / self.model.costs.read)
        self.length += TOKENS
        nll = hash(step.text) % 1009 / 500
        return TokenScores(ids=IDS, logprobs=(-nll,) * TOKENS, end=None, work=WORK)

    async def append(self, step: StepText) -> None:
        self.length += TOKENS

    def fork(self) -> Text:
        return Text(self.model, self.length, self.prompt_tokens)

    def mark(self) -> Mark:
        return Mark(self.length)

    def rewind(self, mark: Mark) -> None:
        self.length = mark.length

    async def close(self, *, resumed: bool = True) -> None:
        pass


WORK = Work(decoded_tokens=TOKENS, compute_s=0.01, waiting_s=0.01)
IDS = tuple(range(TOKENS))
FREELY = Stop()


async def bare_chain(index: int, draft: Sequence, target: Sequence) -> int:
    """The calls of a chain and nothing else; how many steps were scored."""
    rng = random.Random(index)
    draft, target = draft.fork(), target.fork()
    for _ in range(TURNS):
        sampling, marks = Sampling(seed=rng.getrandbits(32)), (draft.mark(), target.mark())
        said = await draft.generate(TOKENS, sampling, FREELY)
        await target.score(said.step)
        if rng.random() < RATE:
            draft.rewind(marks[0])
            target.rewind(marks[1])
            await draft.append((await target.generate(TOKENS, sampling, FREELY)).step)
    await asyncio.gather(draft.close(), target.close())
    return TURNS


async def bare(chains: int, questions: int) -> int:
    steps = 0
    for _ in range(questions):
        roots = [await model(name, costs).open(Question.of(QUESTION)) for name, costs in MODELS]
        steps += sum(await asyncio.gather(*(bare_chain(i, *roots) for i in range(chains))))
    return steps


MODELS = (("draft", DRAFT_1B), ("target", TARGET_32B))


async def whole(chains: int, questions: int, **options: Any) -> tuple[int, Result]:
    """Steps that were scored, and the last result."""
    settings = {"chains": chains, "turns": TURNS, "rejection_rate": RATE, "min_step_tokens": 0, "seed": 3, **options}
    steps, result = 0, None
    async with A1(*(model(*each) for each in MODELS), calibration=None, **settings) as a1:
        for _ in range(questions):
            result = await a1.asolve(QUESTION)
            steps += result.stats.verifications
    assert result is not None
    return steps, result


def cpu_seconds(work: Any) -> tuple[float, Any]:
    """CPU seconds of this process, and what `work` gives."""
    gc.collect()
    began = time.process_time()
    found, _ = run_virtual(work)
    return time.process_time() - began, found


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of CPU a verified step: of A1, and of the same calls without it."""

    whole: float
    bare: float

    @property
    def overhead(self) -> float:
        return self.whole - self.bare


def cost(chains: int, questions: int, rounds: int, **options: Any) -> Cost:
    """The least of several rounds, in turn: whatever else the machine does can only add."""
    wholes: list[float] = []
    bares: list[float] = []
    for _ in range(rounds):
        seconds, (steps, _) = cpu_seconds(whole(chains, questions, **options))
        wholes.append(seconds / steps * 1e6)
        seconds, steps = cpu_seconds(bare(chains, questions))
        bares.append(seconds / steps * 1e6)
    return Cost(min(wholes), min(bares))


def bytes_a_chain(chains: int) -> float:
    """Of memory at its highest during a call, beside the chains' texts."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    (_, result), _ = run_virtual(whole(chains, 1, early_stop="off"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (peak - before - sum(len(c.text) for c in result.chains)) / chains


def at_1024(rounds: int) -> None:
    head("1,024 chains", "A1, us of CPU a verified step", "the same calls without it", "overhead")
    for label, options in (
        ("default", {}),
        ("without lookahead", {"lookahead": "off"}),
        ("all chains to their ends", {"early_stop": "off"}),
    ):
        found = cost(1024, 1, rounds, **options)
        row([label, *(f"{value:.0f}" for value in (found.whole, found.bare, found.overhead))])


def by_chains(rounds: int) -> list[tuple[int, Cost, float]]:
    head("chains", "questions", "A1, us of CPU a verified step", "overhead", "KB a chain beside its text")
    found: list[tuple[int, Cost, float]] = []
    for chains in (1, 10, 100, 1000, 10_000):
        questions = max(1, 1000 // chains)
        found.append((chains, cost(chains, questions, rounds, early_stop="off"), bytes_a_chain(chains) / 1000))
        _, each, memory = found[-1]
        row([chains, questions, f"{each.whole:.0f}", f"{each.overhead:.0f}", f"{memory:.1f}"])
    return found


def draw(found: list[tuple[int, Cost, float]], panels: Many[Any]) -> None:
    seconds, memory = panels
    chains = [each[0] for each in found]
    taken = [count * TURNS * each.overhead / 1e6 for count, each, _ in found]
    seconds.plot(chains, taken, marker="o", color="#1f6fb4", label="measured")
    linear = [count * TURNS * 150 / 1e6 for count in chains]
    seconds.plot(chains, linear, color="#b03030", linestyle="--", label="150 us a step")
    seconds.set(xlabel="chains", ylabel="CPU seconds of A1 itself, a question", xscale="log", yscale="log")
    seconds.legend()
    memory.plot(chains, [each[2] for each in found], marker="o", color="#1f6fb4")
    memory.axhline(50, color="#b03030", linestyle="--")
    memory.set(xlabel="chains", ylabel="KB a chain beside its text", xscale="log", ylim=(0, 60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plots", type=Path, help="folder for the plot")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    at_1024(options.rounds)
    found = by_chains(options.rounds)
    plot(options.plots, "overhead", 2, lambda panels: draw(found, panels))


if __name__ == "__main__":
    main()
