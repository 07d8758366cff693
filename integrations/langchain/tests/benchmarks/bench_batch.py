"""32 questions with 8 chains each, one by one and as one batch: seconds, and forwards, which no other load changes.

python tests/benchmarks/bench_batch.py [QUESTIONS] [CHAINS]
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from a1agent.embedded.problems import problems

from langchain_a1 import ChatA1

QUESTIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 32
CHAINS = int(sys.argv[2]) if len(sys.argv) > 2 else 8
Ask = Callable[[ChatA1, list[str]], Awaitable[object]]


async def one_by_one(chat: ChatA1, questions: list[str]) -> None:
    for question in questions:
        await chat.ainvoke(question)


async def batch(chat: ChatA1, questions: list[str]) -> None:
    await chat.abatch(questions)


async def measure(ask: Ask) -> tuple[float, int]:
    """Seconds and forwards; each way has models of its own, loaded before."""
    chat = ChatA1(chains=CHAINS, seed=1, calibration=None, early_stop="off")
    pair = await chat.agent_and_options()[0].pair.load()
    began = time.perf_counter()
    await ask(chat, [problem.question for problem in problems(QUESTIONS, 2026)])
    seconds = time.perf_counter() - began
    counters = [model.counters for model in (pair.draft, pair.target)]
    assert all(counted.sequences_alive == 0 for counted in counters)
    await chat.aclose()
    return seconds, sum(counted.forwards for counted in counters)


def main() -> None:
    found = {ask.__name__: asyncio.run(measure(ask)) for ask in (one_by_one, batch)}
    for name, (seconds, forwards) in found.items():
        print(f"{name:11} {QUESTIONS} questions, {CHAINS} chains: {seconds:.1f} s, {forwards} forwards")
    (slow, many), (fast, few) = found.values()
    print(f"the batch took {slow / fast:.2f} times less time, {many / few:.2f} times fewer forwards")


if __name__ == "__main__":
    main()
