"""One client against sixteen on `a1 serve`: tokens per second, and how long an answer and a first byte take.

python tests/benchmarks/bench_server.py [--questions 32] [--clients 1 16] [ADDRESSES AND OPTIONS OF a1 serve]
Prints Markdown. Run nothing else beside it.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from openai import AsyncOpenAI

from a1agent.embedded.problems import problems
from a1agent.prompts import BOXED_INSTRUCTION


@dataclass(frozen=True)
class Timed:
    """One answer: seconds to its first byte and to its end, tokens that both models wrote, whether it was right."""

    first_s: float
    total_s: float
    tokens: int
    right: bool


@contextmanager
def served(words: list[str]) -> Iterator[str]:
    command = [sys.executable, "-m", "a1agent", "serve", "--port", "0", "--calibration", "none", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[2]
        finally:
            process.terminate()


async def ask(client: AsyncOpenAI, question: str, answer: str) -> Timed:
    began, first, found, tokens = time.perf_counter(), None, None, 0
    stream = await client.chat.completions.create(
        model="a1",
        messages=[{"role": "user", "content": f"{question}\n\n{BOXED_INSTRUCTION}"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        first = first or time.perf_counter() - began
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            found = (choice.model_extra or {}).get("a1", {}).get("answer", found)
    return Timed(first or 0.0, time.perf_counter() - began, tokens, found == answer)


async def run(url: str, clients: int, questions: int) -> tuple[list[Timed], float]:
    waiting = list(problems(questions, seed=7))
    done: list[Timed] = []
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:
        await asyncio.gather(*(client.models.list() for _ in range(clients)))  # connects before the clock runs

        async def one() -> None:
            while waiting:
                problem = waiting.pop()
                done.append(await ask(client, problem.question, problem.answer))

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        return done, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    chosen, words = parser.parse_known_args()
    print("| clients | questions | tokens per second | answer p50 | p95 | first byte p50 | p95 | right |")
    print("|---|---|---|---|---|---|---|---|")
    with served(words) as url:
        asyncio.run(run(url, 1, 1))  # the first question of a process pays for what is loaded with it
        for clients in chosen.clients:
            done, seconds = asyncio.run(run(url, clients, chosen.questions))
            totals, firsts = ([getattr(t, name) for t in done] for name in ("total_s", "first_s"))
            print(
                f"| {clients} | {len(done)} | {sum(t.tokens for t in done) / seconds:.0f} "
                f"| {statistics.median(totals):.2f} s | {_p95(totals):.2f} s "
                f"| {statistics.median(firsts) * 1000:.0f} ms | {_p95(firsts) * 1000:.0f} ms "
                f"| {sum(t.right for t in done)} |",
                flush=True,
            )


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


if __name__ == "__main__":
    main()
