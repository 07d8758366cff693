"""Prompts that end inside a thought, as each backend renders them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from a1agent import A1
from a1agent.backends import llama_cpp, openai, sglang, vllm
from a1agent.backends.base import Backend
from a1agent.types import Question
from tests.backends import tiny
from tests.backends.contract import loaded
from tests.backends.remotes import factory
from tests.servers.flavors import Flavor, OpenAI
from tests.servers.llama_server import llama_server
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm

pytest.importorskip("llama_cpp")
OPENS = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
CLOSES = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>\n\n</think>\n\n{%")
BARE = tiny.CHATML.replace("assistant\n{%", "assistant\n<think>{%")
QUESTION = Question.of("what does this mean: <think>\n")

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a GGUF model with a chat template."""
    return lambda template: tiny.write_random(tmp_path / "model.gguf", tiny.bpe_words(template))


def one_token() -> tiny.Words:
    """A vocabulary in which `<think>` is a token of its own, as in most models that think."""
    words = tiny.bpe_words(OPENS)
    return replace(words, tokens=[*words.tokens, "<think>"], types=[*words.types, tiny.CONTROL])


async def thinks(backend: Backend) -> bool:
    sequence = await backend.open(QUESTION)
    assert sequence.fork().thinking is sequence.thinking
    return sequence.thinking


@asynccontextmanager
async def served(kind: type[Flavor], path: Path, **options: object) -> AsyncIterator[Flavor]:
    server = await asyncio.to_thread(kind, path, **options)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)


KINDS = [(Vllm, vllm.load), (Sglang, sglang.load)]
TEMPLATES = pytest.mark.parametrize(
    ("template", "expected"), [(OPENS, True), (BARE, True), (CLOSES, False), (tiny.CHATML, False)]
)


@pytest.mark.anyio
@TEMPLATES
async def test_llama_cpp(write: Write, template: str, expected: bool) -> None:
    path = write(template)
    async with loaded(lambda _: llama_cpp.load(str(path), n_ctx=256, n_threads=1)) as backend:
        assert await thinks(backend) is expected


@pytest.mark.anyio
@TEMPLATES
async def test_transformers(tmp_path: Path, template: str, expected: bool) -> None:
    tiny_hf = pytest.importorskip("tests.backends.tiny_hf")
    from a1agent.backends import transformers

    path = tiny_hf.write(tmp_path / "model", "llama", tiny_hf.bpe(), tiny.bpe_words(template))
    async with loaded(lambda _: transformers.load(str(path), n_ctx=256, n_threads=1)) as backend:
        assert await thinks(backend) is expected


@pytest.mark.anyio
@TEMPLATES
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(("kind", "load"), KINDS)
async def test_servers_that_take_ids(
    write: Write, kind: type[Flavor], load: Callable[..., Backend], local: bool, template: str, expected: bool
) -> None:
    path = write(template)
    options = {"tokenizer": str(path)} if local else {}
    async with served(kind, path) as server, loaded(factory(load, server, **options)) as backend:
        assert await thinks(backend) is expected


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "load"), KINDS)
async def test_a_control_token_opens_a_thought_too(
    tmp_path: Path, kind: type[Flavor], load: Callable[..., Backend]
) -> None:
    path = tiny.write_random(tmp_path / "model.gguf", one_token())
    async with served(kind, path) as server, loaded(factory(load, server)) as backend:
        assert await thinks(backend)


@pytest.mark.anyio
@pytest.mark.parametrize("make", [lambda: tiny.bpe_words(OPENS), one_token, tiny.bpe_words])
async def test_llama_server(tmp_path: Path, make: Callable[[], tiny.Words]) -> None:
    words = make()
    path = tiny.write_random(tmp_path / "model.gguf", words)
    with llama_server(path) as server:
        async with loaded(factory(openai.load, server)) as backend:
            assert await thinks(backend) is (words.template == OPENS)


@pytest.mark.anyio
async def test_a_text_that_is_rendered_here_may_end_in_a_thought_one_that_a_server_renders_does_not(
    write: Write,
) -> None:
    """Each call of a chat renders its messages anew: what the template opens for the first, it does not for others."""
    path = write(OPENS)
    async with served(OpenAI, path, continues="final_message") as server:
        for api, expected in (("completions", True), ("chat", False)):
            async with loaded(factory(openai.load, server, api=api, tokenizer=str(path))) as backend:
                assert await thinks(backend) is expected


def test_a_pair_of_which_one_opens_a_thought_reads_the_text_as_one(write: Write, tmp_path: Path) -> None:
    opens = f"llama-cpp:{write(OPENS)}?n_threads=1"
    plain = f"llama-cpp:{tiny.write_random(tmp_path / 'plain.gguf', tiny.bpe_words(), seed=1)}?n_threads=1"
    options = {"seed": 1, "chains": 2, "turns": 2, "step_tokens": 16, "min_step_tokens": 0, "early_stop": "off"}
    for draft, target in ((opens, opens), (opens, plain), (plain, opens)):
        with A1(draft, target, calibration=None, **options) as a1:
            result = a1.solve("1 + 2? \\boxed{} it.")
        assert all(chain.text.startswith("<think>\n") and "</think>\n\n" in chain.text for chain in result.chains)
        assert result.text.startswith("The final answer is \\boxed{")
        assert "<think>" not in json.dumps([result.text, result.reasoning])
