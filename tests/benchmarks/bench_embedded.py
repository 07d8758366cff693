"""Accuracy of the embedded pair on held-out problems: draft alone, target alone, A1, and A1 on random steps.

python tests/benchmarks/bench_embedded.py --count 500 --rates 0.05,0.1,0.2,0.3,0.5,0.8 --out results.jsonl

`a1-random` is the control: the target takes over the same share of steps, but which ones is left to chance. Every way
answers the same problems, and the same chains are voted on twice: by majority, and weighted by each chain's strangest
step, as `vote="auto"` does. Finished problems are on disk at once; a run started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from a1agent import A1, Question
from a1agent.backends.base import Backend, Sequence, StepText, TokenScores
from a1agent.backends.registry import parse_address
from a1agent.config import VoteMethod
from a1agent.embedded.problems import Problem, problems
from a1agent.engine.extract import Answer
from a1agent.engine.vote import Candidate, Tally
from a1agent.prompts import ask_for_box

VOTES: tuple[VoteMethod, ...] = ("majority", "weighted")


class RandomScores:
    """A backend whose scores are drawn by chance: the target of the control. All else is the backend's."""

    def __init__(self, inner: Backend, seed: int) -> None:
        self.inner = inner
        self.random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def open(self, question: Question) -> Sequence:
        return _RandomSequence(await self.inner.open(question), self.random)  # type: ignore[return-value]


class _RandomSequence:
    def __init__(self, inner: Sequence, rng: random.Random) -> None:
        self.inner = inner
        self.random = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def fork(self) -> _RandomSequence:
        return _RandomSequence(self.inner.fork(), self.random)

    async def score(self, step: StepText, end: bool = False) -> TokenScores:
        scores = await self.inner.score(step, end)
        drawn = -self.random.random()
        return replace(scores, logprobs=(drawn,) * len(scores.logprobs), end=drawn if end else None)


def agents(options: argparse.Namespace) -> dict[str, A1]:
    """Every way to answer, by name."""
    query = f"?n_threads={options.threads}"
    draft = parse_address(f"embedded:draft{query}").load()
    target = parse_address(f"embedded:target{query}").load()
    chance: Any = RandomScores(target, options.seed)
    common: dict[str, Any] = {
        "chains": options.chains,
        "seed": options.seed,
        "calibration": None,
        "early_stop": "off",
        "min_step_tokens": 0,
    }
    ways = {
        "draft": A1(draft, draft, rejection_rate=0.0, **common),
        "target": A1(target, target, rejection_rate=0.0, **common),
    }
    for rate in options.rates:
        ways[f"a1 {rate}"] = A1(draft, target, rejection_rate=rate, **common)
    for rate in options.rates:
        ways[f"a1-random {rate}"] = A1(draft, chance, rejection_rate=rate, **common)
    return ways


async def answer(way: A1, problem: Problem) -> dict[str, Any]:
    """One problem, one way: whether it was right, by each vote and per chain, and what it cost."""
    result = await way.asolve(ask_for_box(Question.of(problem.question)))
    tally = Tally()
    for chain in result.chains:
        stated = None if chain.answer is None else Answer(chain.answer, "boxed")
        await tally.add(Candidate(chain=chain.index, answer=stated, tokens=chain.token_count, scores=chain.scores))
    votes = {method: tally.vote(method, len(result.chains)).answer for method in VOTES}
    return {
        **{method: voted == problem.answer for method, voted in votes.items()},
        "chains_right": sum(chain.answer == problem.answer for chain in result.chains) / len(result.chains),
        "verifications": result.stats.verifications,
        "rejections": result.stats.rejections,
        "drafted_tokens": result.stats.drafted_tokens,
        "target_tokens": result.stats.target_tokens,
    }


async def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The records of all problems, those of an earlier run included."""
    done = _read(options.out)
    ways = agents(options)
    asked = list(problems(options.count, options.problem_seed))
    began = time.perf_counter()
    with options.out.open("a", encoding="utf-8") as file:
        for index in range(len(done), len(asked)):
            record = {name: await answer(way, asked[index]) for name, way in ways.items()}
            file.write(json.dumps({"problem": index, "family": asked[index].family, "ways": record}) + "\n")
            file.flush()
            left = (time.perf_counter() - began) / (index + 1 - len(done)) * (len(asked) - index - 1)
            print(f"\r{index + 1}/{len(asked)} problems, {left / 60:.1f} min left ", end="", flush=True)
    print()
    return _read(options.out)


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def interval(values: np.ndarray, statistic: Callable[..., Any] = np.mean, draws: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of a mean, problems resampled."""
    rng = np.random.default_rng(0)
    means = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: accuracy by each vote, paired against the target alone with the same vote, chains right, takeovers."""
    lines = [
        f"| {len(records)} held-out problems | by majority | against the target (95 %) | by weighted vote "
        "| against the target (95 %) | a chain is right | taken over | target's share of tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in records[0]["ways"]:
        rows = [r["ways"][name] for r in records]
        total = {key: sum(row[key] for row in rows) for key in rows[0]}
        written = total["drafted_tokens"] + total["target_tokens"]
        votes = " | ".join(accuracy(records, name, method) for method in VOTES)
        lines.append(
            f"| {name} | {votes} | {total['chains_right'] / len(rows):.3f} "
            f"| {total['rejections'] / max(1, total['verifications']):.3f} "
            f"| {total['target_tokens'] / max(1, written):.2f} |"
        )
    return "\n".join(lines)


def accuracy(records: list[dict[str, Any]], name: str, method: str) -> str:
    """Two cells: the share of problems that a way got right, and by how much it differs from the target alone."""
    right, alone = (np.array([r["ways"][way][method] for r in records], float) for way in (name, "target"))
    worse, better = interval(right - alone)
    return f"{right.mean():.3f} | {(right - alone).mean():+.3f} ({worse:+.3f} to {better:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the embedded pair, alone, together, and by chance.")
    parser.add_argument("--count", type=int, default=500, help="held-out problems")
    parser.add_argument("--rates", type=lambda text: [float(r) for r in text.split(",")], default=[0.1, 0.3])
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problem-seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("bench_embedded.jsonl"))
    print(table(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
