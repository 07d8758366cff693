"""What waiting for company saves on a shared device, against running every model that has work in turn.

    python tests/benchmarks/bench_scheduling.py

A forward costs its weights once, however many sequences ride in it. Chains of a draft and a target are simulated
forward by forward under the real rule (`a1agent.backends.batching.worker.due`); what is counted is forwards, each
weighed by what its model's weights cost. Nothing is timed, so any machine gives the same table.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from a1agent.backends.batching.worker import due

Length = Callable[[random.Random], int]
Rule = Callable[[list["Model"]], list["Model"]]

RATE, TURNS, SEEDS = 0.3, 8, 6
LENGTHS: dict[str, Length] = {
    "about 25 tokens": lambda rng: max(3, round(rng.gauss(25, 10))),
    "48 tokens": lambda _: 48,
    "1 to 512 tokens": lambda rng: max(1, min(512, round(rng.expovariate(1 / 200)))),
}


@dataclass(slots=True, eq=False)
class Model:
    """One model: how many of how many chains have work for it, what a forward costs, and how many there were."""

    forward_s: float
    chains: int = 0
    waiting: int = 0
    forwards: int = 0
    passed_over: int = 0

    @property
    def gathered(self) -> float:
        return self.waiting / self.chains


@dataclass(slots=True)
class Chain:
    """`left` tokens of a step that the draft or the target writes; a score is one token of the target's."""

    phase: str
    left: int
    turn: int = 0


def cost(rule: Rule, chains: int, dear: float, length: Length, seed: int) -> float:
    """Cost of all forwards, in those of the draft; one of the target costs `dear`."""
    rng = random.Random(seed)
    alive = [Chain("draft", length(rng)) for _ in range(chains)]
    draft, target = Model(1.0), Model(dear)
    while alive:
        draft.waiting = sum(chain.phase == "draft" for chain in alive)
        draft.chains = target.chains = len(alive)
        target.waiting = len(alive) - draft.waiting
        for model in rule([model for model in (draft, target) if model.waiting]):
            model.forwards += 1
            for chain in [chain for chain in alive if (chain.phase == "draft") == (model is draft)]:
                advance(chain, rng, length)
        alive = [chain for chain in alive if chain.turn < TURNS]
    return draft.forwards + dear * target.forwards


def advance(chain: Chain, rng: random.Random, length: Length) -> None:
    """One token further."""
    chain.left -= 1
    if chain.left > 0:
        return
    if chain.phase == "draft":
        chain.phase, chain.left = "score", 1
    elif chain.phase == "score" and rng.random() < RATE:
        chain.phase, chain.left = "takeover", length(rng)
    else:
        chain.phase, chain.left, chain.turn = "draft", length(rng), chain.turn + 1


def in_turn(busy: list[Model]) -> list[Model]:
    """Every model that has work."""
    return busy


def saved(chains: int, dear: float, length: Length) -> float:
    """Cost under `due` as a share of that in turn."""
    shares = [cost(due, chains, dear, length, s) / cost(in_turn, chains, dear, length, s) for s in range(SEEDS)]
    return statistics.fmean(shares)


def main() -> None:
    ratios = (1, 2, 4, 10, 30)
    print("cost of all forwards, as a share of that of running every model with work in turn\n")
    print("| steps of | chains | " + " | ".join(f"target {r} x as dear" for r in ratios) + " |")
    print("|---" * (2 + len(ratios)) + "|")
    for name, length in LENGTHS.items():
        for chains in (4, 8, 16, 64):
            print(f"| {name} | {chains} | " + " | ".join(f"{saved(chains, r, length):.2f}" for r in ratios) + " |")


if __name__ == "__main__":
    main()
