"""Measure the mean NLL of training prompts under the target and write the sample that ships with the pair.

python prompts.py ../../a1agent/embedded/target.gguf ../../a1agent/embedded/prompt_nlls.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import llama_cpp
import numpy as np

from a1agent.embedded.problems import problems

BEFORE = "<|im_start|>user\n"


def load(file: Path) -> llama_cpp.Llama:
    """One thread: for models this small, two spend their time waiting for each other."""
    return llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)


def content_nll(model: llama_cpp.Llama, content: str) -> float:
    """Mean negative log-likelihood in nats per token of a user message's content, after the template's opening.

    The content is tokenized alone and without special tokens; `<|im_end|>` after it is not counted.
    """
    before = model.tokenize(BEFORE.encode(), add_bos=False, special=True)
    ids = model.tokenize(content.encode(), add_bos=False, special=False)
    model.reset()
    model.eval(before + ids)
    logits = np.asarray(model.scores[len(before) - 1 : len(before) + len(ids) - 1], dtype=np.float64)
    normalizer = np.logaddexp.reduce(logits, axis=1)
    return float((normalizer - logits[np.arange(len(ids)), ids]).mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Mean NLL of training prompts under a GGUF model.")
    parser.add_argument("model", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args(arguments)
    model = load(options.model)
    questions = [problem.question for problem in problems(options.count, 0, split="train")]
    stored = {
        "unit": "nats per token of the user message's content",
        "plain": sorted(round(content_nll(model, question), 5) for question in questions),
    }
    options.to.write_text(json.dumps(stored) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
