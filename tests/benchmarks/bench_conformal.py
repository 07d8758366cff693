"""Microseconds per decision with 10^6 stored scores: python tests/benchmarks/bench_conformal.py"""

import random
import statistics
import time

from a1agent.conformal.calibrators import make_calibrator
from a1agent.conformal.values import Observed

STORED = 1_000_000
DECISIONS = 5_000
REPEATS = 5


def microseconds_per_decision(name: str, coverage: str, turns: int) -> list[float]:
    """Of each repeat, over `DECISIONS` decisions; every one inserts, evicts and ranks in full windows."""
    rng = random.Random(0)
    initial = [(place % turns, rng.gauss(0.5, 0.2)) for place in range(STORED)]
    calibrator = make_calibrator(
        name,
        rejection_rate=0.3,
        coverage="conditional" if coverage == "conditional" else "marginal",
        initial=initial,
        window=STORED // turns,
    )
    times: list[float] = []
    for repeat in range(REPEATS):
        steps = [
            Observed(score=rng.gauss(0.5, 0.2), question=f"q{repeat}-{i // 64}", chain=i % 8, turn=i // 8 % turns)
            for i in range(DECISIONS)
        ]
        start = time.perf_counter()
        for step in steps:
            calibrator.decide(step)
        times.append((time.perf_counter() - start) / DECISIONS * 1e6)
    return times


def main() -> None:
    print(f"{STORED} stored scores, {REPEATS} x {DECISIONS} decisions, microseconds per decision")
    for name, coverage, turns in (
        ("static", "marginal", 1),
        ("online", "marginal", 1),
        ("adaptive", "marginal", 1),
        ("adaptive", "conditional", 1),
        ("adaptive", "marginal", 10),
    ):
        times = microseconds_per_decision(name, coverage, turns)
        label = f"{name}, {coverage}, {turns} turn{'s' if turns > 1 else ''}"
        print(f"{label:34s} best {min(times):5.1f}   median {statistics.median(times):5.1f}", flush=True)


if __name__ == "__main__":
    main()
