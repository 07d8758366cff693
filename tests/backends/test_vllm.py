"""vLLM: the contract over both ways of scoring, through the server's tokenizer and a local one."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from a1agent import CannotScore, InvalidOption, ModelLoadError
from a1agent.backends import vllm
from a1agent.backends.base import Sampling
from a1agent.types import Question
from tests.backends.contract import FREELY, GREEDY, STEP, BackendFactory, Capabilities, Contract, loaded
from tests.backends.remotes import Serve, factory
from tests.servers.vllm import Vllm


@pytest.fixture(scope="module")
def old(models: Path) -> Iterator[Vllm]:
    server = Vllm(models / "bpe.gguf")
    yield server
    server.close()


@pytest.fixture(scope="module")
def new(models: Path) -> Iterator[Vllm]:
    server = Vllm(models / "spm.gguf", step_scoring=True, old_ids=True, version="0.9.2")
    yield server
    server.close()


@pytest.fixture(scope="module")
def newest(models: Path) -> Iterator[Vllm]:
    server = Vllm(models / "bpe.gguf", step_scoring=True, version="0.32.0")
    yield server
    server.close()


class TestOldScoring(Contract):
    """`prompt_logprobs`, and everything asked of the server."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, old: Vllm) -> BackendFactory:
        return factory(vllm.load, old)


class TestStepScoring(Contract):
    """The newer endpoint, and a local tokenizer of the SentencePiece kind."""

    capabilities = Capabilities(control="</s>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, new: Vllm, models: Path) -> BackendFactory:
        return factory(vllm.load, new, tokenizer=str(models / "spm.gguf"))


class TestByInterval(Contract):
    """Several tokens at a time."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, models: Path, newest: Vllm) -> BackendFactory:
        return factory(vllm.load, newest, tokenizer=str(models / "bpe.gguf"), stream_interval=3)


@pytest.fixture(params=[("0.11.1", True), ("v0.12.0rc1", False), ("1.0", False), ("dev", False)])
def of_a_version(request: pytest.FixtureRequest, models: Path) -> Iterator[tuple[Vllm, bool]]:
    version, by_name = request.param
    server = Vllm(models / "bpe.gguf", version=version)
    yield server, by_name
    server.close()


@pytest.mark.anyio
async def test_versions_that_no_longer_know_a_field_are_not_sent_it(of_a_version: tuple[Vllm, bool]) -> None:
    server, by_name = of_a_version
    async with loaded(factory(vllm.load, server)) as backend:
        assert backend.engine.wire.guides_by_name is by_name  # type: ignore[attr-defined]


QUESTION = Question.of("the sum of 1 and 2")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("version", "exact", "most"), [("0.32.0", True, 8), ("0.32.0", False, 1), ("0.26.0", True, 1)], ids=str
)
async def test_the_more_chains_write_at_once_the_more_tokens_come_at_a_time(
    serve: Serve, models: Path, version: str, exact: bool, most: int
) -> None:
    """As far as the server can be asked for it, and where tokens are known by more than the text they come with."""
    server = await serve(Vllm, version=version)
    options = {"tokenizer": str(models / "bpe.gguf")} if exact else {}
    async with loaded(factory(vllm.load, server, max_connections=128, **options)) as backend:
        root = await backend.open(QUESTION)
        server.intervals.clear()
        chains = [root.fork() for _ in range(96)]
        server.waits_for = len(chains)
        await asyncio.gather(*(chain.generate(12, Sampling(seed=i), FREELY) for i, chain in enumerate(chains)))
        assert sorted(set(server.intervals)) == list(range(1, most + 1))
        server.waits_for = 0
        await chains[0].generate(4, GREEDY, FREELY)
        assert server.intervals[-1] == 1


def test_an_interval_needs_a_tokenizer() -> None:
    with pytest.raises(InvalidOption, match="tokenizer") as caught:
        vllm.load("http://127.0.0.1:9#m", stream_interval=4)
    assert "tokenizer=" in caught.value.hint


@pytest.mark.anyio
async def test_behind_a_router_the_tokenizer_tells_how_long_texts_may_be(serve: Serve) -> None:
    async with loaded(factory(vllm.load, await serve(Vllm, routed=True))) as backend:
        assert backend.info.context_length == 1024
        assert (await (await backend.open(QUESTION)).generate(4, GREEDY, FREELY)).step.text


@pytest.mark.anyio
async def test_behind_a_router_that_passes_little_on_a_tokenizer_is_needed_and_checked(
    serve: Serve, models: Path
) -> None:
    server = await serve(Vllm, bare=True)
    with pytest.raises(InvalidOption, match="does not tokenize") as caught:
        await asyncio.to_thread(factory(vllm.load, server), None)
    assert "tokenizer=" in caught.value.hint
    with pytest.raises(ModelLoadError, match="probe"):
        await asyncio.to_thread(factory(vllm.load, server, tokenizer=str(models / "spm.gguf")), None)
    async with loaded(factory(vllm.load, server, tokenizer=str(models / "bpe.gguf"))) as backend:
        assert (await (await backend.open(QUESTION)).score(STEP)).logprobs


def test_a_length_that_nobody_tells_is_asked_for(serve: Serve) -> None:
    server = asyncio.run(serve(Vllm, routed=True))
    server.model.context = 0
    with pytest.raises(ModelLoadError, match="how long") as caught:
        factory(vllm.load, server)(None)
    assert "context_length" in caught.value.hint


@pytest.mark.anyio
async def test_a_models_own_settings_do_not_change_what_is_drawn(serve: Serve) -> None:
    """A penalty or a truncation from generation_config.json applies to every field that a request leaves out."""
    penalties = {"repetition_penalty": 1.1, "presence_penalty": 1.5, "frequency_penalty": 0.5}
    truncated = {"temperature": 0.3, "top_p": 0.8, "top_k": 20, "min_p": 0.1}
    defaults = {**penalties, **truncated, "skip_special_tokens": False}
    server = await serve(Vllm, defaults=defaults)
    async with loaded(factory(vllm.load, server)) as backend:
        await (await backend.open(QUESTION)).generate(4, Sampling(temperature=0.7), FREELY)
    freely = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    whole = {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
    assert server.drawn_with[-1] == {**freely, **whole, "skip_special_tokens": True}


@pytest.mark.anyio
async def test_logits_are_not_taken_for_log_probabilities(serve: Serve) -> None:
    async with loaded(factory(vllm.load, await serve(Vllm, logits=True))) as backend:
        assert not backend.info.can_score
        assert "--logprobs-mode" in backend.info.no_score_reason
        with pytest.raises(CannotScore):
            await (await backend.open(QUESTION)).score(STEP)


@pytest.mark.anyio
@pytest.mark.parametrize("step_scoring", [True, False])
async def test_a_cache_that_was_dropped_is_counted_though_the_server_leaves_the_number_out(
    serve: Serve, step_scoring: bool
) -> None:
    server = await serve(Vllm, details=True, step_scoring=step_scoring)
    async with loaded(factory(vllm.load, server)) as backend:
        sequence = await backend.open(QUESTION)
        first = await sequence.generate(8, GREEDY, FREELY)
        assert first.work.cached_tokens > 0
        assert first.work.reread_tokens == 0
        before = sequence.length
        server.forgets = True
        again = await sequence.generate(8, replace(GREEDY, seed=1), FREELY)
        assert again.work.cached_tokens == 0
        assert again.work.reread_tokens == before - 1
