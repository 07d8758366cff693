"""32 questions with 8 chains each, one by one and as one batch: seconds, and what no other load changes much.

That is the seconds that the processor worked, and the forwards. A forward costs little more for many sequences than for
one where reading the weights is what takes time (a GPU, large models), and about as much a token where it is not.

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


async def measure(ask: Ask) -> tuple[float, float, int]:
    """Seconds, processor seconds and forwards; each way has models of its own, loaded before."""
    chat = ChatA1(chains=CHAINS, seed=1, calibration=None, early_stop="off")
    pair = await chat.agent_and_options()[0].pair.load()
    began, worked = time.perf_counter(), time.process_time()
    await ask(chat, [problem.question for problem in problems(QUESTIONS, 2026)])
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    counters = [model.counters for model in (pair.draft, pair.target)]
    assert all(counted.sequences_alive == 0 for counted in counters)
    await chat.aclose()
    return seconds, worked, sum(counted.forwards for counted in counters)


def main() -> None:
    found = {ask.__name__: asyncio.run(measure(ask)) for ask in (one_by_one, batch)}
    for name, (seconds, worked, forwards) in found.items():
        print(f"{name:11} {seconds:.1f} s ({worked:.1f} s of the processor), {forwards} forwards")
    shares = [one / all_at_once for one, all_at_once in zip(found["one_by_one"], found["batch"], strict=True)]
    print("one by one takes {:.2f} times the seconds, {:.2f} of the processor, {:.2f} the forwards".format(*shares))


if __name__ == "__main__":
    main()
