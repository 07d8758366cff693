"""vLLM's own server: the contract over both of its model runners, and A1 with a target on each.

`make servers` installs it beside the project and runs these.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from a1agent import A1, embedded
from a1agent.backends import transformers, vllm
from a1agent.backends.base import Sampling, Stop
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.backends import tiny
from tests.backends.contract import GREEDY, BackendFactory, Capabilities, Contract, loaded
from tests.backends.remotes import FAST
from tests.servers.beside import BLOCK, vllm_serve
from tests.servers.llama_server import RealServer

tiny_hf = pytest.importorskip("tests.backends.tiny_hf", reason="needs torch and transformers")
QUESTION = ask_for_box(Question.of("What is 47 * 28 + 783?"))


def factory(server: RealServer) -> BackendFactory:
    def make(context: int | None) -> vllm.RemoteBackend:
        asked = {} if context is None else {"context_length": context}
        return vllm.load(f"{server.url}#{server.name}", **FAST, **asked)

    return make


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    return tiny_hf.write(folder, "llama", tiny_hf.bpe(), tiny.bpe_words(), head_dim=32)


@pytest.fixture(scope="module")
def by_chains(checkpoint: Path) -> Iterator[RealServer]:
    with vllm_serve(checkpoint, checkpoint.parent / "log", steps=False) as server:
        yield server


@pytest.fixture(scope="module")
def by_steps(checkpoint: Path) -> Iterator[RealServer]:
    with vllm_serve(checkpoint, checkpoint.parent / "log-steps", steps=True) as server:
        yield server


class TestChainScoring(Contract):
    """The older model runner, which scores by reading the chain again."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, by_chains: RealServer) -> BackendFactory:
        return factory(by_chains)


class TestStepScoring(Contract):
    """The newer one, which scores the step only."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, by_steps: RealServer) -> BackendFactory:
        return factory(by_steps)


@dataclass
class Pair:
    """The embedded target on a server. `steps`: it reads a step only to score it."""

    server: RealServer
    checkpoint: Path
    steps: bool

    @property
    def address(self) -> str:
        return f"vllm:{self.server.url}#{self.server.name}"


@pytest.fixture(scope="module", params=[False, True], ids=["chains", "steps"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("embedded")
    target = tiny_hf.embedded_checkpoint(folder / "target", embedded.path("target"))
    with vllm_serve(target, folder / "log", steps=request.param, context=2048) as server:
        yield Pair(server, target, request.param)


@pytest.mark.anyio
async def test_scores_are_those_of_the_same_weights_in_process(pair: Pair) -> None:
    async with (
        loaded(factory(pair.server)) as theirs,
        loaded(lambda _: transformers.load(str(pair.checkpoint))) as ours,
    ):
        there, here = await theirs.open(QUESTION), await ours.open(QUESTION)
        assert here.length == there.length
        for seed in range(4):
            step = (await here.fork().generate(40, Sampling(seed=seed), Stop())).step
            one, two = await there.fork().score(step, end=True), await here.fork().score(step, end=True)
            assert one.ids == two.ids
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-3)
            assert one.end == pytest.approx(two.end, rel=1e-3, abs=1e-3)


def test_a1_answers_with_a_target_on_the_server(pair: Pair) -> None:
    options = {"calibration": None, "seed": 1, "chains": 4, "min_step_tokens": 0, "early_stop": "off"}
    with A1("embedded:draft", pair.address, **options) as a1:
        result = a1.solve(QUESTION, rejection_rate=0.4)
    stats = result.stats
    assert result.answer == "2099"
    assert stats.chains_finished == 4
    assert stats.verifications == sum(len(chain.turns) for chain in result.chains) > 12
    assert any("--enable-scale-out" in notice for notice in result.notices) is not pair.steps
    # Blocks that are not full are not kept: of each request the last one is read again.
    requests = stats.verifications + stats.rejections + stats.chains_finished
    assert (stats.reread_tokens < BLOCK * requests) is pair.steps


@pytest.mark.anyio
async def test_a_cancelled_call_stops_the_server(pair: Pair) -> None:
    async def figure(name: str) -> float:
        text = (await client.get(f"{pair.server.url}/metrics")).text
        return sum(float(value) for value in re.findall(rf"^vllm:{name}{{.*}} (\S+)$", text, re.MULTILINE))

    async def until(running: bool) -> None:
        for _ in range(3000):
            if bool(await figure("num_requests_running")) is running:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"after half a minute still not {running=}")

    async with loaded(factory(pair.server)) as backend, httpx2.AsyncClient() as client:
        sequence = await backend.open(QUESTION)
        whole = len((await sequence.fork().generate(1000, GREEDY, Stop())).logprobs)
        begun = await figure("generation_tokens_total")
        call = asyncio.ensure_future(sequence.generate(1000, GREEDY, Stop()))
        await until(running=True)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(running=False)
        assert 0 < await figure("generation_tokens_total") - begun < whole
