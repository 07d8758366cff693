"""The shipped files: there, small, licensed, loadable, and right on the README's question."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal

import pytest

from a1agent import embedded
from a1agent.embedded.problems import problems

NAMES: tuple[Literal["draft", "target"], ...] = ("draft", "target")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_a_gguf_file(name: Literal["draft", "target"]) -> None:
    assert embedded.path(name).read_bytes()[:4] == b"GGUF"


def test_the_pair_is_small_and_documented() -> None:
    assert sum(embedded.path(name).stat().st_size for name in NAMES) < 25e6
    folder = embedded.path("draft").parent
    for document in ("MODEL_CARD.md", "LICENSE"):
        assert (folder / document).stat().st_size > 500


def test_importing_the_generator_loads_no_model_library() -> None:
    code = (
        "import sys, a1agent.embedded.problems as p; list(p.problems(5, 0));"
        "sys.exit(any(m in sys.modules for m in ('torch', 'llama_cpp', 'gguf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prompt_likelihoods_are_sorted_and_plausible() -> None:
    known = embedded.prompt_nlls()
    assert len(known) == 500
    assert list(known) == sorted(known)
    assert 0 < known[0] < known[-1] < 6


def test_the_file_says_what_it_is() -> None:
    gguf = pytest.importorskip("gguf")
    for name in NAMES:
        fields = gguf.GGUFReader(embedded.path(name)).fields
        said = {key: fields[key].contents() for key in fields if key.startswith(("general.", "tokenizer.", "llama."))}
        assert said["general.architecture"] == "llama"
        assert said["general.license"] == "apache-2.0"
        assert said["llama.context_length"] >= 1024
        assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
        assert said["tokenizer.ggml.add_bos_token"] is False
        assert "<|im_start|>" in said["tokenizer.chat_template"]
        assert len(fields["a1agent.fingerprint"].contents()) == 64


def test_the_target_has_eight_times_the_weights_of_the_draft() -> None:
    gguf = pytest.importorskip("gguf")
    draft, target = (
        sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(embedded.path(name)).tensors) for name in NAMES
    )
    assert target >= 8 * draft


@pytest.fixture(scope="module")
def target() -> Any:
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(
        str(embedded.path("target")), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )


def test_the_target_answers_the_readme_question(target: Any) -> None:
    content = "What is 47 * 28 + 783?\n\nThink step by step and put the final answer in \\boxed{}."
    reply = target.create_chat_completion([{"role": "user", "content": content}], temperature=0.0, max_tokens=300)
    assert "\\boxed{2099}" in reply["choices"][0]["message"]["content"]
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_a_strange_question_is_less_likely_than_every_training_prompt(target: Any, example: Any) -> None:
    prompts = example("prompts")
    strange = "Who wrote the novel about the white whale, and in which year was it printed?"
    assert prompts.content_nll(target, strange) > embedded.prompt_nlls()[-1]
    known = next(problems(1, 3)).question
    assert prompts.content_nll(target, known) < embedded.prompt_nlls()[-1] + 0.5
