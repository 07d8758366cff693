"""SGLang: the contract, with a server that tells raw log-probabilities and one that does not."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from a1agent.backends import sglang
from a1agent.errors import ContextOverflow
from a1agent.types import Question
from tests.backends.contract import FREELY, GREEDY, STEP, BackendFactory, Capabilities, Contract, loaded
from tests.backends.remotes import Serve, factory
from tests.servers.flavors import Sglang


@pytest.fixture(scope="module")
def tempered(models: Path) -> Iterator[Sglang]:
    server = Sglang(models / "bpe.gguf")
    yield server
    server.close()


@pytest.fixture(scope="module")
def original(models: Path) -> Iterator[Sglang]:
    server = Sglang(models / "spm.gguf", original=True, incremental=True)
    yield server
    server.close()


class TestTempered(Contract):
    """As it is started by default: what was written is scored once more; it names its tokenizer."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, tempered: Sglang) -> BackendFactory:
        return factory(sglang.load, tempered)


class TestOriginal(Contract):
    """With raw log-probabilities, streaming only what is new, and a tokenizer that is given."""

    capabilities = Capabilities(control="</s>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, original: Sglang, models: Path) -> BackendFactory:
        return factory(sglang.load, original, tokenizer=str(models / "spm.gguf"))


QUESTION = Question.of("the sum of 1 and 2")
SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


@pytest.mark.anyio
@pytest.mark.parametrize("older", [True, False])
async def test_behind_a_router_a_model_is_found_whole(serve: Serve, older: bool) -> None:
    """The router has no place to ask for ids, and lists models without their length."""
    async with loaded(factory(sglang.load, await serve(Sglang, routed=True, older=older))) as backend:
        assert backend.info.context_length == 1018
        assert (await (await backend.open(QUESTION)).score(STEP)).logprobs


@pytest.mark.anyio
@pytest.mark.parametrize("older", [True, False])
async def test_a_text_that_is_too_long_is_an_overflow_in_a_stream_too(serve: Serve, older: bool) -> None:
    server = await serve(Sglang, older=older)
    async with loaded(factory(sglang.load, server)) as backend:
        sequence = await backend.open(QUESTION)
        server.model.context = sequence.length + 2  # it counts tokens of its own, as for speculation
        server.socket.log.clear()
        with pytest.raises(ContextOverflow, match="context length"):
            await sequence.generate(8, GREEDY, FREELY)
        with pytest.raises(ContextOverflow, match="longer than"):
            await sequence.score(STEP)
        assert len(server.socket.log) == 2  # neither was tried again


@pytest.mark.anyio
async def test_a_schema_without_a_grammar_leaves_the_model_free(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(Sglang, grammars=False)
    async with loaded(factory(sglang.load, server)) as backend:
        sequence = await backend.open(QUESTION)
        start = sequence.mark()
        free = await sequence.generate(8, GREEDY, FREELY)
        sequence.rewind(start)
        server.socket.log.clear()
        with caplog.at_level(logging.WARNING):
            asked = await sequence.generate(8, replace(GREEDY, schema=SCHEMA), FREELY)
        assert asked.step == free.step
        assert "not held to a JSON schema" in caplog.text
        assert len([request for request in server.socket.log if request.body.get("stream")]) == 2
