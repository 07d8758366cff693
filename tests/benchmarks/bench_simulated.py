"""A1 on simulated servers, on a clock that jumps: speed against the target alone, no barrier, lookahead, screening.

    python tests/benchmarks/bench_simulated.py [--questions N] [--plots FOLDER]

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

from a1agent import A1, Result  # noqa: E402
from a1agent.backends.scripted import ScriptedBackend  # noqa: E402
from tests.benchmarks.tables import head, plot, row  # noqa: E402
from tests.simulated import DRAFT_1B, TARGET_32B, Costs, Server, run_virtual  # noqa: E402

TRACE = ROOT / "tests" / "data" / "math500_r1-llama-8b_qwq-32b.csv"
STEPS = 8
CHAINS = (4, 8, 16, 32, 64, 128, 256)


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


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds that all questions took, the servers they took them from, and what became of the last question."""

    seconds: float
    draft: Server
    target: Server
    results: list[Result]

    @property
    def rejected(self) -> float:
        """Share of the steps that the target took over."""
        return sum(r.stats.rejections for r in self.results) / max(1, sum(r.stats.verifications for r in self.results))


def run(
    script: Recorded,
    questions: int,
    together: int = 1,
    *,
    costs: tuple[Costs, Costs] = (DRAFT_1B, TARGET_32B),
    alone: bool = False,
    rereads: bool = False,
    **options: Any,
) -> Run:
    """All questions, so many at a time. `alone`: the target writes all; `rereads`: it keeps no cache to score."""
    servers = Server(costs[0]), Server(costs[1])
    draft = ScriptedBackend(script, name="draft", processor="draft", service=servers[0])
    target = ScriptedBackend(script, name="target", processor="target", service=servers[1], reuses_prefix=not rereads)
    chosen: dict[str, Any] = {"step_tokens": 4096, "min_step_tokens": 0, "early_stop": "off", "seed": 5, **options}

    async def work() -> list[Result]:
        limit = asyncio.Semaphore(together)
        models = (target, "same") if alone else (draft, target)
        async with A1(*models, calibration=None, **chosen) as a1:

            async def ask(number: int) -> Result:
                async with limit:
                    return await a1.asolve(f"Question {number}, in one box: \\boxed{{}}")

            return await asyncio.gather(*map(ask, range(questions)))

    results, seconds = run_virtual(work())
    return Run(seconds, *servers, results)


def speedup(script: Recorded, questions: int, plots: Path | None) -> None:
    """Against the target alone, beside the ceiling of bare rates at the batches that occurred."""
    head(
        "chains",
        "rate",
        "observed",
        "target alone, s a question",
        "A1, s",
        "speed-up",
        "ceiling",
        "speed-up / ceiling",
        "ceiling, both servers at once",
    )
    found: dict[int, list[tuple[float, float, float]]] = {}
    for chains in (1, 2, 4, 16):
        alone = run(script, questions, chains=chains, alone=True, rejection_rate=0.0, verify_rate=0.0)
        for rate in (0.05, 0.1, 0.2, 0.3, 0.5):
            ours = run(script, questions, chains=chains, rejection_rate=rate)
            times, (most, at_once) = alone.seconds / ours.seconds, ceilings(alone, ours)
            found.setdefault(chains, []).append((rate, times, most))
            seconds = (f"{each.seconds / questions:.1f}" for each in (alone, ours))
            shown = (f"{value:.2f}" for value in (times, most, times / most, at_once))
            row([chains, rate, f"{ours.rejected:.3f}", *seconds, *shown])
    plot(plots, "simulated_speedup", 1, lambda panels: draw_speedup(panels[0], found))


def ceilings(alone: Run, ours: Run) -> tuple[float, float]:
    """(1/R_t) / (1/R_d + 1/S_t + rejected/R_t), each R at the batch that occurred: what it costs, as design has it.

    That is one model after the other, as a single chain goes. The second is with the larger of what draft and target do
    instead of the sum: chains that do not wait for each other keep both servers at work.
    """
    drafting, scoring = 1 / ours.draft.writing_rate, 1 / ours.target.costs.read
    taking_over = ours.rejected / ours.target.writing_rate if ours.target.written else 0.0
    before = 1 / alone.target.writing_rate
    return before / (drafting + scoring + taking_over), before / max(drafting, scoring + taking_over)


def draw_speedup(axes: Any, found: dict[int, list[tuple[float, float, float]]]) -> None:
    for index, (chains, values) in enumerate(found.items()):
        rates = [rate for rate, _, _ in values]
        label = f"{chains} chain{'s' if chains > 1 else ''}"
        axes.plot(rates, [times for _, times, _ in values], marker="o", color=f"C{index}", label=label)
        axes.plot(rates, [most for _, _, most in values], linestyle="--", color=f"C{index}", alpha=0.6)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(
        xlabel="rejection rate (dashed: ceiling, one model after the other)",
        ylabel="speed-up over the target alone",
        ylim=(0, None),
    )
    axes.legend()


def barrier(script: Recorded, questions: int, plots: Path | None) -> None:
    """Against the synchronous ranking: by chains, on one server each, and on servers that grow with the chains."""
    head("chains", "servers", "questions", "at a time", "A1, s a question", "with a barrier, s", "barrier / A1")
    found: dict[str, list[tuple[int, float, float]]] = {}
    for chains in CHAINS:
        for servers in ("one each", "one each for 16 chains"):
            room = max(1.0, chains / 16) if servers != "one each" else 1.0
            count = min(questions, max(4, 16 * questions // chains))
            found.setdefault(servers, []).append((chains, *compared(script, chains, servers, room, count, 1)))
    for together in (1, 4, 16):
        compared(script, 16, "one each", 1.0, 100, together)
    plot(plots, "simulated_barrier", 2, lambda panels: draw_barrier(panels, found))


def compared(
    script: Recorded, chains: int, servers: str, room: float, questions: int, together: int
) -> tuple[float, float]:
    """Seconds a question without and with the barrier; `room`: how many times the servers hold."""
    costs = wider(DRAFT_1B, room), wider(TARGET_32B, room)
    took: list[float] = []
    for baseline in ("none", "ranking"):
        options = {"chains": chains, "rejection_rate": 0.1, "baseline": baseline, "lookahead": "off"}
        took.append(run(script, questions, together, costs=costs, **options).seconds / questions)
    row([chains, servers, questions, together, *(f"{s:.1f}" for s in took), f"{took[1] / took[0]:.2f}"])
    return took[0], took[1]


def wider(costs: Costs, room: float) -> Costs:
    """A server that does so many times as much at once, and nothing faster."""
    return Costs(step=costs.step, sequence=costs.sequence / room, read=costs.read * room)


def draw_barrier(panels: Sequence[Any], found: dict[str, list[tuple[int, float, float]]]) -> None:
    seconds, ratios = panels
    for index, (servers, values) in enumerate(found.items()):
        chains = [count for count, _, _ in values]
        label = "servers: " + servers
        seconds.plot(chains, [s for _, s, _ in values], marker="o", color=f"C{index}", label=label)
        seconds.plot(chains, [s for _, _, s in values], marker="^", linestyle="--", color=f"C{index}")
        ratios.plot(chains, [b / a for _, a, b in values], marker="o", color=f"C{index}", label=label)
    ratios.axhline(1, color="black", linewidth=0.8)
    seconds.set(xlabel="chains", ylabel="seconds a question (dashed: with a barrier)", xscale="log", ylim=(0, None))
    ratios.set(xlabel="chains", ylabel="barrier / A1", xscale="log", ylim=(0, None))
    for axes in panels:
        axes.set_xticks(CHAINS, [str(count) for count in CHAINS])
        axes.minorticks_off()
        axes.legend(fontsize="small")


def lookahead(script: Recorded, questions: int, _plots: Path | None) -> None:
    """Seconds of a question with and without, and what would be left if no chain ever waited for a score."""
    head(
        "chains",
        "rate",
        "the target reads",
        "without lookahead, s a question",
        "with, s",
        "with / without",
        "at best: drafting and takeovers alone",
    )
    for reads, rereads, speed in READING:
        for chains, rate in ((1, 0.0), (1, 0.1), (8, 0.0), (8, 0.1), (16, 0.0), (16, 0.3)):
            options: dict[str, Any] = {"chains": chains, "rejection_rate": rate, "rereads": rereads}
            took = [
                run(script, questions, lookahead=mode, costs=(DRAFT_1B, reading(each)), **options).seconds
                for mode, each in (("off", speed), ("on", speed), ("off", 1e9))
            ]
            seconds, shares = (f"{s / questions:.1f}" for s in took[:2]), (f"{s / took[0]:.2f}" for s in took[1:])
            row([chains, rate, reads, *seconds, *shares])


READING = (
    ("the step, 3,500 tokens a second", False, 3500.0),
    ("the step, 500 tokens a second", False, 500.0),
    ("the whole chain, 3,500 tokens a second", True, 3500.0),
)
"""What the target reads for a score (some servers keep no cache for that), and how fast."""


def reading(speed: float) -> Costs:
    """The target, with so many tokens read a second."""
    return Costs(step=TARGET_32B.step, sequence=TARGET_32B.sequence, read=speed)


def screening(script: Recorded, questions: int, _plots: Path | None) -> None:
    """Seconds of a question by the share of steps that are scored, as many takeovers of all steps."""
    head("scored", "s a question, as many takeovers", "against scoring every step")
    whole = 0.0
    for share in (1.0, 0.5, 0.25, 0.1):
        rate = min(1.0, 0.05 / share)
        options: dict[str, Any] = {"chains": 16, "rejection_rate": rate, "verify_rate": share, "lookahead": "off"}
        took = run(script, questions, 4, **options).seconds
        whole = whole or took
        row([share, f"{took / questions:.1f}", f"{took / whole:.2f}"])


PARTS = {"speedup": speedup, "barrier": barrier, "lookahead": lookahead, "screening": screening}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these parts only")
    options = parser.parse_args()
    script = recorded()
    for name in options.only or PARTS:
        PARTS[name](script, options.questions, options.plots)


if __name__ == "__main__":
    main()
