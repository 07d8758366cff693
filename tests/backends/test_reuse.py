"""What is found in a cache and what is read again is counted alike, whoever runs the model."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from a1agent import A1, embedded
from a1agent.backends import llama_cpp, openai, sglang, vllm
from a1agent.backends.base import Backend, Work
from a1agent.types import Question
from tests.backends.contract import FREELY, GREEDY, STEP, loaded
from tests.backends.remotes import FAST, factory
from tests.servers.flavors import Flavor, OpenAI
from tests.servers.llama_server import llama_server
from tests.servers.model import EXACT
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm

pytestmark = pytest.mark.anyio
QUESTION = Question.of("the sum of 1 and 2")
KINDS: dict[str, tuple[Any, Callable[[Path], Flavor]]] = {
    "sglang": (sglang, lambda path: Sglang(path, original=True)),
    "vllm": (vllm, lambda path: Vllm(path, step_scoring=True, details=True)),
    "vllm, old scoring": (vllm, lambda path: Vllm(path, details=True)),
    "vllm that does not tell": (vllm, lambda path: Vllm(path, step_scoring=True)),
}
TELLING = ("llama.cpp", "sglang", "vllm")


@pytest.fixture(scope="module")
def servers(models: Path) -> Iterator[dict[str, Flavor]]:
    found = {name: make(models / "bpe.gguf") for name, (_, make) in KINDS.items()}
    yield found
    for server in found.values():
        server.close()


@asynccontextmanager
async def opened(kind: str, servers: dict[str, Flavor], models: Path) -> AsyncIterator[Backend]:
    make = factory(KINDS[kind][0].load, servers[kind]) if kind in KINDS else None
    async with loaded(make or (lambda _: llama_cpp.load(str(models / "bpe.gguf"), **EXACT))) as backend:
        yield backend


async def calls(backend: Backend) -> list[tuple[int, Work]]:
    """How long the text was before each call of a chain, and what the call cost."""
    sequence = await backend.open(QUESTION)
    found: list[tuple[int, Work]] = []
    for call in (
        lambda: sequence.generate(8, GREEDY, FREELY),
        lambda: sequence.score(STEP),
        lambda: sequence.generate(6, GREEDY, FREELY),
        lambda: sequence.score(STEP),
    ):
        length = sequence.length
        found.append((length, (await call()).work))
    return found


@pytest.mark.parametrize("kind", TELLING)
async def test_a_chain_is_found_in_the_cache_and_nothing_is_read_again(
    kind: str, servers: dict[str, Flavor], models: Path
) -> None:
    async with opened(kind, servers, models) as backend:
        for length, work in await calls(backend):
            assert work.cached_tokens >= length - 2
            assert work.reread_tokens <= 1


async def test_a_server_that_scores_without_its_cache_reads_the_chain_again(
    servers: dict[str, Flavor], models: Path
) -> None:
    async with opened("vllm, old scoring", servers, models) as backend:
        for i, (length, work) in enumerate(await calls(backend)):
            assert (work.cached_tokens == 0) == (i % 2 == 1)
            assert (work.reread_tokens >= length - 2) == (i % 2 == 1)


async def test_of_a_server_that_does_not_tell_nothing_is_claimed(servers: dict[str, Flavor], models: Path) -> None:
    async with opened("vllm that does not tell", servers, models) as backend:
        for _, work in await calls(backend):
            assert (work.cached_tokens, work.reread_tokens) == (0, 0)
            assert 0 < work.decoded_tokens < 20


@pytest.mark.parametrize("kind", TELLING)
async def test_what_a_cache_lost_is_counted_when_it_is_read_again(
    kind: str, servers: dict[str, Flavor], models: Path
) -> None:
    async with opened(kind, servers, models) as backend:
        sequence = await backend.open(QUESTION)
        await sequence.score(STEP)
        engine = servers[kind].model.backend.engine if kind in servers else backend.engine  # type: ignore[attr-defined]
        scheduler = engine._scheduler
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()

        def lose() -> None:
            for holder in list(scheduler._holders):
                scheduler.evict(holder)
            while scheduler._cache.forget():
                pass
            loop.call_soon_threadsafe(lost.set_result, None)

        engine._device.post(lose)
        await lost
        length = sequence.length
        work = (await sequence.score(STEP)).work
        assert work.reread_tokens >= length - 2
        assert work.cached_tokens <= 1


async def test_a_text_that_was_rewound_is_not_read_again_but_for_the_first_time(models: Path) -> None:
    async with loaded(lambda _: llama_cpp.load(str(models / "bpe.gguf"), **EXACT)) as backend:
        sequence = await backend.open(QUESTION)
        mark = sequence.mark()
        for _ in range(3):
            work = (await sequence.score(STEP)).work
            assert work.reread_tokens == 0
            assert work.cached_tokens == mark.length - 1
            sequence.rewind(mark)


@pytest.fixture
def chat_server(models: Path) -> Iterator[OpenAI]:
    server = OpenAI(models / "bpe.gguf", continues="final_message")
    yield server
    server.close()


async def test_a_chat_server_tells_what_its_cache_held(chat_server: OpenAI) -> None:
    async with loaded(factory(openai.load, chat_server)) as backend:
        sequence = await backend.open(QUESTION)
        first, second = [(await sequence.generate(8, GREEDY, FREELY)).work for _ in range(2)]
        assert first.cached_tokens <= second.cached_tokens
        assert second.cached_tokens > 8
        assert second.reread_tokens == 0


async def test_llama_server_tells_what_its_slot_held() -> None:
    with llama_server(embedded.path("draft"), slots=1) as server:
        async with loaded(factory(openai.load, server)) as backend:  # type: ignore[arg-type]
            sequence = await backend.open(QUESTION)
            await sequence.generate(8, GREEDY, FREELY)
            length = sequence.length
            work = (await sequence.generate(8, GREEDY, FREELY)).work
            assert length - 2 <= work.cached_tokens <= length
            assert work.reread_tokens <= 2


@pytest.mark.parametrize("kind", ["sglang", "vllm, old scoring"])
def test_the_statistics_add_up_what_both_models_found_and_read_again(kind: str, servers: dict[str, Flavor]) -> None:
    scheme = kind.partition(",")[0]
    address = f"{scheme}:{servers[kind].url}#tiny?retry_wait_s={FAST['retry_wait_s']}"
    with A1(address, address, calibration=None, seed=1, turns=3, chains=2, min_step_tokens=0, step_tokens=8) as a1:
        stats = a1.solve("the sum of 1 and 2").stats
    assert stats.reused_tokens > stats.prompt_tokens
    assert (stats.reread_tokens > stats.scored_tokens) == (kind != "sglang")
    assert stats.cached_tokens <= stats.prompt_tokens
