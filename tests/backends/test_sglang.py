"""SGLang: the contract, with a server that tells raw log-probabilities and one that does not."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from a1agent.backends import sglang
from a1agent.backends.base import Sampling, StepText
from a1agent.backends.replicas import Replica, Replicas
from a1agent.errors import ContextOverflow, ModelLoadError
from a1agent.structured import closed
from a1agent.types import Question
from tests.backends.contract import FREELY, GREEDY, STEP, BackendFactory, Capabilities, Contract, loaded
from tests.backends.remotes import Serve, factory
from tests.servers.sglang import Sglang


@pytest.fixture(scope="module")
def tempered(models: Path) -> Iterator[Sglang]:
    server = Sglang(models / "bpe.gguf")
    yield server
    server.close()


@pytest.fixture(scope="module")
def older(models: Path) -> Iterator[Sglang]:
    server = Sglang(models / "bpe.gguf", older=True)
    yield server
    server.close()


@pytest.fixture(scope="module")
def original(models: Path) -> Iterator[Sglang]:
    server = Sglang(models / "spm.gguf", original=True, incremental=True)
    yield server
    server.close()


class TestTempered(Contract):
    """As it is started by default: what was written is scored once more, texts are tokenized there."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, tempered: Sglang) -> BackendFactory:
        return factory(sglang.load, tempered)


class TestOlder(Contract):
    """A version that does not tokenize: it names its tokenizer."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, older: Sglang) -> BackendFactory:
        return factory(sglang.load, older)


class TestByInterval(Contract):
    """Several tokens at a time, with all before them."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, tempered: Sglang, models: Path) -> BackendFactory:
        return factory(sglang.load, tempered, tokenizer=str(models / "bpe.gguf"), stream_interval=3)


class TestOriginal(Contract):
    """With raw log-probabilities, streaming what is new by several tokens, and a tokenizer that is given."""

    capabilities = Capabilities(control="</s>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, original: Sglang, models: Path) -> BackendFactory:
        return factory(sglang.load, original, tokenizer=str(models / "spm.gguf"), stream_interval=4)


QUESTION = Question.of("the sum of 1 and 2")
SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


@pytest.mark.anyio
async def test_behind_a_router_the_length_is_asked_for(serve: Serve) -> None:
    """The router has no place to ask for ids, and lists models without their length."""
    server = await serve(Sglang, routed=True)
    with pytest.raises(ModelLoadError, match="how long") as caught:
        await asyncio.to_thread(factory(sglang.load, server), None)
    assert "context_length" in caught.value.hint
    async with loaded(factory(sglang.load, server, context_length=1000)) as backend:
        assert backend.info.context_length == 1000
        assert (await (await backend.open(QUESTION)).score(STEP)).logprobs


@pytest.mark.anyio
@pytest.mark.parametrize("older", [True, False])
async def test_texts_are_no_longer_than_the_cache_holds(serve: Serve, older: bool) -> None:
    """The list of models tells the model's length, however small the cache was made."""
    async with loaded(factory(sglang.load, await serve(Sglang, pool=150, older=older))) as backend:
        assert backend.info.context_length == 143
        sequence = await backend.open(QUESTION)
        whole = await sequence.generate(400, GREEDY, FREELY)
        assert whole.finish == "length"
        assert sequence.length <= 143
        with pytest.raises(ContextOverflow):
            await sequence.score(StepText(text=" and" * 400))


@pytest.mark.anyio
async def test_a_servers_own_settings_do_not_change_what_is_drawn(serve: Serve) -> None:
    """Those of `--preferred-sampling-params` apply to every field that a request leaves out, of a score too."""
    penalties = {"repetition_penalty": 1.1, "presence_penalty": 1.5, "frequency_penalty": 0.5, "min_new_tokens": 16}
    truncated = {"temperature": 0.3, "top_p": 0.8, "top_k": 20, "min_p": 0.1}
    server = await serve(Sglang, defaults={**penalties, **truncated})
    async with loaded(factory(sglang.load, server)) as backend:
        sequence = await backend.open(QUESTION)
        await sequence.generate(4, Sampling(temperature=0.7), FREELY)
        assert (await sequence.score(STEP)).logprobs
    freely = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_new_tokens": 0}
    whole = {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
    assert server.drawn_with[-1] == {**freely, **whole}


@pytest.mark.anyio
async def test_a_given_tokenizer_is_the_only_one_asked_about(serve: Serve, models: Path) -> None:
    server = await serve(Sglang)
    async with loaded(factory(sglang.load, server, tokenizer=str(models / "bpe.gguf"))):
        asked = {request.path for request in server.socket.log}
    assert not asked & {"/model_info", "/get_model_info", "/tokenize"}


@pytest.mark.anyio
async def test_a_chain_stays_with_its_engine(serve: Serve) -> None:
    server = await serve(Sglang)
    async with loaded(factory(sglang.load, server, data_parallel=3)) as backend:
        server.socket.log.clear()
        root = await backend.open(QUESTION)
        engines = []
        for sequence in [root.fork() for _ in range(6)]:
            await sequence.generate(4, GREEDY, FREELY)
            await sequence.score(STEP)
            asked = [r.body["routed_dp_rank"] for r in server.socket.log if r.path == "/generate"]
            assert asked[-1] == asked[-2]
            engines.append(asked[-1])
    assert sorted(engines) == [0, 0, 1, 1, 2, 2]


@pytest.mark.anyio
@pytest.mark.parametrize("older", [True, False])
async def test_a_text_that_is_too_long_is_an_overflow_in_a_stream_too(serve: Serve, older: bool) -> None:
    server = await serve(Sglang, older=older)
    async with loaded(factory(sglang.load, server)) as backend:
        sequence = await backend.open(QUESTION)
        server.model.context = sequence.length + 7  # it counts tokens of its own, as for speculation
        server.socket.log.clear()
        with pytest.raises(ContextOverflow, match="context length"):
            await sequence.generate(8, GREEDY, FREELY)
        with pytest.raises(ContextOverflow, match="maximum allowed length"):
            await sequence.score(STEP)
        assert sum(request.path == "/generate" for request in server.socket.log) == 2  # neither was tried again


@pytest.mark.anyio
async def test_a_full_queue_is_waited_for_and_is_no_fault_of_the_server(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(Sglang)
    blamed: list[Replica] = []
    monkeypatch.setattr(Replicas, "failed", lambda _self, replica: blamed.append(replica))
    async with loaded(factory(sglang.load, server)) as backend:
        sequence = await backend.open(QUESTION)
        server.full = 2
        assert (await sequence.generate(4, GREEDY, FREELY)).step.text
        assert not server.full
        server.full = 2
        assert (await sequence.score(STEP)).logprobs
        assert not server.full
    assert not blamed


@pytest.mark.anyio
async def test_of_a_schema_without_a_grammar_what_has_one_holds_the_model(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    code = {"type": "string", "pattern": "^[ab]{3}$", "maxLength": 9}
    schema = {"type": "object", "properties": {"maxLength": {"const": "a"}, "code": code}, "required": ["code"]}
    server = await serve(Sglang, refuses='"maxLength": 9')
    async with loaded(factory(sglang.load, server)) as backend:
        sequence = await backend.open(QUESTION)
        server.socket.log.clear()
        with caplog.at_level(logging.WARNING):
            for asked in (2, 3):  # the second time it is known what is refused
                start = sequence.mark()
                held = await sequence.generate(100, replace(GREEDY, schema=closed(schema)), FREELY)
                sequence.rewind(start)
                assert sum(bool(request.body.get("stream")) for request in server.socket.log) == asked
    said = json.loads(held.step.text)
    assert re.fullmatch("[ab]{3}", said["code"])
    assert said.get("maxLength", "a") == "a"
    assert "not held" not in caplog.text


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
        caplog.clear()
        sequence.rewind(start)
        assert (await sequence.generate(8, replace(GREEDY, schema=SCHEMA), FREELY)).step == free.step
        assert not caplog.text
        assert len([request for request in server.socket.log if request.body.get("stream")]) == 3
