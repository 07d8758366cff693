"""Servers with OpenAI's API: the contract on llama.cpp's own server and on text-only ones of ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from a1agent.backends import openai
from tests.backends.contract import BackendFactory, Capabilities, Contract
from tests.backends.remotes import factory
from tests.servers.flavors import OpenAI
from tests.servers.llama_server import LlamaServer, llama_server


@pytest.fixture(scope="module")
def bpe_server(models: Path) -> Iterator[LlamaServer]:
    with llama_server(models / "bpe.gguf") as server:
        yield server


@pytest.fixture(scope="module")
def spm_server(models: Path) -> Iterator[LlamaServer]:
    with llama_server(models / "spm.gguf") as server:
        yield server


class TestLlamaServer(Contract):
    """Everything asked of the server."""

    capabilities = Capabilities(counts=False, score=False, logprobs=False, control="<|im_end|>")

    @pytest.fixture
    def backend_factory(self, bpe_server: LlamaServer) -> BackendFactory:
        return factory(openai.load, bpe_server)


class TestLlamaServerWithItsTokenizer(Contract):
    """SentencePiece, and the vocabulary at hand."""

    capabilities = Capabilities(counts=False, score=False, logprobs=False, control="</s>")

    @pytest.fixture
    def backend_factory(self, spm_server: LlamaServer, models: Path) -> BackendFactory:
        return factory(openai.load, spm_server, tokenizer=str(models / "spm.gguf"))


TEXT = Capabilities(counts=False, score=False, logprobs=False)


@pytest.fixture(scope="module")
def chat_server(models: Path) -> Iterator[OpenAI]:
    server = OpenAI(models / "bpe.gguf", continues="final_message")
    yield server
    server.close()


@pytest.fixture(scope="module")
def plain_server(models: Path) -> Iterator[OpenAI]:
    server = OpenAI(models / "spm.gguf", strict=True, done=False)
    yield server
    server.close()


class TestChat(Contract):
    """Messages in, the last of them continued."""

    capabilities = TEXT

    @pytest.fixture
    def backend_factory(self, chat_server: OpenAI) -> BackendFactory:
        return factory(openai.load, chat_server)


class TestCompletions(Contract):
    """Raw completions, the prompt made by a local tokenizer; a server that refuses unknown fields."""

    capabilities = TEXT

    @pytest.fixture
    def backend_factory(self, plain_server: OpenAI, models: Path) -> BackendFactory:
        return factory(openai.load, plain_server, tokenizer=str(models / "spm.gguf"))
