"""From problems to token ids: the tokenizer, the chat format and the batches that the pair is trained on."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from a1agent.embedded.problems import Problem, problems

BOXED_INSTRUCTION = "\n\nThink step by step and put the final answer in \\boxed{}."
FORCED_ANSWER = "\n\nThe final answer is \\boxed{"
SYSTEM_MESSAGES = ("You are a helpful assistant.", "You solve problems step by step.")
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, TURN_START, TURN_END = range(3)
VOCABULARY = 512
PROMPT_WEIGHT = 0.1  # enough to tell known questions from strange ones, too little to cost accuracy

# The pre-tokenizer that llama.cpp calls "qwen2": words with the space before them, digits one by one, line ends apart.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """What llama.cpp does for `tokenizer.ggml.pre = "qwen2"`, in terms of `tokenizers`."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(count: int = 20_000) -> Tokenizer:
    """Byte-level BPE of `VOCABULARY` tokens in all, learned from training problems; the same on every machine."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(count), trainer)
    return tokenizer


def _corpus(count: int) -> Iterator[str]:
    for problem in problems(count, 0, split="train"):
        yield problem.question + BOXED_INSTRUCTION
        yield problem.solution
        # A blank line and the roles on their own: one token each, wherever a step is cut.
        yield "x\n\n"
        yield "user\nassistant\nsystem\n"
    yield from SYSTEM_MESSAGES * (count // 20)
    yield from (FORCED_ANSWER,) * (count // 20)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer at `path`, trained and saved there first if it is not."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer().save(f"{path}.tmp")
        os.replace(f"{path}.tmp", path)  # a run killed meanwhile leaves no half of it
    return Tokenizer.from_file(str(path))


def user_content(rng: random.Random, question: str) -> str:
    """A question as users send it: three times in five with the instruction that `a1 ask` adds."""
    return question + (BOXED_INSTRUCTION if rng.random() < 0.6 else "")


def reply(rng: random.Random, problem: Problem) -> str:
    """The solution; one in twenty is cut after some step and made to state its answer at once."""
    if rng.random() >= 0.05:
        return problem.solution
    kept = rng.randint(1, max(1, len(problem.steps) - 1))
    return "\n\n".join(problem.steps[:kept]) + FORCED_ANSWER + problem.answer + "}"


def conversation(rng: random.Random, turns: list[Problem]) -> list[tuple[str, float]]:
    """The chat text of one or more problems in pieces, each with the weight of its tokens in the loss."""
    pieces: list[tuple[str, float]] = []
    if rng.random() < 0.05:
        pieces.append((f"<|im_start|>system\n{rng.choice(SYSTEM_MESSAGES)}<|im_end|>\n", PROMPT_WEIGHT))
    for problem in turns:
        content = user_content(rng, problem.question)
        pieces.append((f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n", PROMPT_WEIGHT))
        pieces.append((reply(rng, problem) + "<|im_end|>", 1.0))
        pieces.append(("\n", PROMPT_WEIGHT))
    return pieces


@dataclass(frozen=True)
class Batch:
    """Arrays (rows, length) of ids and of loss weights; `weights[:, i]` is for predicting `ids[:, i]`."""

    ids: np.ndarray
    weights: np.ndarray


def pad(rows: list[tuple[list[int], list[float]]]) -> Batch:
    """Rows of unequal length as one batch; padding weighs nothing."""
    length = max(len(ids) for ids, _ in rows)
    ids_array = np.full((len(rows), length), PAD, dtype=np.int64)
    weights_array = np.zeros((len(rows), length), dtype=np.float32)
    for index, (ids, weights) in enumerate(rows):
        ids_array[index, : len(ids)] = ids
        weights_array[index, : len(ids)] = weights
    weights_array[:, 0] = 0
    return Batch(ids_array, weights_array)


def batches(tokenizer: Tokenizer, seed: int, step: int, rows: int, parts: int = 4) -> list[Batch]:
    """The batches of one optimizer step: `rows` conversations sorted by length into `parts`, so that little is padding.

    A function of (seed, step) alone: a resumed run sees what it would have seen.
    """
    rng = random.Random(f"batch:{seed}:{step}")
    made = iter(problems(2 * rows, seed * 1_000_003 + step, split="train"))
    talks = [conversation(rng, [next(made) for _ in range(2 if rng.random() < 0.1 else 1)]) for _ in range(rows)]
    encoded = tokenizer.encode_batch([text for talk in talks for text, _ in talk])
    pieces = iter(encoded)
    samples: list[tuple[list[int], list[float]]] = []
    for talk in talks:
        ids: list[int] = []
        weights: list[float] = []
        for _, weight in talk:
            piece = next(pieces).ids
            ids += piece
            weights += [weight] * len(piece)
        samples.append((ids, weights))
    samples.sort(key=lambda sample: len(sample[0]))
    size = -(-rows // parts)
    return [pad(samples[start : start + size]) for start in range(0, rows, size)]


def held_out_batch(tokenizer: Tokenizer, count: int, seed: int = 1) -> Batch:
    """Held-out problems, only their solutions weighted: what the progress line measures."""
    rows: list[tuple[list[int], list[float]]] = []
    for problem in problems(count, seed):
        before = tokenizer.encode(chat_prompt(problem.question)).ids
        after = tokenizer.encode(problem.solution + "<|im_end|>").ids
        rows.append((before + after, [0.0] * len(before) + [1.0] * len(after)))
    return pad(rows)


def chat_prompt(question: str, boxed: bool = True) -> str:
    """A fresh conversation with one question, up to where the assistant begins."""
    content = question + (BOXED_INSTRUCTION if boxed else "")
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
