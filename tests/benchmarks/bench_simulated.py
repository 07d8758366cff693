"""A1 on simulated servers, on a clock that jumps: what looking ahead, doing without a barrier, and screening save.

    python tests/benchmarks/bench_simulated.py [--questions N]

A 1.5 B draft and a 32 B target, each on a server of its own that batches continuously (`tests/simulated.py` holds their
times of service). Steps are as long as those of a recorded run of DeepSeek-R1-Distill-Llama-8B on MATH-500
(`tests/data/`, four characters a token); scores are chance, so only seconds mean anything here.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from a1agent import A1  # noqa: E402
from tests.simulated import DRAFT_1B, TARGET_32B, run_virtual, simulated  # noqa: E402

TRACE = ROOT / "tests" / "data" / "math500_r1-llama-8b_qwq-32b.csv"
STEPS = 8


@dataclass(frozen=True)
class Recorded:
    """Writes steps of recorded lengths, by turn, then a number."""

    lengths: tuple[tuple[int, ...], ...]

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        turn = text.count("\n\n")
        if turn >= STEPS:
            return f"\\boxed{{{rng.randint(1, 3)}}}"
        return f"{rng.random():.12f}".ljust(max(16, rng.choice(self.lengths[turn])) - 2, ".") + "\n\n"

    def nll(self, prompt: str, text: str, step: str) -> float:
        return random.Random(f"{prompt}\0{len(text)}\0{step[:16]}").random()


def recorded() -> Recorded:
    """Tokens of the recorded steps of each turn."""
    lengths: dict[int, list[int]] = defaultdict(list)
    with TRACE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            lengths[int(row["turn"])].append(int(row["draft_chars"]) // 4)
    return Recorded(tuple(tuple(lengths[turn]) for turn in range(STEPS)))


def seconds(script: Recorded, questions: int, together: int, **options: Any) -> float:
    """Seconds that all questions take, so many at a time."""
    pair = simulated(script, DRAFT_1B, "draft"), simulated(script, TARGET_32B, "target")
    chosen = {"step_tokens": 4096, "min_step_tokens": 0, "early_stop": "off", "seed": 5, **options}

    async def work() -> None:
        limit = asyncio.Semaphore(together)
        async with A1(*pair, calibration=None, **chosen) as a1:

            async def ask(number: int) -> None:
                async with limit:
                    await a1.asolve(f"Question {number}, in one box: \\boxed{{}}")

            await asyncio.gather(*map(ask, range(questions)))

    return run_virtual(work())[1]


def row(cells: Sequence[object]) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def head(*titles: str) -> None:
    print()
    row(titles)
    row(["---"] * len(titles))


def barrier(script: Recorded, questions: int) -> None:
    """Against the synchronous ranking, by chains and by questions at a time."""
    head("chains", "questions at a time", "A1, s a question", "with a barrier, s", "barrier / A1")
    for chains, together in ((4, 1), (16, 1), (64, 1), (16, 4)):
        took = [
            seconds(script, questions, together, chains=chains, rejection_rate=0.1, baseline=baseline, lookahead="off")
            for baseline in ("none", "ranking")
        ]
        row([chains, together, *(f"{s / questions:.1f}" for s in took), f"{took[1] / took[0]:.2f}"])


def lookahead(script: Recorded, questions: int) -> None:
    """Seconds of a question with and without."""
    head("chains", "rate", "without lookahead, s a question", "with, s", "with / without")
    for chains, rate in ((1, 0.0), (1, 0.1), (8, 0.1), (16, 0.3)):
        took = [
            seconds(script, questions, 1, chains=chains, rejection_rate=rate, lookahead=mode) for mode in ("off", "on")
        ]
        row([chains, rate, *(f"{s / questions:.1f}" for s in took), f"{took[1] / took[0]:.2f}"])


def screening(script: Recorded, questions: int) -> None:
    """Seconds of a question by the share of steps that are scored, as many takeovers of all steps."""
    head("scored", "s a question, as many takeovers", "against scoring every step")
    whole = 0.0
    for share in (1.0, 0.5, 0.25, 0.1):
        rate = min(1.0, 0.05 / share)
        took = seconds(script, questions, 4, chains=16, rejection_rate=rate, verify_rate=share, lookahead="off")
        whole = whole or took
        row([share, f"{took / questions:.1f}", f"{took / whole:.2f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20)
    questions = parser.parse_args().questions
    script = recorded()
    for part in (barrier, lookahead, screening):
        part(script, questions)


if __name__ == "__main__":
    main()
