"""Votes that stop early: tokens saved and answers kept, on the problems of the embedded pair.

    python tests/benchmarks/bench_early_stop.py [--questions N] [--chains N ...] [--rate R]

Every question is asked with `early_stop` off, exact and beta, with all chains begun at once and with chains begun as
they are needed, in an order that changes, from the same seeds. Saved are tokens that either model wrote or read to
score; accuracies are compared with those of all chains by the exact paired test (McNemar).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, from anywhere

from a1agent import A1, Result
from a1agent.bench.statistics import Bootstrap, paired_p_value
from a1agent.embedded.problems import problems
from a1agent.engine.equivalence import Equivalence
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.benchmarks.tables import head, row

MODES = {
    "off": {"early_stop": "off"},
    "exact": {"early_stop": "exact"},
    "beta": {"early_stop": "beta"},
    "exact, begun as needed": {"early_stop": "exact", "start": "needed"},
    "beta, begun as needed": {"early_stop": "beta", "start": "needed"},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, asked in one mode."""

    right: bool
    tokens: int
    seconds: float
    begun: int


def tokens_of(result: Result) -> int:
    usage = result.usage
    return usage.output_tokens + usage.target.scored_tokens


async def ask_all(questions: int, chains: int, rate: float, seed: int) -> dict[str, list[Asked]]:
    """What came of every question in every mode; each mode keeps a calibration of its own."""
    found: dict[str, list[Asked]] = {mode: [] for mode in MODES}
    equivalence = Equivalence()
    options: dict[str, Any] = {"chains": chains, "rejection_rate": rate, "seed": seed}
    agents = {mode: A1(calibration=None, **chosen, **options) for mode, chosen in MODES.items()}
    for index, problem in enumerate(problems(questions, seed)):
        for mode in random.Random(index).sample(list(MODES), len(MODES)):
            began = time.perf_counter()
            result = await agents[mode].asolve(ask_for_box(Question.of(problem.question)))
            took = time.perf_counter() - began
            right = result.answer is not None and await equivalence.same(result.answer, problem.answer)
            found[mode].append(Asked(right, tokens_of(result), took, result.stats.chains_started))
    for agent in agents.values():
        await agent.aclose()
    await equivalence.aclose()
    return found


def tell(chains: int, found: dict[str, list[Asked]]) -> None:
    """A line for each mode."""
    bootstrap = Bootstrap(len(found["off"]))
    all_tokens = np.array([each.tokens for each in found["off"]], np.float64)
    all_right = np.array([each.right for each in found["off"]])
    for mode, asked in found.items():
        right, tokens = np.array([each.right for each in asked]), np.array([each.tokens for each in asked], np.float64)
        left = bootstrap.ratio(tokens, all_tokens)
        saved = "" if mode == "off" else f"{1 - left.value:.0%} ({1 - left.high:.0%} to {1 - left.low:.0%})"
        p_value = "" if mode == "off" else f"{paired_p_value(right, all_right):.2f}"
        begun, seconds = (sum(getattr(each, name) for each in asked) for name in ("begun", "seconds"))
        spent = f"{tokens.mean():.0f}", saved, f"{begun / len(asked):.1f}", f"{seconds / len(asked):.2f}"
        row([chains, mode, f"{right.mean():.3f}", p_value, *spent])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--chains", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    head("chains", "early stop", "accuracy", "p", "tokens a question", "saved", "chains begun", "s a question")
    for chains in options.chains:
        tell(chains, asyncio.run(ask_all(options.questions, chains, options.rate, options.seed)))


if __name__ == "__main__":
    main()
