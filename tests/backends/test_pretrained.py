"""A model that somebody else trained, in a GGUF file: both backends that read it agree, and A1 runs with it.

`make pretrained` fetches a small one and runs these; A1_TEST_GGUF names another file.
"""

import os

import pytest

from a1agent import A1
from a1agent.backends import llama_cpp
from a1agent.backends.base import StepText
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.backends.contract import loaded

hf = pytest.importorskip("a1agent.backends.transformers")
pytest.importorskip("transformers")

GGUF = os.environ.get("A1_TEST_GGUF", "")
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not GGUF, reason="no model of others: see make pretrained")]
QUESTION = ask_for_box(Question.of("What is 47 * 28 + 783?"))
TEXTS = (
    "47 * 28 = 1316.\n\nSo 1,316 + 783 = 2,099, and the answer is \\boxed{2099}.",
    "  indented\ttab, na\u00efve caf\u00e9 \u65e5\u672c\u8a9e \U0001f642\U0001f3fd don't I'LL, HTTPServer\r\n\r\n",
    "def f(x):\n    return x**2 - 1e-7  # \u00bd \u2167 \u0663 <|im_end|> </s>\n\n\n",
)


def in_llama_cpp(_: int | None) -> llama_cpp.LlamaCppBackend:
    return llama_cpp.load(GGUF, n_ctx=1024, flash_attn="off")


def in_transformers(_: int | None) -> hf.TransformersBackend:
    return hf.load(GGUF, n_ctx=1024)


async def test_both_backends_read_the_file_alike() -> None:
    async with loaded(in_llama_cpp) as one, loaded(in_transformers) as other:
        assert one.info.fingerprint == other.info.fingerprint
        assert one.info.tokenizer_fingerprint == other.info.tokenizer_fingerprint
        first, second = await one.open(QUESTION), await other.open(QUESTION)
        assert first.ids == second.ids
        for text in TEXTS:
            found, wanted = await first.score(StepText(text=text)), await second.score(StepText(text=text))
            assert found.ids == wanted.ids
            assert sum(found.logprobs) / len(found.ids) == pytest.approx(sum(wanted.logprobs) / len(found.ids), abs=0.1)


def test_a_chain_keeps_what_its_own_target_accepts() -> None:
    with A1(f"llama-cpp:{GGUF}?n_ctx=1024", "same", takeover="resample", chains=3, turns=3, step_tokens=40) as a1:
        result = a1.solve(QUESTION, rejection_rate=0.3, min_step_tokens=8)
    stats = result.stats
    assert stats.verifications >= 3
    assert stats.drafted_tokens == stats.kept_tokens + stats.discarded_tokens
    assert result.text
