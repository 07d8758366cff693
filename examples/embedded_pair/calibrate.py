"""Measure the scores of the pair's steps on training problems and write the calibration that ships with it.

python calibrate.py --count 300 --to ../../a1agent/embedded/calibration.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from pathlib import Path
from typing import Any

from a1agent import A1, Question, VoteClosed
from a1agent.embedded.problems import problems
from a1agent.prompts import ask_for_box

TOGETHER = 4


async def scores_of(a1: A1, question: str) -> list[tuple[int, float]]:
    """(turn, score in nats per token) of every step that was verified for one question."""
    asked = ask_for_box(Question.of(question))
    events = [event async for event in a1.astream(asked)]
    closed = events[-1]
    assert isinstance(closed, VoteClosed)
    turns = [turn for chain in closed.result.chains for turn in chain.turns]
    return [(t.index, round(t.verdict.score, 4)) for t in turns if math.isfinite(t.verdict.score)]


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What ships: the fingerprints of both models, how steps were cut, and the scores."""
    asked = [p.question for p in problems(options.count, options.seed, split="train")]
    places = asyncio.Semaphore(TOGETHER)

    async def one(question: str) -> list[tuple[int, float]]:
        async with places:
            return await scores_of(a1, question)

    async with A1(calibration=None, chains=4, early_stop="off", rejection_rate=0.3, seed=options.seed) as a1:
        pair = await a1.pair.load()
        found = await asyncio.gather(*(one(question) for question in asked))
        draft, target = pair.draft.info.fingerprint, pair.target.info.fingerprint
    scores = [score for question in found for score in question]
    return {"draft": draft, "target": target, "score": "mean_nll", "min_step_tokens": 0, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the embedded pair's calibration on training problems.")
    parser.add_argument("--count", type=int, default=300, help="problems")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    measured = asyncio.run(measure(options))
    options.to.write_text(json.dumps(measured, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{options.to}: {len(measured['scores'])} scores of {options.count} problems")


if __name__ == "__main__":
    main()
