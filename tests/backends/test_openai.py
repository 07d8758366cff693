"""Servers with OpenAI's API: the contract on llama.cpp's own server and on text-only ones of ours."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from a1agent import A1, embedded
from a1agent.backends import openai
from a1agent.backends.base import Sampling
from a1agent.errors import BackendError, InvalidQuestion
from a1agent.prompts import ask_for_box
from a1agent.types import Message, Question
from tests.backends.contract import FREELY, GREEDY, BackendFactory, Capabilities, Contract, loaded
from tests.backends.remotes import Serve, factory
from tests.backends.test_tokenizers import byte_level
from tests.servers.flavors import OpenAI
from tests.servers.llama_cpp_python import llama_cpp_python_server
from tests.servers.llama_server import llama_server
from tests.servers.process import RealServer
from tests.servers.sockets import Faults, Reply, Request
from tests.servers.transformers_serve import hub_cache, transformers_serve


@pytest.fixture(scope="module")
def bpe_server(models: Path) -> Iterator[RealServer]:
    with llama_server(models / "bpe.gguf") as server:
        yield server


@pytest.fixture(scope="module")
def spm_server(models: Path) -> Iterator[RealServer]:
    with llama_server(models / "spm.gguf") as server:
        yield server


class TestLlamaServer(Contract):
    """Everything asked of the server."""

    capabilities = Capabilities(counts=False, score=False, logprobs=False, constrain=True, control="<|im_end|>")

    @pytest.fixture
    def backend_factory(self, bpe_server: RealServer) -> BackendFactory:
        return factory(openai.load, bpe_server)


class TestLlamaServerWithItsTokenizer(Contract):
    """SentencePiece, and the vocabulary at hand."""

    capabilities = Capabilities(counts=False, score=False, logprobs=False, constrain=True, control="</s>")

    @pytest.fixture
    def backend_factory(self, spm_server: RealServer, models: Path) -> BackendFactory:
        return factory(openai.load, spm_server, tokenizer=str(models / "spm.gguf"))


QUESTION = Question.of("1 + 2")
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

    capabilities = replace(TEXT, constrain=True)

    @pytest.fixture
    def backend_factory(self, chat_server: OpenAI) -> BackendFactory:
        return factory(openai.load, chat_server)


class TestCompletions(Contract):
    """Raw completions, the prompt made by a local tokenizer; a server that refuses unknown fields."""

    capabilities = TEXT

    @pytest.fixture
    def backend_factory(self, plain_server: OpenAI, models: Path) -> BackendFactory:
        return factory(openai.load, plain_server, tokenizer=str(models / "spm.gguf"))


# What a server is recognized as, and how a message is continued


@pytest.fixture(params=["final_message", "trailing", "prefix", None])
def continuing(request: pytest.FixtureRequest, models: Path) -> Iterator[OpenAI]:
    server = OpenAI(models / "bpe.gguf", continues=request.param)
    yield server
    server.close()


@pytest.mark.anyio
async def test_a_message_is_continued_as_the_server_does_it(continuing: OpenAI, models: Path) -> None:
    """The next call's prompt is that of the first and what was written, whichever way it was asked for."""
    way = {"prefix": {"api": "chat", "continuation": "prefix"}}.get(continuing.continues or "", {})
    tokenizer = {} if continuing.continues else {"tokenizer": str(models / "bpe.gguf")}
    started = Question(messages=(Message(role="user", content="1 + 2"), Message(role="assistant", content="The sum")))
    async with loaded(factory(openai.load, continuing, **way, **tokenizer)) as backend:
        for question in (Question.of("1 + 2"), started):
            sequence = await backend.open(question)
            continuing.prompts.clear()
            first = await sequence.generate(6, Sampling(seed=1), FREELY)
            await sequence.generate(6, Sampling(seed=2), FREELY)
            assert continuing.prompts == [continuing.prompts[0], continuing.prompts[0] + first.step.text]
            assert continuing.prompts[0].endswith("assistant\nThe sum" if question is started else "assistant\n")


SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


@pytest.fixture
def strict_server(models: Path) -> Iterator[OpenAI]:
    server = OpenAI(models / "bpe.gguf", continues="final_message", strict=True)
    server.known = server.known | {"continue_final_message", "add_generation_prompt"}
    yield server
    server.close()


@pytest.mark.anyio
async def test_a_server_that_takes_no_schema_writes_freely(
    strict_server: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals that have nothing to do with it stay errors."""
    async with loaded(factory(openai.load, strict_server)) as backend:
        sequence = await backend.open(Question.of("1 + 2"))
        start = sequence.mark()
        free = await sequence.generate(12, GREEDY, FREELY)
        sequence.rewind(start)
        asked = await sequence.generate(12, replace(GREEDY, schema=SCHEMA), FREELY)
        assert asked.step.text == free.step.text
        assert "not held to a JSON schema" in caplog.text
        strict_server.known = frozenset()
        with pytest.raises(BackendError, match="Unexpected keys"):
            await sequence.generate(12, GREEDY, FREELY)


@pytest.mark.anyio
async def test_a_chat_is_held_to_a_format_only_where_the_answer_is_stated(chat_server: OpenAI) -> None:
    """A chain must be able to think before it answers in JSON."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    question = replace(Question.of("1 + 2"), response_format=form)
    async with loaded(factory(openai.load, chat_server)) as backend:
        sequence = await backend.open(question)
        start = sequence.mark()
        thought = await sequence.generate(12, GREEDY, FREELY)
        sequence.rewind(start)
        stated = await sequence.generate(40, replace(GREEDY, schema=SCHEMA | {"additionalProperties": False}), FREELY)
    assert not thought.step.text.lstrip().startswith("{")
    assert set(json.loads(stated.step.text)) == {"sure"}


@pytest.mark.anyio
async def test_a_server_that_answers_every_path_is_not_taken_for_another(serve: Serve, models: Path) -> None:
    server = await serve(OpenAI, studio=True)
    async with loaded(factory(openai.load, server, tokenizer=str(models / "bpe.gguf"))) as backend:
        await (await backend.open(QUESTION)).generate(4, GREEDY, FREELY)
    assert server.socket.log[-1].path == "/v1/completions"


@pytest.mark.anyio
async def test_a_server_that_loads_its_model_is_recognized_afterwards(serve: Serve) -> None:
    """llama-server lists its model meanwhile, and answers all else with 503."""
    server = await serve(OpenAI)
    server.socket.faults = Faults(plan=["503"] * 2, paths=("/props",))
    async with loaded(factory(openai.load, server)):
        assert server.socket.faults.struck == ["503"] * 2
    server.socket.faults = Faults(plan=["503"] * 10000, paths=("/props",))
    with pytest.raises(BackendError, match="not ready"):
        await asyncio.to_thread(openai.load, server.url, retry_wait_s=0.01, patience_s=0.2)


@pytest.mark.anyio
async def test_fields_that_a_server_refuses_are_done_without(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(OpenAI, continues="prefix", strict=True)
    server.known = server.known - {"seed", "stream_options"}
    way = {"api": "chat", "continuation": "prefix"}
    async with loaded(factory(openai.load, server, **way)) as backend:
        sequence = await backend.open(QUESTION)
        for _ in range(2):
            assert (await sequence.generate(4, GREEDY, FREELY)).step.text
        assert len([request for request in server.socket.log if request.path == "/v1/chat/completions"]) == 3
        assert "seed, stream_options" in caplog.text
        server.known = server.known - {"top_k"}
        with pytest.raises(BackendError, match="top_k"):  # without it another distribution would be drawn from
            await sequence.generate(4, Sampling(top_k=5), FREELY)


@pytest.mark.anyio
@pytest.mark.parametrize("apart", ["reasoning", "reasoning_content", "tool_calls"])
async def test_what_a_server_takes_out_of_the_text_is_not_lost_unsaid(serve: Serve, apart: str) -> None:
    async with loaded(factory(openai.load, await serve(OpenAI, continues="trailing", apart=apart))) as backend:
        sequence = await backend.open(QUESTION)
        length = sequence.length
        with pytest.raises(BackendError, match="tool call" if apart == "tool_calls" else "thoughts") as caught:
            await sequence.generate(6, GREEDY, FREELY)
        assert "parser" in caught.value.hint and "?api=completions&tokenizer=" in caught.value.hint
        assert sequence.length == length


@pytest.mark.anyio
@pytest.mark.parametrize("continues", ["trailing", None], ids=["chat", "completions"])
async def test_tools_without_the_template_of_the_model_ask_for_its_tokenizer(
    serve: Serve, continues: str | None
) -> None:
    function = {"name": "add", "parameters": {"type": "object", "properties": {}}}
    question = replace(Question.of("1 + 2"), tools=({"type": "function", "function": function},))
    async with loaded(factory(openai.load, await serve(OpenAI, continues=continues))) as backend:
        with pytest.raises(InvalidQuestion) as caught:
            await backend.open(question)
        assert "'tiny'" in caught.value.what and "?tokenizer=PATH" in caught.value.hint


@pytest.mark.anyio
@pytest.mark.parametrize(("continues", "told"), [("trailing", False), (None, True)], ids=["chat", "completions"])
async def test_a_prompt_without_the_template_of_its_model_is_told_of(
    serve: Serve, caplog: pytest.LogCaptureFixture, continues: str | None, told: bool
) -> None:
    async with loaded(factory(openai.load, await serve(OpenAI, continues=continues))):
        assert ("?tokenizer=" in caplog.text) == told
        assert bool(caplog.text) == told


@pytest.mark.anyio
async def test_a_stream_that_is_given_up_is_no_end_of_a_turn(serve: Serve) -> None:
    server = await serve(OpenAI, continues="final_message")
    async with loaded(factory(openai.load, server)) as backend:
        root = await backend.open(QUESTION)
        expected = await root.fork().generate(6, GREEDY, FREELY)
        server.aborts = 1
        assert (await root.fork().generate(6, GREEDY, FREELY)).step.text == expected.step.text


@pytest.fixture
def python_server(models: Path) -> Iterator[RealServer]:
    with llama_cpp_python_server(models / "bpe.gguf") as server:
        yield server


@pytest.mark.anyio
async def test_llama_cpp_pythons_own_server_continues_raw_texts(python_server: RealServer, models: Path) -> None:
    async with loaded(factory(openai.load, python_server, tokenizer=str(models / "bpe.gguf"))) as backend:
        sequence = await backend.open(Question.of("the sum of 1 and 2"))
        start = sequence.mark()
        parts = [await sequence.generate(5, GREEDY, FREELY) for _ in range(2)]
        sequence.rewind(start)
        whole = await sequence.generate(10, GREEDY, FREELY)
        assert parts[0].step.text + parts[1].step.text == whole.step.text


@pytest.mark.anyio
async def test_llama_cpp_pythons_own_server_is_asked_for_one_text_at_a_time(
    python_server: RealServer, models: Path
) -> None:
    """It breaks a stream off when another is asked for."""
    load = factory(openai.load, python_server, tokenizer=str(models / "bpe.gguf"), retries=0)
    async with loaded(load) as backend:
        root = await backend.open(Question.of("the sum of 1 and 2"))
        alone = await root.fork().generate(40, GREEDY, FREELY)
        together = await asyncio.gather(*(root.fork().generate(40, GREEDY, FREELY) for _ in range(4)))
        assert [each.step.text for each in together] == [alone.step.text] * 4


@pytest.mark.anyio
async def test_a_server_is_known_for_llama_cpp_pythons_by_what_it_says_of_its_api(serve: Serve) -> None:
    server = await serve(OpenAI)

    async def described(request: Request) -> Reply:
        return Reply({"openapi": "3.1.0", "info": {"title": "🦙 llama.cpp Python API", "version": "0.3.36"}})

    async with loaded(factory(openai.load, server)) as backend:
        assert backend.info.at_once == 64
    server.socket.handlers["/openapi.json"] = described
    async with loaded(factory(openai.load, server)) as backend:
        assert backend.info.at_once == 1


@pytest.fixture
def tgi(models: Path) -> Iterator[OpenAI]:
    server = OpenAI(models / "bpe.gguf", tgi=True, context=512)
    yield server
    server.close()


@pytest.mark.anyio
async def test_tgi_continues_raw_texts_and_is_not_sent_what_it_refuses(tgi: OpenAI, models: Path) -> None:
    async with loaded(factory(openai.load, tgi, tokenizer=str(models / "bpe.gguf"))) as backend:
        assert backend.info.context_length == 512
        sequence = await backend.open(Question.of("the sum of 1 and 2"))
        start = sequence.mark()
        parts = [await sequence.generate(5, GREEDY, FREELY) for _ in range(2)]
        sequence.rewind(start)
        whole = await sequence.generate(10, GREEDY, FREELY)
        assert parts[0].step.text + parts[1].step.text == whole.step.text
        await sequence.generate(4, Sampling(top_p=0.5), FREELY)
    sent = [request.body.get("top_p") for request in tgi.socket.log if "prompt" in request.body]
    assert sent == [None] * 3 + [0.5]


@pytest.fixture
def transformers_server(tmp_path: Path) -> Iterator[RealServer]:
    (tmp_path / "tokenizer").mkdir()
    with transformers_serve(hub_cache(tmp_path / "hub", byte_level(tmp_path / "tokenizer"))) as server:
        yield server


@pytest.mark.slow
@pytest.mark.anyio
async def test_transformers_serve_continues_raw_texts(transformers_server: RealServer, tmp_path: Path) -> None:
    tokenizer = str(tmp_path / "tokenizer")
    async with loaded(factory(openai.load, transformers_server, tokenizer=tokenizer)) as backend:
        sequence = await backend.open(Question.of("the sum of 1 and 2"))
        start = sequence.mark()
        for _ in range(2):
            generated = await sequence.generate(12, Sampling(seed=1), FREELY)
            assert generated.step.text
            assert generated.finish in ("length", "end")
        sequence.rewind(start)
        assert sequence.length == start.length


def test_a_draft_on_llama_server_works_with_a_target_in_process() -> None:
    with llama_server(embedded.path("draft"), slots=8) as server:
        pair = (f"openai:{server.url}#{server.name}", "embedded:target")
        with A1(*pair, calibration=None, seed=1, min_step_tokens=0, step_tokens=64) as a1:
            result = a1.solve(ask_for_box(Question.of("What is 47 * 28 + 783?")))
    assert result.answer == "2099"
    assert result.stats.verifications > 0
    assert result.stats.chains_failed == 0
