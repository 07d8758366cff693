"""vLLM's and SGLang's own servers: the contract on each, and A1 with the embedded target on each.

`make servers` installs them beside the project and runs these.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median_high

import httpx2
import pytest

from a1agent import A1, embedded
from a1agent.backends import sglang, transformers, vllm
from a1agent.backends.base import Backend, Sampling, Stop
from a1agent.backends.wire import Chunk, Tokens
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.backends import thinkers, tiny
from tests.backends.contract import GREEDY, BackendFactory, Capabilities, Contract, loaded
from tests.backends.remotes import factory
from tests.servers.beside import BLOCK, sglang_serve, vllm_serve
from tests.servers.process import RealServer

tiny_hf = pytest.importorskip("tests.backends.tiny_hf", reason="needs torch and transformers")
QUESTION = ask_for_box(Question.of("What is 47 * 28 + 783?"))


@dataclass(frozen=True)
class Kind:
    """A server as it may be started. `block`: tokens that its cache keeps together, or None if it keeps nothing of what
    it scored; `running`: the figure that counts requests at work.
    """

    scheme: str
    load: Callable[..., Backend]
    serve: Callable[..., AbstractContextManager[RealServer]]
    block: int | None
    running: str


KINDS = {
    "vllm-chains": Kind("vllm", vllm.load, partial(vllm_serve, steps=False), None, "num_requests_running"),
    "vllm-steps": Kind("vllm", vllm.load, partial(vllm_serve, steps=True), BLOCK, "num_requests_running"),
    "sglang": Kind("sglang", sglang.load, partial(sglang_serve, original=False), 1, "num_running_reqs"),
    "sglang-original": Kind("sglang", sglang.load, partial(sglang_serve, original=True), 1, "num_running_reqs"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    return tiny_hf.write(folder, "llama", tiny_hf.bpe(), tiny.bpe_words(), head_dim=32)


@pytest.fixture(scope="module")
def tiny_server(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[tuple[Kind, RealServer]]:
    kind = KINDS[request.param]
    with kind.serve(checkpoint, checkpoint.parent / f"log-{request.param}") as server:
        yield kind, server


class OnServers(Contract):
    """All are asked for ids."""

    @pytest.fixture
    def backend_factory(self, tiny_server: tuple[Kind, RealServer]) -> BackendFactory:
        kind, server = tiny_server
        return factory(kind.load, server)


@pytest.mark.parametrize("tiny_server", ["vllm-chains", "vllm-steps"], indirect=True, scope="module")
class TestVllm(OnServers):
    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)


@pytest.mark.parametrize("tiny_server", ["sglang", "sglang-original"], indirect=True, scope="module")
class TestSglang(OnServers):
    """Its deterministic mode, which a seed needs, is for GPUs."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True, seeded=False)


@dataclass
class Target:
    """The embedded target on a server."""

    kind: Kind
    server: RealServer
    checkpoint: Path

    def load(self, _context: int | None) -> Backend:
        return factory(self.kind.load, self.server)(None)

    @property
    def address(self) -> str:
        return f"{self.kind.scheme}:{self.server.url}#{self.server.name}"


@pytest.fixture(scope="module", params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder, kind = tmp_path_factory.mktemp("embedded"), KINDS[request.param]
    checkpoint = tiny_hf.embedded_checkpoint(folder / "target", embedded.path("target"))
    with kind.serve(checkpoint, folder / "log", context=2048) as server:
        yield Target(kind, server, checkpoint)


@pytest.mark.anyio
async def test_scores_are_those_of_the_same_weights_in_process(target: Target) -> None:
    async with loaded(target.load) as theirs, loaded(lambda _: transformers.load(str(target.checkpoint))) as ours:
        there, here = await theirs.open(QUESTION), await ours.open(QUESTION)
        assert here.length == there.length
        for seed in range(4):
            step = (await here.fork().generate(40, Sampling(seed=seed), Stop())).step
            one, two = await there.fork().score(step, end=True), await here.fork().score(step, end=True)
            assert one.ids == two.ids
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-3)
            assert one.end == pytest.approx(two.end, rel=1e-3, abs=1e-3)


@pytest.mark.anyio
async def test_what_is_written_is_what_the_same_weights_write_in_process(target: Target) -> None:
    """Whatever penalties and truncation its operator set for requests that leave them out."""
    async with loaded(target.load) as theirs, loaded(lambda _: transformers.load(str(target.checkpoint))) as ours:
        there, here = await theirs.open(QUESTION), await ours.open(QUESTION)
        for _ in range(3):
            one, two = [await each.generate(40, GREEDY, Stop(boundary="\n\n")) for each in (there, here)]
            assert one.step.text == two.step.text
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-3)


def test_a1_answers_with_a_target_on_the_server(target: Target) -> None:
    options = {"calibration": None, "seed": 1, "chains": 4, "min_step_tokens": 0, "early_stop": "off"}
    with A1("embedded:draft", target.address, **options) as a1:
        result = a1.solve(QUESTION, rejection_rate=0.4)
    stats = result.stats
    assert "2099" in {chain.answer for chain in result.chains}  # where seeds do nothing, chance decides the vote
    assert stats.chains_finished == 4
    assert stats.verifications == sum(len(chain.turns) for chain in result.chains) > 12
    # Blocks that are not full are not kept: of each request the last one is read again.
    requests = stats.verifications + stats.rejections + stats.chains_finished
    keeps = target.kind.block is not None
    assert (stats.reread_tokens < (target.kind.block or BLOCK) * requests) is keeps
    assert any("--enable-scale-out" in notice for notice in result.notices) is not keeps


@pytest.mark.anyio
async def test_tokens_come_as_many_at_a_time_as_they_are_asked_for(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(tokens: Tokens, chunk: Chunk) -> Iterator[tuple[int, bytes, float]]:
        sizes.append(len(chunk.ids))
        return of(tokens, chunk)

    of = Tokens.of
    monkeypatch.setattr(Tokens, "of", counted)
    steps: list[tuple[str, tuple[float, ...]]] = []
    for interval in (1, 4):
        options = {"tokenizer": str(embedded.path("target")), "stream_interval": interval}
        async with loaded(factory(target.kind.load, target.server, **options)) as backend:
            sequence = await backend.open(QUESTION)
            sizes.clear()
            for _ in range(3):
                generated = await sequence.generate(24, GREEDY, Stop(boundary="\n\n"))
                steps.append((generated.step.text, generated.logprobs))
            assert median_high(sizes) == interval  # a server that is held up sends what has gathered
    assert [text for text, _ in steps[:3]] == [text for text, _ in steps[3:]]
    for (_, one), (_, other) in zip(steps[:3], steps[3:], strict=True):
        assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.anyio
async def test_a_cancelled_call_stops_the_server(target: Target) -> None:
    async def figure(name: str) -> float:
        text = (await client.get(f"{target.server.url}/metrics")).text
        found = re.findall(rf"^{target.kind.scheme}:{name}{{.*}} (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    async def until(running: bool) -> None:
        for _ in range(3000):
            if bool(await figure(target.kind.running)) is running:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"after half a minute still not {running=}")

    async with loaded(target.load) as backend, httpx2.AsyncClient() as client:
        sequence = await backend.open(QUESTION)
        whole = len((await sequence.fork().generate(1000, GREEDY, Stop())).logprobs)
        begun = await figure("generation_tokens_total")
        call = asyncio.ensure_future(sequence.generate(1000, GREEDY, Stop()))
        await until(running=True)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(running=False)
        assert await figure("generation_tokens_total") - begun < whole


@pytest.mark.parametrize("kind", ["vllm-chains", "sglang"])
@pytest.mark.parametrize(("make", "thought"), [(thinkers.gpt_oss, thinkers.BOXED), (thinkers.magistral, "hm")])
def test_thoughts_marked_by_control_tokens_are_told_from_answers(
    tmp_path: Path, kind: str, make: Callable[[Path], Path], thought: str
) -> None:
    checkpoint, how = tiny_hf.thinker_checkpoint(tmp_path / "thinker", make(tmp_path / "thinker.gguf")), KINDS[kind]
    options = {"chains": 2, "turns": 4, "seed": 1, "min_step_tokens": 0, "temperature": 0.0, "calibration": None}
    with how.serve(checkpoint, tmp_path / "log", context=256) as server:
        for local in ("", f"?tokenizer={checkpoint}"):
            model = f"{how.scheme}:{server.url}{local}#{server.name}"
            with A1(model, model, **options) as a1:
                result = a1.solve("1 + 6? \\boxed{} it.")
            assert (result.answer, result.text, result.reasoning) == ("7", thinkers.BOXED, thought)


@pytest.mark.parametrize("kind", ["vllm-chains", "sglang"])
@pytest.mark.parametrize("family", [*thinkers.CALLS, "gpt-oss"])
def test_calls_between_control_tokens_are_calls(tmp_path: Path, kind: str, family: str) -> None:
    path = tmp_path / "caller.gguf"
    made = thinkers.gpt_oss_caller(path) if family == "gpt-oss" else thinkers.caller(path, family)
    checkpoint, how = tiny_hf.thinker_checkpoint(tmp_path / "caller", made), KINDS[kind]
    options = {"chains": 2, "turns": 4, "seed": 1, "min_step_tokens": 0, "temperature": 0.0, "calibration": None}
    question = Question(messages=Question.of("What is it?").messages, tools=(thinkers.TOOL,))
    with how.serve(checkpoint, tmp_path / "log", context=256) as server:
        for local in ("", f"?tokenizer={checkpoint}"):
            model = f"{how.scheme}:{server.url}{local}#{server.name}"
            with A1(model, model, **options) as a1:
                result = a1.solve(question)
            assert [(call.name, call.arguments) for call in result.tool_calls] == [("look_up", {"what": "7 it"})]
