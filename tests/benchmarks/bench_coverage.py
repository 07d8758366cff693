"""What each coverage keeps and costs, from an empty calibration, on the problems of the embedded pair.

    python tests/benchmarks/bench_coverage.py [--questions N] [--chains N] [--rates R ...]

Every question is asked with marginal and with conditional coverage, in an order that changes, from the same seeds; each
keeps a calibration of its own. A gap is |takeovers / verified steps - the asked rate| of one call of at least 16
verified steps. Answers are compared by the exact paired test (McNemar).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, from anywhere

from a1agent import A1, Result
from a1agent.bench.statistics import paired_p_value
from a1agent.conformal.feedback import RATE_MARGIN, RATE_STEPS
from a1agent.embedded.problems import problems
from a1agent.engine.equivalence import Equivalence
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.benchmarks.tables import head, row

COVERAGES = ("marginal", "conditional")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call. `gap`: None with too few verified steps; `chains_right`: share of the chains."""

    right: bool
    chains_right: float
    verifications: int
    rejections: int
    gap: float | None


async def judged(result: Result, answer: str, rate: float, equivalence: Equivalence) -> Asked:
    answers = [result.answer, *(chain.answer for chain in result.chains)]
    right = [said is not None and await equivalence.same(said, answer) for said in answers]
    stats = result.stats
    enough = stats.verifications >= RATE_STEPS
    gap = abs(stats.rejections / stats.verifications - rate) if enough else None
    return Asked(right[0], fmean(right[1:]), stats.verifications, stats.rejections, gap)


async def ask_all(questions: int, chains: int, rate: float, seed: int) -> dict[str, list[Asked]]:
    """What came of every question under each coverage; all chains run to their ends."""
    found: dict[str, list[Asked]] = {coverage: [] for coverage in COVERAGES}
    options: dict[str, Any] = {"chains": chains, "rejection_rate": rate, "seed": seed, "early_stop": "off"}
    async with AsyncExitStack() as stack:
        equivalence = await stack.enter_async_context(aclosing(Equivalence()))
        agents = {
            coverage: await stack.enter_async_context(A1(calibration=None, coverage=coverage, **options))
            for coverage in COVERAGES
        }
        for index, problem in enumerate(problems(questions, seed)):
            for coverage in random.Random(index).sample(COVERAGES, len(COVERAGES)):
                result = await agents[coverage].asolve(ask_for_box(Question.of(problem.question)))
                found[coverage].append(await judged(result, problem.answer, rate, equivalence))
    return found


def tell(rate: float, found: dict[str, list[Asked]]) -> None:
    """A line for each coverage."""
    marginal = np.array([each.right for each in found["marginal"]])
    for coverage, asked in found.items():
        gaps = [each.gap for each in asked if each.gap is not None]
        far = sum(gap > RATE_MARGIN + 1e-9 for gap in gaps)
        right = np.array([each.right for each in asked])
        p = "" if coverage == "marginal" else f"{paired_p_value(right, marginal):.2f}"
        row(
            [
                rate,
                coverage,
                f"{sum(each.rejections for each in asked) / sum(each.verifications for each in asked):.3f}",
                f"{fmean(gaps):.3f}" if gaps else "",
                f"{far} of {len(gaps)}",
                f"{max(gaps):.2f}" if gaps else "",
                f"{right.mean():.3f}",
                p,
                f"{fmean(each.chains_right for each in asked):.3f}",
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.3, 0.6])
    parser.add_argument("--seed", type=int, default=4242)
    options = parser.parse_args()
    head(
        "rate",
        "coverage",
        "observed",
        "mean gap of calls",
        f"calls off by more than {RATE_MARGIN}",
        "at most by",
        "right",
        "p",
        "a chain is right",
    )
    for rate in options.rates:
        tell(rate, asyncio.run(ask_all(options.questions, options.chains, rate, options.seed)))


if __name__ == "__main__":
    main()
