"""The transformers backend against what the library does by itself, alternating in one run.

    python tests/benchmarks/bench_transformers.py [--gpu] [--threads N] [--rounds N] [--json FILE]

    generation        16 chains of one length, against a bare loop over the model with a StaticCache of the same batch
    ragged            16 chains of unlike lengths, against `generate()` on padded rows
    scoring           16 steps of 64 tokens on prefixes of one length, against a DynamicCache (nothing is padded)
    recorded scoring  16 steps and prefixes as long as those of one moment in the run recorded in tests/data, the 16
                      chains of its first question each at a turn of its own, against the same, padded
    long scoring      16 steps of 16 tokens on prefixes of 4,000

Random weights: about 10 million parameters on a processor, and 100 million with a larger vocabulary that only write;
with --gpu 1.5 and 14 billion in bfloat16, and two figures more: decoding as a share of what the memory's bandwidth
allows (bytes of weights and KV cache a step), scoring as a share of the matrix-multiply limit, both limits measured in
the same run.
Quote ratios of one run on a quiet machine; anything that runs beside it changes them.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models

from a1agent.backends import transformers as hf
from a1agent.backends.base import Sampling, Sequence, StepText, Stop
from a1agent.backends.transformers import TransformersBackend

CHAINS = 16
TEMPERATURE = 0.8
PROMPT, WRITTEN, STEP = 256, 64, 64
LONG, SHORT = [4000] * CHAINS, [16] * CHAINS
FREELY = Stop(whole_words=False)
RECORDED = Path(__file__).parents[1] / "data" / "math500_r1-llama-8b_qwq-32b.csv"
LETTERS = 4  # of a token, about


class Clock:
    """What is measured: seconds that pass, or those that this process had a processor."""

    now = staticmethod(time.perf_counter)


@dataclass(frozen=True)
class Size:
    """A model to make: its configuration, and what to call it."""

    name: str
    config: dict[str, Any]


SMALL = Size(
    "10M",
    {
        "hidden_size": 320,
        "intermediate_size": 896,
        "num_hidden_layers": 6,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
        "head_dim": 32,
        "vocab_size": 4096,
    },
)
MEDIUM = Size(
    "100M",
    {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 32000,
    },
)
LARGE = (
    Size(
        "1.5B",
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "vocab_size": 151936,
        },
    ),
    Size(
        "14B",
        {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 152064,
        },
    ),
)


def write_model(folder: Path, size: Size, dtype: torch.dtype, device: str) -> None:
    """A Llama with random weights and a vocabulary of made-up words; its end is one that is hardly ever sampled."""
    vocabulary = size.config["vocab_size"]
    config = transformers.LlamaConfig(
        **size.config,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=vocabulary - 1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    letters = [chr(b) if 33 <= b < 127 or 161 <= b < 173 or b > 173 else chr(256 + b) for b in range(256)]
    words = [*letters, *(f"w{i}" for i in range(vocabulary - 256))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages[0].content }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def some_ids(seed: int, count: int, vocabulary: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256, vocabulary - 1) for _ in range(count)]


class Bench:
    """One model, loaded twice: in the backend, and bare."""

    def __init__(self, folder: Path, size: Size, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = device
        self.vocabulary: int = size.config["vocab_size"]
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        self.bare = load(folder, dtype=dtype, attn_implementation="sdpa").to(device).eval()
        self.opened: dict[tuple[int, ...], list[Sequence]] = {}
        self.caches: dict[tuple[int, ...], Any] = {}
        options: dict[str, Any] = {"n_ctx": 4096, "kv_tokens": 65536, "n_threads": threads, "device": device}
        self.backend: TransformersBackend = hf.load(str(folder), **options)

    def ids(self, seed: int, count: int) -> list[int]:
        return some_ids(seed, count, self.vocabulary)

    def step(self, seed: int, count: int) -> StepText:
        ids = tuple(self.ids(seed, count))
        return StepText(text="", ids=ids, tokenizer_fingerprint=self.backend.info.tokenizer_fingerprint)

    # Ours

    async def chains(self, lengths: list[int]) -> list[Sequence]:
        """Chains on prompts of these lengths, opened once; those of other lengths make way for them."""
        key = tuple(lengths)
        if key not in self.opened:
            for chain in [chain for chains in self.opened.values() for chain in chains]:
                await chain.close()
            self.opened.clear()
            calls = (self.backend.open_ids(self.ids(i, n)) for i, n in enumerate(lengths))
            self.opened[key] = list(await asyncio.gather(*calls))
        return self.opened[key]

    async def generate(self, lengths: list[int], written: list[int]) -> float:
        """Tokens a second, prompts not counted."""
        chains = await self.chains(lengths)
        marks = [chain.mark() for chain in chains]
        began = Clock.now()
        calls = (
            chain.generate(n, Sampling(temperature=TEMPERATURE, seed=i), FREELY)
            for i, (chain, n) in enumerate(zip(chains, written, strict=True))
        )
        generated = await asyncio.gather(*calls)
        took = Clock.now() - began
        for chain, mark in zip(chains, marks, strict=True):
            chain.rewind(mark)
        return sum(len(each.logprobs) + each.trimmed_tokens for each in generated) / took

    async def score(self, lengths: list[int], counts: list[int]) -> float:
        """Tokens a second of steps, prefixes not counted."""
        chains = await self.chains(lengths)
        marks = [chain.mark() for chain in chains]
        steps = [self.step(100 + i, count) for i, count in enumerate(counts)]
        began = Clock.now()
        await asyncio.gather(*(chain.score(step) for chain, step in zip(chains, steps, strict=True)))
        took = Clock.now() - began
        for chain, mark in zip(chains, marks, strict=True):
            chain.rewind(mark)
        return sum(counts) / took

    # The library's

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def static_loop(self, length: int, written: int) -> float:
        """The least that decoding can do: one forward a token over a StaticCache, a draw, and the log-probability."""
        cache = transformers.StaticCache(config=self.bare.config, max_cache_len=length + written)
        prompt = torch.tensor([self.ids(i, length) for i in range(CHAINS)], device=self.device)
        self.bare(prompt[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = prompt[:, -1:]
        self.wait()
        began = Clock.now()
        for _ in range(written):
            logits = self.bare(token, past_key_values=cache, use_cache=True).logits[:, -1].float()
            weights = (logits / TEMPERATURE).softmax(-1)
            # Exponential clocks: as torch.multinomial, and faster.
            token = (weights / torch.empty_like(weights).exponential_(1)).argmax(-1, keepdim=True)
            logits.log_softmax(-1).gather(1, token).tolist()
        return CHAINS * written / (Clock.now() - began)

    @torch.inference_mode()
    def library_generate(self, lengths: list[int], written: list[int]) -> float:
        """`generate()` on rows padded to the left; it runs until the longest is done, without log-probabilities."""
        width = max(lengths)
        rows = [[0] * (width - n) + self.ids(i, n) for i, n in enumerate(lengths)]
        mask = [[0] * (width - n) + [1] * n for n in lengths]
        ids, seen = (torch.tensor(each, device=self.device) for each in (rows, mask))
        common: dict[str, Any] = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "pad_token_id": 0}
        self.wait()
        began = Clock.now()
        self.bare.generate(ids, attention_mask=seen, max_new_tokens=1, **common)
        self.wait()
        prefill = Clock.now() - began
        began = Clock.now()
        self.bare.generate(ids, attention_mask=seen, max_new_tokens=max(written), **common)
        self.wait()
        return sum(written) / max(1e-9, Clock.now() - began - prefill)

    @torch.inference_mode()
    def padded_score(self, lengths: list[int], counts: list[int]) -> float:
        """Scoring in one DynamicCache: prefixes padded to the left, steps to the right."""
        width, longest = max(lengths), max(counts)
        rows = [[0] * (width - n) + self.ids(i, n) for i, n in enumerate(lengths)]
        mask = torch.tensor([[0] * (width - n) + [1] * (n + longest) for n in lengths], device=self.device)
        ids = torch.tensor(rows, device=self.device)
        padded = [self.ids(100 + i, count) + [0] * (longest - count) for i, count in enumerate(counts)]
        steps = torch.tensor(padded, device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        before = width - 1
        if tuple(lengths) not in self.caches:
            cache = self.caches[tuple(lengths)] = transformers.DynamicCache(config=self.bare.config)
            seen, at = mask[:, :before], positions[:, :before]
            self.bare(
                ids[:, :-1],
                attention_mask=seen,
                position_ids=at,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        common: dict[str, Any] = {"past_key_values": self.caches[tuple(lengths)], "use_cache": True}
        self.wait()
        began = Clock.now()
        read = torch.cat([ids[:, -1:], steps[:, :-1]], 1)
        at = positions[:, before : before + longest]
        logits = self.bare(read, attention_mask=mask[:, : before + longest], position_ids=at, **common).logits
        logits.float().log_softmax(-1).gather(2, steps[..., None]).tolist()
        took = Clock.now() - began
        self.caches[tuple(lengths)].crop(-longest)
        return sum(counts) / took


def ragged(seed: int, low: int, high: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(low, high) for _ in range(CHAINS)]


def recorded() -> tuple[list[int], list[int]]:
    """Tokens before a step and in it, for the chains of the first recorded question, each at a random turn."""
    chains: dict[str, dict[str, int]] = {}
    with RECORDED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["question"] == "0":  # of several attempts at a turn the last one stands
                chains.setdefault(row["chain"], {})[row["turn"]] = int(row["draft_chars"])
    rng = random.Random(0)
    before, counts = [], []
    for steps in map(list, list(map(dict.values, chains.values()))[:CHAINS]):
        turn = rng.randrange(len(steps))
        before.append(64 + sum(steps[:turn]) // LETTERS)
        counts.append(max(1, steps[turn] // LETTERS))
    return before, counts


def race(name: str, rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, float]:
    """Medians of alternating runs, the first of each not counted, and the median of the ratios."""
    pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    found = {
        "ours": statistics.median(a for a, _ in pairs),
        "theirs": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }
    print(f"  {name:<17}" + "  ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
    return found


def measure(bench: Bench, rounds: int, *, scores: bool = True) -> dict[str, dict[str, float]]:
    same, written = [PROMPT] * CHAINS, [WRITTEN] * CHAINS
    unlike, lengths = ragged(1, 64, 2 * PROMPT), ragged(2, 16, 2 * WRITTEN)
    steps, (before, counts) = [STEP] * CHAINS, recorded()
    loop = asyncio.new_event_loop()

    def ours(call: Callable[[], Any]) -> Callable[[], float]:
        return lambda: loop.run_until_complete(call())

    races: dict[str, tuple[Callable[[], Any], Callable[[], float]]] = {
        "generation": (lambda: bench.generate(same, written), lambda: bench.static_loop(PROMPT, WRITTEN)),
        "ragged": (lambda: bench.generate(unlike, lengths), lambda: bench.library_generate(unlike, lengths)),
        "scoring": (lambda: bench.score(same, steps), lambda: bench.padded_score(same, steps)),
        "recorded scoring": (lambda: bench.score(before, counts), lambda: bench.padded_score(before, counts)),
        "long scoring": (lambda: bench.score(LONG, SHORT), lambda: bench.padded_score(LONG, SHORT)),
    }
    if not scores:
        races = {name: pair for name, pair in races.items() if "scoring" not in name}
    results = {name: race(name, rounds, ours(mine), theirs) for name, (mine, theirs) in races.items()}
    if bench.device != "cpu":
        results |= shares(bench, results)
    loop.run_until_complete(bench.backend.aclose())
    loop.close()
    return results


def shares(bench: Bench, results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Decoding against the memory's bandwidth, scoring against the matrix-multiply rate, both measured here."""
    config = bench.bare.config
    weights = sum(p.numel() for p in bench.bare.parameters()) - bench.bare.model.embed_tokens.weight.numel()
    cell = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2
    read = 2 * weights + CHAINS * (PROMPT + WRITTEN / 2) * cell
    steps = results["generation"]["ours"] / CHAINS
    flops = 2 * weights * results["scoring"]["ours"]
    found = {
        "bandwidth": {"share": steps * read / bandwidth(), "bytes_a_step": read},
        "multiply": {"share": flops / multiply_rate()},
    }
    print(found)
    return found


def bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timed(lambda: target.copy_(source))


def multiply_rate() -> float:
    """Operations a second of a large product in bfloat16."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * 8192**3 / timed(lambda: a @ b)


def timed(call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    began = Clock.now()
    for _ in range(20):
        call()
    torch.cuda.synchronize()
    return (Clock.now() - began) / 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="large models on the first GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true", help="count that instead, on a busy machine")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.processor_time:
        Clock.now = staticmethod(time.process_time)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if options.gpu else "cpu"
    results: dict[str, Any] = {}
    for size in LARGE if options.gpu else (SMALL, MEDIUM):
        with tempfile.TemporaryDirectory() as folder:
            write_model(Path(folder), size, torch.bfloat16 if options.gpu else torch.float32, device)
            print(size.name)
            results[size.name] = measure(
                Bench(Path(folder), size, device, options.threads), options.rounds, scores=size is not MEDIUM
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
