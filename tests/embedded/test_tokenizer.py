"""The pair's tokenizer: one vocabulary, equal ids in llama.cpp and in `tokenizers`, blank lines that end tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from a1agent import embedded
from a1agent.embedded.problems import problems

gguf = pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")
tokenizers = pytest.importorskip("tokenizers")

ODD_TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\n\n",
        "\n\n\n",
        " \n\n ",
        "a\n\nb",
        "x.\n\nY",
        "1\n\n2",
        "}\n\nThe",
        "\t\ttabs",
        "  two  spaces  ",
    ),
    *("naïve café", "\u4f60\u597d\uff0c\u4e16\u754c", "emoji \U0001f600\U0001f469\u200d\U0001f52c end", "e\u0301 mark"),
    *("\u0663\u0664 digits", "\u00bd\u00b2", "it's we'll I'M DON'T", "\\boxed{42}", "$x^2$", "a_b-c+d", "\u00a0space"),
    *("\u2028line", "\r\n\r\nwindows\r\n", "0123456789", "<|im_end|>", "<|im_start|>user", "<|endoftext|>", "\x01\x02"),
    *("\ufeffmark", "\uff46\uff55\uff4c\uff4c width", "\u0645\u0631\u062d\u0628\u0627"),
)


def texts() -> list[str]:
    """Questions and solutions, odd strings, and random strings of all of these."""
    rng = random.Random(5)
    plain = [part for p in problems(100, 2) for part in (p.question, p.solution)]
    alphabet = [*ODD_TEXTS, "\n", " ", ".", "\\", "{", "}", "é", "\U0001f600", "7", "word", "'s"]
    mixed = ["".join(rng.choices(alphabet, k=rng.randint(1, 8))) for _ in range(200)]
    return [*plain, *ODD_TEXTS, *mixed]


def rebuilt(name: Any) -> Any:
    """A `tokenizers` tokenizer from the vocabulary and merges in a GGUF file alone."""
    fields = gguf.GGUFReader(embedded.path(name)).fields
    tokens = [bytes(fields["tokenizer.ggml.tokens"].parts[i]).decode() for i in fields["tokenizer.ggml.tokens"].data]
    merges = [bytes(fields["tokenizer.ggml.merges"].parts[i]).decode() for i in fields["tokenizer.ggml.merges"].data]
    model = tokenizers.models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[tuple(merge.split(" ")) for merge in merges]
    )
    return tokenizers.Tokenizer(model)


@pytest.fixture(scope="module")
def vocabulary() -> Any:
    return llama_cpp.Llama(str(embedded.path("target")), vocab_only=True, verbose=False)


def test_llama_cpp_and_tokenizers_give_equal_ids(vocabulary: Any, example: Callable[[str], ModuleType]) -> None:
    tokenizer = rebuilt("target")
    tokenizer.pre_tokenizer = example("data").pre_tokenizer()
    for text in texts():
        assert vocabulary.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text).ids, repr(
            text
        )


def test_both_models_have_the_same_tokenizer() -> None:
    readers = [gguf.GGUFReader(embedded.path(name)) for name in ("draft", "target")]
    for key in ("tokens", "merges", "token_type", "pre", "model", "eos_token_id"):
        first, second = (reader.fields[f"tokenizer.ggml.{key}"].contents() for reader in readers)
        assert first == second


def test_text_survives_a_round_trip(vocabulary: Any) -> None:
    for text in texts():
        ids = vocabulary.tokenize(text.encode(), add_bos=False, special=False)
        assert vocabulary.detokenize(ids, special=True) == text.encode(), repr(text)


def test_a_blank_line_is_one_token_and_always_ends_one(vocabulary: Any) -> None:
    assert len(vocabulary.tokenize(b"\n\n", add_bos=False, special=False)) == 1
    for problem in problems(200, 9):
        whole = vocabulary.tokenize(problem.solution.encode(), add_bos=False, special=False)
        steps = [step + "\n\n" for step in problem.steps[:-1]] + [problem.steps[-1]]
        apart = [i for step in steps for i in vocabulary.tokenize(step.encode(), add_bos=False, special=False)]
        assert apart == whole


def test_control_tokens_are_parsed_only_on_request(vocabulary: Any) -> None:
    assert vocabulary.tokenize(b"<|im_end|>", add_bos=False, special=True) == [vocabulary.token_eos()]
    assert len(vocabulary.tokenize(b"<|im_end|>", add_bos=False, special=False)) > 1


def test_the_vocabulary_has_512_tokens_and_splits_digits(vocabulary: Any) -> None:
    assert vocabulary.n_vocab() == 512
    assert len(vocabulary.tokenize(b"1234", add_bos=False, special=False)) == 4
