"""The llama.cpp backend against what llama.cpp itself does, alternating in one run.

    python tests/benchmarks/bench_llama_cpp.py [--quick] [--threads N] [--json FILE]

    generation     16 chains, against a loop over `llama_decode` with the same batch and native samplers, and against
                   llama-cpp-python's high-level API one chain after the other
    scoring        16 steps of 64 tokens, against a batched prefill that asks for the same logits
    fresh question 16 chains of 48 tokens on a 256-token prompt, against llama.cpp's server with 16 slots (the
                   `xllamacpp` wheel; left out when it is not installed): cold slots see the prompt for the first time,
                   warm ones have it in their caches
    memory         resident MiB by number of chains and turns

Each contender runs in a process of its own; one works at a time. The model is written on first use: random weights,
Q8_0, about 100 million parameters, 32,000 tokens. Where the build gets AMX wrong (`a1agent/backends/llama_amx.py`), all
but the server go without.
Quote ratios of one run on a quiet machine; anything that runs beside it changes them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from random_gguf import VOCABULARY, Shape, random_model

from a1agent.backends import llama_amx, llama_cpp
from a1agent.backends.base import Sampling, StepText, Stop
from a1agent.backends.llama_cpp import LlamaCppBackend
from a1agent.backends.llama_options import physical_cores

CHAINS = 16
SHAPE = Shape("100m", width=768, layers=7, inner=2048, heads=12)
TEMPERATURE = 0.8
CELLS = 16384

Clock = Callable[[], float]


def some_ids(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256, VOCABULARY - 1) for _ in range(count)]


class Bare:
    """The least that llama.cpp can be made to do: batches filled by hand, no log-probabilities, no text."""

    def __init__(self, path: Path, threads: int, chains: int = CHAINS, clock: Clock = time.perf_counter) -> None:
        import llama_cpp.llama_cpp as api

        self.api = api
        self.chains = chains
        self.clock = clock
        model = api.llama_model_default_params()
        model.use_extra_bufts = llama_amx.works(api)
        self.model = api.llama_model_load_from_file(str(path).encode(), model)
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = CELLS, 512, 512, chains
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = params.swa_full = params.no_perf = True
        self.context = api.llama_init_from_model(self.model, params)
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(512, 0, 1)

    def decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Rows of token, position, sequence, and whether logits are wanted."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        assert self.api.llama_decode(self.context, batch) == 0

    def prompt(self, ids: list[int]) -> None:
        """All but the last id into sequence 0, shared with the others."""
        self.api.llama_memory_clear(self.memory, False)
        self.decode([(token, i, 0, False) for i, token in enumerate(ids[:-1])])
        for sequence in range(1, self.chains):
            self.api.llama_memory_seq_cp(self.memory, 0, sequence, 0, -1)

    def generate(self, ids: list[int], count: int) -> tuple[int, float]:
        """Tokens and seconds of `count` steps of all chains, the prompt not counted."""
        api = self.api
        self.prompt(ids)
        samplers = [self.sampler(i) for i in range(self.chains)]
        tokens = [ids[-1]] * self.chains
        began = self.clock()
        for step in range(count):
            position = len(ids) - 1 + step
            self.decode([(token, position, i, True) for i, token in enumerate(tokens)])
            tokens = [api.llama_sampler_sample(samplers[i], self.context, i) for i in range(self.chains)]
        took = self.clock() - began
        for sampler in samplers:
            api.llama_sampler_free(sampler)
        return self.chains * count, took

    def sampler(self, seed: int) -> Any:
        api = self.api
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_temp(TEMPERATURE))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_dist(seed))
        return chain

    def score(self, ids: list[int], steps: list[list[int]]) -> tuple[int, float]:
        """Tokens and seconds of a prefill of all steps that asks for every logit and looks at none."""
        self.prompt(ids)
        start = len(ids) - 1
        rows = [(t, start + j, i, True) for i, step in enumerate(steps) for j, t in enumerate([ids[-1], *step[:-1]])]
        began = self.clock()
        for at in range(0, len(rows), 512):
            self.decode(rows[at : at + 512])
            self.api.llama_get_logits(self.context)
        return len(rows), self.clock() - began

    def close(self) -> None:
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)


class HighLevel:
    """`llama_cpp.Llama`, one chain after the other."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp.llama_cpp as api
        from llama_cpp import Llama

        if not llama_amx.works(api):
            defaults = api.llama_model_default_params()
            defaults.use_extra_bufts = False  # which it has no option for
            api.llama_model_default_params = lambda: defaults
        self.llama = Llama(
            str(path), n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def generate(self, ids: list[int], count: int, chains: int) -> tuple[int, float]:
        self.llama.create_completion(ids, max_tokens=1, temperature=TEMPERATURE)
        began = time.perf_counter()
        tokens = 0
        for i in range(chains):
            said = self.llama.create_completion(
                ids,
                max_tokens=count,
                temperature=TEMPERATURE,
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                repeat_penalty=1.0,
                seed=i,
            )
            tokens += said["usage"]["completion_tokens"]
        return tokens, time.perf_counter() - began

    def close(self) -> None:
        self.llama.close()


class Ours:
    """The backend as the engine uses it."""

    def __init__(self, path: Path, threads: int) -> None:
        self.backend: LlamaCppBackend = llama_cpp.load(str(path), n_ctx=2048, kv_tokens=CELLS, n_threads=threads)

    async def generate(self, ids: list[int], count: int) -> tuple[int, float]:
        root = await self.backend.open_ids(ids)
        chains = [root, *(root.fork() for _ in range(CHAINS - 1))]
        began = time.perf_counter()
        said = await asyncio.gather(*(c.generate(count, sampling(i), FREELY) for i, c in enumerate(chains)))
        took = time.perf_counter() - began
        await asyncio.gather(*(chain.close() for chain in chains))
        return sum(len(s.step.ids or ()) + s.trimmed_tokens for s in said), took

    async def score(self, ids: list[int], steps: list[list[int]]) -> tuple[int, float]:
        root = await self.backend.open_ids(ids)
        chains = [root, *(root.fork() for _ in range(CHAINS - 1))]
        await self.backend.settle()
        texts = [self.step(step) for step in steps]
        began = time.perf_counter()
        scores = await asyncio.gather(*(c.score(text) for c, text in zip(chains, texts, strict=True)))
        took = time.perf_counter() - began
        await asyncio.gather(*(chain.close() for chain in chains))
        return sum(len(s.ids) for s in scores), took

    async def fresh(self, ids: list[int], count: int) -> float:
        began = time.perf_counter()
        root = await self.backend.open_ids(ids)
        chains = [root, *(root.fork() for _ in range(CHAINS - 1))]
        await asyncio.gather(*(c.generate(count, sampling(i), FREELY) for i, c in enumerate(chains)))
        took = time.perf_counter() - began
        await asyncio.gather(*(chain.close() for chain in chains))
        return took

    async def turns(self, seed: int, chains: int, turns: int) -> None:
        """Chains that grow for some turns and close."""
        root = await self.backend.open_ids(some_ids(seed, 128))
        grown = [root, *(root.fork() for _ in range(chains - 1))]
        for turn in range(turns):
            await asyncio.gather(*(c.generate(8, sampling(turn), FREELY) for c in grown))
            await asyncio.gather(*(c.score(self.step(some_ids(turn, 8))) for c in grown))
        await asyncio.gather(*(chain.close() for chain in grown))

    async def memory(self, seed: int, chains: int, turns: int) -> float:
        """Resident MiB after chains that grew for some turns were closed."""
        await self.turns(seed, chains, turns)
        return round(trimmed() / 2**20, 1)

    async def close(self) -> None:
        await self.backend.aclose()

    def step(self, ids: list[int]) -> StepText:
        return StepText(text="", ids=tuple(ids), tokenizer_fingerprint=self.backend.info.tokenizer_fingerprint)


FREELY = Stop(whole_words=False)


def sampling(seed: int) -> Sampling:
    return Sampling(temperature=TEMPERATURE, seed=seed)


class Server:
    """llama.cpp's own server with 16 slots."""

    def __init__(self, path: Path, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel, params.n_ctx, params.n_batch = CHAINS, CELLS, 512
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers, params.warmup = 0, True
        self.server = xllamacpp.Server(params)

    def fresh(self, ids: list[int], count: int) -> float:
        """Seconds that 16 completions of a prompt take."""
        request = {
            "prompt": ids,
            "max_tokens": count,
            "temperature": TEMPERATURE,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "cache_prompt": True,
            "ignore_eos": True,
        }
        with ThreadPoolExecutor(CHAINS) as pool:
            began = time.perf_counter()
            answers = list(pool.map(lambda i: self.server.handle_completions({**request, "seed": i}), range(CHAINS)))
            took = time.perf_counter() - began
        assert all("error" not in str(answer)[:40] for answer in answers), answers[0]
        return took

    def close(self) -> None:
        del self.server


CONTENDERS = {"bare": Bare, "ours": Ours, "high_level": HighLevel, "server": Server}


class Apart:
    """A contender in a process of its own, so that thread pools never meet: they would slow each other down."""

    def __init__(self, name: str, path: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--contender", name, str(path), "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def __call__(self, method: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, arguments]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("contender "):
                return json.loads(line.removeprefix("contender "))
        raise RuntimeError("a contender's process ended")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(name: str, path: Path, threads: int) -> None:
    """The other end of `Apart`."""
    contender: Any = CONTENDERS[name](path, threads)
    print("contender 0", flush=True)
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            method, arguments = json.loads(line)
            result = getattr(contender, method)(*arguments)
            result = runner.run(result) if asyncio.iscoroutine(result) else result
            print("contender", json.dumps(result), flush=True)
        closing = contender.close()
        if asyncio.iscoroutine(closing):
            runner.run(closing)


def resident() -> int:
    """Bytes of this process in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def trimmed() -> int:
    """Resident bytes after the C library gave back what is free."""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident()


def alternate(rounds: int, ways: dict[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """Runs every way once a round, in an order that changes, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(-1, rounds):
        names = list(ways)
        random.Random(i).shuffle(names)
        for name in names:
            value = ways[name](i + 1)
            if i >= 0:
                found[name].append(value)
    return found


def ratio(found: dict[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of a / b."""
    return statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))


def rate(result: tuple[int, float]) -> float:
    return result[0] / result[1]


def measure(path: Path, threads: int, rounds: int) -> dict[str, Any]:
    """All tables."""
    report: dict[str, Any] = {"threads": threads, "rounds": rounds, "chains": CHAINS}
    bare, ours, high = (Apart(name, path, threads) for name in ("bare", "ours", "high_level"))
    generation = alternate(
        rounds,
        {
            "bare": lambda i: rate(bare("generate", some_ids(i, 64), 48)),
            "ours": lambda i: rate(ours("generate", some_ids(i, 64), 48)),
            "high_level": lambda i: rate(high("generate", some_ids(i, 64), 48, 4)),
        },
    )
    report["generation_tokens_per_s"] = medians(generation)
    report["generation_of_bare"] = ratio(generation, "ours", "bare")
    report["generation_of_high_level"] = ratio(generation, "ours", "high_level")
    steps = [[some_ids(1000 * i + j, 64) for j in range(CHAINS)] for i in range(rounds + 1)]
    scoring = alternate(
        rounds,
        {
            "bare": lambda i: rate(bare("score", some_ids(i, 128), steps[i])),
            "ours": lambda i: rate(ours("score", some_ids(i, 128), steps[i])),
        },
    )
    report["scoring_tokens_per_s"] = medians(scoring)
    report["scoring_of_bare"] = ratio(scoring, "ours", "bare")
    report |= measure_fresh(path, threads, rounds, ours)
    report["resident_mib"] = measure_memory(ours)
    for contender in (bare, ours, high):
        contender.close()
    return report


def measure_fresh(path: Path, threads: int, rounds: int, ours: Apart) -> dict[str, Any]:
    """Seconds from a question to 16 chains of 48 tokens."""
    ways: dict[str, Callable[[int], float]] = {"ours": lambda i: ours("fresh", some_ids(50_000 + i, 256), 48)}
    if importlib.util.find_spec("xllamacpp") is None:
        return {"fresh_question_s": medians(alternate(rounds, ways)), "server": "xllamacpp is not installed"}
    server = Apart("server", path, threads)
    warm: dict[int, float] = {}

    def cold(i: int) -> float:
        ids = some_ids(60_000 + i, 256)
        took = server("fresh", ids, 48)
        warm[i] = server("fresh", ids, 48)
        return took

    found = alternate(rounds, {**ways, "server_cold": cold})
    found["server_warm"] = [warm[i + 1] for i in range(rounds)]
    server.close()
    return {
        "fresh_question_s": medians(found),
        "sooner_than_cold_server": ratio(found, "server_cold", "ours"),
        "sooner_than_warm_server": ratio(found, "server_warm", "ours"),
    }


def measure_memory(ours: Apart) -> dict[str, float]:
    """Resident MiB of our process after more chains and more turns."""
    cases = ((4, 1), (16, 1), (64, 1), (16, 8), (64, 8))
    return {f"{c} chains, {t} turns": ours("memory", c * 100 + t, c, t) for c, t in cases}


def medians(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds instead of seven")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--json", type=Path, help="write the report there too")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        serve(options.contender[0], Path(options.contender[1]), options.threads)
        return
    report = measure(random_model(SHAPE), options.threads, 2 if options.quick else 7)
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
