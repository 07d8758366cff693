"""How often a GGUF model is right on held-out problems, greedily, one chain, run by llama.cpp.

python evaluate.py ../../a1agent/embedded/target.gguf --count 500 --seed 7
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import llama_cpp
from data import chat_prompt

from a1agent.embedded.problems import FAMILIES, problems

MAX_TOKENS = 400


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * ((share * (1 - share) + spread / 4) / count) ** 0.5 / (1 + spread)
    return middle - half, middle + half


def complete(model: llama_cpp.Llama, question: str) -> tuple[str, int]:
    """The greedy reply to a question, and its length in tokens."""
    prompt = model.tokenize(chat_prompt(question).encode(), add_bos=False, special=True)
    written: list[int] = []
    model.reset()
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        if token == model.token_eos() or len(written) >= MAX_TOKENS:
            break
        written.append(token)
    return model.detokenize(written).decode(errors="replace"), len(written)


def stated_answer(text: str) -> str | None:
    found = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return found[-1] if found else None


def line(name: str, right: int, count: int) -> str:
    low, high = wilson(right, count)
    return f"{name:12} {right:4}/{count:<4} {right / count:.3f}  [{low:.3f}, {high:.3f}]"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Greedy accuracy of a GGUF model on held-out problems.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show-wrong", type=int, default=0, help="print so many wrong replies")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count is {options.count}: it is more than 0")
    if not options.model.is_file():
        parser.error(f"there is no file {options.model}")
    model = llama_cpp.Llama(
        str(options.model), n_ctx=1024, n_threads=options.threads, n_threads_batch=options.threads, verbose=False
    )
    asked, right, tokens = Counter[str](), Counter[str](), 0
    for problem in problems(options.count, options.seed):
        text, length = complete(model, problem.question)
        tokens += length
        asked[problem.family] += 1
        if stated_answer(text) == problem.answer:
            right[problem.family] += 1
        elif options.show_wrong:
            options.show_wrong -= 1
            print(f"--- {problem.question} -> {problem.answer}\n{text}\n")
    total, correct = asked.total(), right.total()
    if options.json:
        by_family = {name: [right[name], asked[name]] for name in FAMILIES}
        print(
            json.dumps({"count": total, "right": correct, "interval": wilson(correct, total), "by_family": by_family})
        )
        return
    for name in FAMILIES:
        if asked[name]:
            print(line(name, right[name], asked[name]))
    print(line("all", correct, total), f" {tokens / total:.0f} tokens a reply")


if __name__ == "__main__":
    main()
