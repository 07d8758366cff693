"""Servers that fail: what is tried again, what is not, what is said, and what is left behind."""

import asyncio
import logging
import math
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from a1agent import A1, CannotScore, InvalidOption, ModelLoadError, ModelNotFound
from a1agent.backends import llama_cpp, openai, sglang, vllm
from a1agent.backends.base import Sampling, Stop
from a1agent.backends.registry import parse_address
from a1agent.backends.remote import RemoteBackend
from a1agent.backends.replicas import Replicas
from a1agent.backends.shared_time import SharedTime
from a1agent.errors import A1Error, BackendError, ContextOverflow
from a1agent.types import Question
from tests.backends.contract import FREELY, GREEDY, STEP, close_to
from tests.backends.remotes import FAST, Serve
from tests.servers.flavors import Flavor, OpenAI
from tests.servers.model import EXACT
from tests.servers.sglang import Sglang
from tests.servers.sockets import Faults, Reply, Request, SocketServer
from tests.servers.vllm import Vllm

pytestmark = pytest.mark.anyio
QUESTION = Question.of("the sum of 1 and 2")
FAULTS = (
    *("reset", "mid-stream", "429", "502", "503", "504", "truncated", "wrong length", "null", "slow", "hang"),
    *("said", "page", "pings"),
)
IMPATIENT = {**FAST, "first_token_s": 0.3, "between_tokens_s": 0.3}


@pytest.fixture(scope="module")
def servers(models: Path) -> Iterator[dict[str, Flavor]]:
    found = {"sglang": Sglang(models / "bpe.gguf"), "vllm": Vllm(models / "bpe.gguf", step_scoring=True, details=True)}
    yield found
    for server in found.values():
        server.close()


@pytest.fixture(params=["sglang", "vllm"])
def server(request: pytest.FixtureRequest, servers: dict[str, Flavor]) -> Flavor:
    found = servers[request.param]
    found.socket.faults = Faults()
    found.socket.log.clear()
    return found


def load(server: Flavor, **options: object) -> RemoteBackend:
    module = {Sglang: sglang, Vllm: vllm, OpenAI: openai}[type(server)]
    return module.load(f"{server.url}#{server.name}", **{**FAST, **options})


@asynccontextmanager
async def loaded(server: Flavor, **options: object) -> AsyncIterator[RemoteBackend]:
    backend = await asyncio.to_thread(load, server, **options)
    try:
        async with asyncio.timeout(60):
            yield backend
    finally:
        await backend.aclose()


# Scores and what they cost


async def test_scores_equal_those_in_process(server: Flavor, models: Path) -> None:
    local = await asyncio.to_thread(llama_cpp.load, str(models / "bpe.gguf"), **EXACT)
    expected = await (await local.open(QUESTION)).score(STEP)
    await local.aclose()
    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        scores = await sequence.score(STEP)
        assert scores.ids == expected.ids
        assert close_to(scores.logprobs, expected.logprobs)
        assert scores.work.decoded_tokens + scores.work.cached_tokens == sequence.length
        assert scores.work.compute_s > 0


@pytest.mark.parametrize("kind", ["sglang", "vllm", "vllm, old scoring"])
async def test_a_token_without_any_probability_is_infinitely_strange(kind: str, serve: Serve) -> None:
    """JSON cannot say so: a server puts null in its place, or a number that would be stored as a score."""
    vllm_options = {"step_scoring": "old" not in kind}
    server: Flavor = await (serve(Sglang) if kind == "sglang" else serve(Vllm, **vllm_options))
    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        mark = sequence.mark()
        scores = await sequence.score(STEP)
        sequence.rewind(mark)
        server.impossible = scores.ids[1]
        again = await sequence.score(STEP)
    assert again.logprobs[1] == -math.inf
    assert all(math.isfinite(value) for value in (again.logprobs[0], *scores.logprobs))


@pytest.mark.parametrize("noise", [0.0, 0.25])
@pytest.mark.parametrize(
    ("kind", "options", "raw"),
    [
        (Vllm, {"step_scoring": True}, True),
        (Vllm, {"step_scoring": True, "processed": True}, False),
        (Sglang, {"original": True}, True),
        (Sglang, {}, False),
    ],
)
async def test_what_a_server_tells_is_recognized_through_the_rounding_of_a_gpu(
    kind: type[Flavor], options: dict[str, bool], raw: bool, noise: float, serve: Serve
) -> None:
    """Taken for something else, each step would be scored twice, or with its whole chain."""
    server = await serve(kind, **options)
    server.noise = noise
    async with loaded(server) as backend:
        wire: Any = backend._remote.wire
        assert wire.tells_raw == raw
        assert getattr(wire, "scores_steps", True)


async def test_a_scoring_endpoint_that_is_off_by_one_is_not_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve(Vllm, step_scoring=True)
    right = server.socket.handlers["/inference/v1/generate"]

    async def shifted(request: Request) -> Reply:
        monkeypatch.setattr(server, "shift", 1)
        try:
            return await right(request)
        finally:
            monkeypatch.setattr(server, "shift", 0)

    server.socket.handlers["/inference/v1/generate"] = shifted
    async with loaded(server) as backend:
        wire: Any = backend._remote.wire
        assert not wire.scores_steps


def test_a_server_that_reads_the_chain_for_each_score_is_counted_and_said_once(models: Path) -> None:
    options = "retry_wait_s=0.01"
    old, new = Vllm(models / "bpe.gguf"), Vllm(models / "bpe.gguf", step_scoring=True)
    for server, rereads in ((old, True), (new, False)):
        address = f"vllm:{server.url}#tiny?{options}"
        with A1(address, address, calibration=None, seed=1, turns=3, chains=2, min_step_tokens=0, step_tokens=8) as a1:
            first, second = (a1.solve("the sum of 1 and 2") for _ in range(2))
            said = [[n for n in result.notices if "whole chain" in n] for result in (first, second)]
        assert (first.stats.reread_tokens > first.stats.scored_tokens) == rereads
        assert list(map(len, said)) == [int(rereads), 0]
        server.close()


def test_time_is_shared_out_among_calls_that_run_together() -> None:
    clock = Clock()
    shared = SharedTime(clock)
    with shared.call() as long:
        clock.now += 1
        with shared.call() as short:
            clock.now += 2
        clock.now += 3
    assert (long.total_s, short.total_s) == (6, 2)
    assert (long.share_s, short.share_s) == (5, 1)


# Faults


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_costs_a_retry_and_changes_no_result(server: Flavor, fault: str) -> None:
    async with loaded(server, **(IMPATIENT if fault == "hang" else {})) as backend:
        root = await backend.open(QUESTION)
        expected = await root.fork().generate(12, Sampling(seed=3), FREELY)
        scores = await root.fork().score(STEP, end=True)
        sequence = root.fork()
        start = sequence.mark()
        server.socket.faults = Faults(plan=[fault])
        again = await sequence.generate(12, Sampling(seed=3), FREELY)
        assert (again.step, again.finish) == (expected.step, expected.finish)
        assert sequence.length == start.length + len(again.step.ids or ())
        sequence.rewind(start)
        server.socket.faults.plan = [fault]
        scored = await sequence.score(STEP, end=True)
        assert close_to(scored.logprobs, scores.logprobs)
        assert server.socket.faults.struck == [fault] * 2


async def test_events_without_data_cost_no_request(server: Flavor) -> None:
    async with loaded(server) as backend:
        root, requests = await backend.open(QUESTION), [len(server.socket.log)]
        for plan in ([], ["pings"]):
            server.socket.faults = Faults(plan=plan)
            await root.fork().generate(12, Sampling(seed=3), FREELY)
            requests.append(len(server.socket.log))
        assert server.socket.faults.struck == ["pings"]
        assert requests[2] - requests[1] == requests[1] - requests[0]


async def test_a_stream_that_the_server_gives_up_is_asked_for_again(server: Flavor) -> None:
    """A server that is paused, or whose weights are replaced, ends what runs: that is no end of a step."""
    async with loaded(server) as backend:
        root = await backend.open(QUESTION)
        expected = await root.fork().generate(12, Sampling(seed=3), FREELY)
        server.aborts = 1
        assert (await root.fork().generate(12, Sampling(seed=3), FREELY)).step == expected.step
        assert server.aborts == 0


async def test_a_call_that_keeps_failing_says_where_and_changes_nothing(server: Flavor) -> None:
    async with loaded(server, retries=2) as backend:
        sequence = await backend.open(QUESTION)
        before = sequence.length
        server.socket.faults = Faults(plan=["503"] * 3)
        with pytest.raises(BackendError, match=r"127\.0\.0\.1.*503") as caught:
            await sequence.score(STEP)
        assert caught.type is BackendError
        assert sequence.length == before
        assert server.socket.faults.plan == []
        assert (await sequence.score(STEP)).logprobs


async def test_an_error_of_the_server_is_not_tried_again(server: Flavor) -> None:
    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        server.socket.faults = Faults(plan=["500", "500"])
        with pytest.raises(BackendError, match="500"):
            await sequence.score(STEP)
        assert len(server.socket.faults.plan) == 1


async def test_an_error_that_is_said_with_status_200_is_one(server: Flavor) -> None:
    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        for call in (lambda: sequence.score(STEP), lambda: sequence.generate(8, GREEDY, FREELY)):
            server.socket.faults = Faults(plan=["said", "said"], code=400)
            with pytest.raises(BackendError, match=r"\(400\): try later"):
                await call()
            assert len(server.socket.faults.plan) == 1


def test_an_address_that_leads_elsewhere_says_where(server: Flavor) -> None:
    address = f"{type(server).__name__.lower()}:{server.url}"
    for fault, said in (("moved", "https://example.org/v1/models"), ("page", "is this the address")):
        server.socket.faults = Faults(plan=[fault])
        assert said in str(refused(address))


async def test_a_server_that_is_restarted_is_waited_for(server: Flavor) -> None:
    async with loaded(server, retry_wait_s=0.1) as backend:
        root = await backend.open(QUESTION)
        expected = await root.fork().generate(8, GREEDY, FREELY)
        await asyncio.to_thread(server.socket.refuse)
        calls = [asyncio.create_task(root.fork().generate(8, GREEDY, FREELY)) for _ in range(4)]
        await asyncio.sleep(0)
        await asyncio.to_thread(server.socket.listen)
        assert {generated.step for generated in await asyncio.gather(*calls)} == {expected.step}


async def test_a_stream_that_falls_silent_is_asked_for_again(server: Flavor) -> None:
    async with loaded(server, between_tokens_s=1.0) as backend:
        root = await backend.open(QUESTION)
        expected = await root.fork().generate(12, Sampling(seed=3), FREELY)
        server.socket.faults = Faults(plan=["stall"])
        assert (await root.fork().generate(12, Sampling(seed=3), FREELY)).step == expected.step
        assert server.socket.faults.struck == ["stall"]


@pytest.mark.parametrize(("after", "least", "most"), [("7", 7, 8), ("soon", 0, 1), ("", 0, 1), ("in an hour", 60, 61)])
async def test_a_full_server_is_left_alone_for_as_long_as_it_asks_but_not_for_ever(
    server: Flavor, after: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if after == "in an hour":
        after = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def pretend(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        server.socket.faults = Faults(plan=["429"], after=after)
        monkeypatch.setattr(asyncio, "sleep", pretend)
        assert (await sequence.score(STEP)).logprobs
        monkeypatch.undo()
    assert least <= max(slept) < most


async def test_no_more_requests_are_under_way_than_connections_are_allowed(server: Flavor) -> None:
    async with loaded(server, max_connections=2) as backend:
        root = await backend.open(QUESTION)
        server.socket.most = 0
        await asyncio.gather(*(root.fork().generate(60, GREEDY, FREELY) for _ in range(8)))
        assert server.socket.most == 2


# What is left behind


async def test_a_cancelled_call_stops_the_server(server: Flavor) -> None:
    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        early, written = server.socket.left_early, len(server.written)
        reached = server.model.generated + 5
        task = asyncio.create_task(sequence.generate(900, Sampling(seed=1), FREELY))
        await asyncio.to_thread(server.model.wait_for, reached)
        task.cancel()
        await asyncio.wait([task])
        await backend.settle()
    assert await asyncio.to_thread(server.socket.drain) == 0
    assert server.socket.left_early == early + 1
    assert len(server.written[written][1]) < 900


async def test_the_stream_is_closed_at_the_boundary(server: Flavor) -> None:
    async with loaded(server) as backend:
        root = await backend.open(QUESTION)
        text = (await root.fork().generate(32, Sampling(seed=2), FREELY)).step.text
        early = server.socket.left_early
        stopped = await root.fork().generate(900, Sampling(seed=2), Stop(boundary=text[4:6], whole_words=False))
    assert await asyncio.to_thread(server.socket.drain) == 0
    assert stopped.finish == "stop"
    assert server.socket.left_early == early + 1
    assert len(server.written[-1][1]) < 900


async def test_closing_leaves_no_thread_and_no_connection(server: Flavor) -> None:
    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        calls = [asyncio.create_task(sequence.fork().generate(500, Sampling(seed=i), FREELY)) for i in range(8)]
        await asyncio.sleep(0)
    await asyncio.gather(*calls, return_exceptions=True)
    assert await asyncio.to_thread(server.socket.drain) == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "a1agent-http"]


async def test_each_chain_has_its_session(server: Flavor) -> None:
    async with loaded(server, session_header="X-Chain") as backend:
        root = await backend.open(QUESTION)
        forks = [root.fork() for _ in range(3)]
        server.socket.log.clear()
        for _ in range(2):
            await asyncio.gather(*(fork.generate(4, GREEDY, FREELY) for fork in forks))
        streams = [request for request in server.socket.log if request.body.get("stream")]
        assert sorted(map(len, _by_session(streams).values())) == [2, 2, 2]


async def test_the_session_has_the_name_that_the_server_s_router_knows(server: Flavor) -> None:
    name = {"Sglang": "x-smg-routing-key", "Vllm": "x-session-id"}[type(server).__name__]
    async with loaded(server) as backend:
        sequence = await backend.open(QUESTION)
        await sequence.generate(2, GREEDY, FREELY)
        assert len({request.headers[name] for request in server.socket.log if name in request.headers}) == 1
        assert name in server.socket.log[-1].headers


def _by_session(requests: list) -> dict[str, list]:
    found: dict[str, list] = {}
    for request in requests:
        found.setdefault(request.headers["x-chain"], []).append(request)
    return found


# Many loops and threads


def test_threads_and_loops_share_a_backend(server: Flavor) -> None:
    backend = load(server)
    answers: list[str] = []

    async def ask() -> str:
        sequence = await backend.open(QUESTION)
        try:
            return (await sequence.generate(8, GREEDY, FREELY)).step.text
        finally:
            await sequence.close()

    threads = [threading.Thread(target=lambda: answers.append(asyncio.run(ask()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert set(answers) == {asyncio.run(ask())}
    asyncio.run(backend.aclose())


# Replicas


@pytest.fixture
def pair(models: Path) -> Iterator[list[Sglang]]:
    found = [Sglang(models / "bpe.gguf") for _ in range(2)]
    yield found
    for server in found:
        server.close()


async def test_chains_stay_with_their_replica_move_when_it_fails_and_come_back(
    pair: list[Sglang], models: Path
) -> None:
    urls = ",".join(server.url for server in pair)
    options = {**FAST, "tokenizer": str(models / "bpe.gguf"), "cooldown_s": 0.05}
    backend = await asyncio.to_thread(sglang.load, f"{urls}#tiny", **options)
    root = await backend.open(QUESTION)
    forks = [root.fork() for _ in range(6)]

    async def ask() -> list[int]:
        for server in pair:
            server.socket.log.clear()
        await asyncio.gather(*(fork.generate(4, GREEDY, FREELY) for fork in forks))
        return [len(server.socket.log) for server in pair]

    assert await ask() == [3, 3]
    homes = [{r.headers["x-smg-routing-key"] for r in server.socket.log} for server in pair]
    assert await ask() == [3, 3]
    assert [{r.headers["x-smg-routing-key"] for r in server.socket.log} for server in pair] == homes
    await asyncio.to_thread(pair[0].socket.refuse)
    assert (await ask())[1] == 6
    await asyncio.to_thread(pair[0].socket.listen)
    for _ in range(100):
        forks = [*forks[1:], root.fork()]  # a new chain goes where the fewest are
        if (await ask())[0]:
            break
    assert pair[0].socket.log
    await backend.aclose()


async def test_chains_stay_with_their_engine_of_a_data_parallel_server(server: Flavor) -> None:
    async with loaded(server, data_parallel=3, session_header="X-Chain") as backend:
        assert str(backend._remote.http) == server.url
        root = await backend.open(QUESTION)
        forks = [root.fork() for _ in range(6)]
        server.socket.log.clear()
        for _ in range(2):
            await asyncio.gather(*(fork.generate(4, GREEDY, FREELY) for fork in forks))
        streams = [request for request in server.socket.log if request.body.get("stream")]
        ranks = [{r.headers["x-data-parallel-rank"] for r in each} for each in _by_session(streams).values()]
        assert all(len(each) == 1 for each in ranks)
        assert sorted(min(each) for each in ranks) == ["0", "0", "1", "1", "2", "2"]


async def test_a_server_with_one_engine_is_not_told_of_engines(server: Flavor) -> None:
    async with loaded(server) as backend:
        await (await backend.open(QUESTION)).generate(2, GREEDY, FREELY)
    assert not [request for request in server.socket.log if "x-data-parallel-rank" in request.headers]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_circuit_opens_after_failing_for_long_and_closes_after_a_probe() -> None:
    clock = Clock()
    replicas = Replicas(("http://a",), 4, cooldown_s=5, patience_s=30, clock=clock)
    for _ in range(40):  # many at once are one outage: there is patience
        replicas.failed(replicas.pick("chain"))
    clock.now += 31
    replicas.pick("chain")  # the cooldown is over: a probe
    with pytest.raises(BackendError, match="failed for 31 s"):
        replicas.pick("other")
    clock.now += 6
    probe = replicas.pick("chain")
    with pytest.raises(BackendError):
        replicas.pick("other")
    replicas.worked(probe)
    assert replicas.pick("other") is probe


def test_a_failing_replica_gets_one_probe_at_a_time() -> None:
    clock = Clock()
    replicas = Replicas(("http://a", "http://b"), 4, cooldown_s=5, patience_s=30, clock=clock)
    bad, good = replicas.pick("1"), replicas.pick("2")
    assert bad is not good
    for _ in range(2):
        replicas.failed(bad)
    assert replicas.pick("1") is good
    clock.now += 6
    assert [replicas.pick(f"new {i}") for i in range(3)] == [bad, good, good]
    replicas.worked(bad)
    assert replicas.pick("3") is bad
    assert replicas.pick("1") is good  # where its text is cached by now


# The start-up check


def refused(text: str, **options: object) -> A1Error:
    address = parse_address(text)
    with pytest.raises(A1Error) as caught:
        {"vllm": vllm, "sglang": sglang, "openai": openai}[address.scheme].load(
            address.path, **{**FAST, "retries": 1, **dict(address.options), **options}
        )
    return caught.value


def test_a_wrong_model_name_is_refused_with_the_nearest(server: Flavor) -> None:
    scheme = type(server).__name__.lower()
    error = refused(f"{scheme}:{server.url}#tinny")
    assert isinstance(error, ModelNotFound)
    assert "'tiny'" in error.hint


def test_the_only_model_need_not_be_named(server: Flavor) -> None:
    backend = {"Vllm": vllm, "Sglang": sglang}[type(server).__name__].load(server.url, **FAST)
    assert backend.info.name.endswith(":tiny")
    asyncio.run(backend.aclose())


def test_a_tokenizer_of_another_model_is_refused(server: Flavor, models: Path) -> None:
    error = refused(f"{type(server).__name__.lower()}:{server.url}#tiny?tokenizer={models / 'spm.gguf'}")
    assert isinstance(error, ModelLoadError)
    assert "probe" in error.what


def test_a_context_longer_than_the_servers_is_refused(server: Flavor) -> None:
    error = refused(f"{type(server).__name__.lower()}:{server.url}#tiny?context_length=5000")
    assert isinstance(error, InvalidOption)
    assert "1024" in error.what


def test_a_host_that_is_not_there_is_named_and_soon_given_up() -> None:
    """However often calls are tried again: the address may be wrong."""
    for scheme in ("vllm", "sglang", "openai"):
        begun = time.monotonic()
        error = refused(f"{scheme}:http://127.0.0.1:9#m", retries=100, reach_s=0.02)
        assert type(error) is BackendError
        assert "127.0.0.1:9" in error.what
        assert "reach_s" in error.hint
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize("fault", ["503", "502", "429", "reset"])
def test_a_server_that_is_not_ready_yet_is_waited_for(
    server: Flavor, fault: str, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is asked first: which model it has, whether the tokenizer is its own, how it scores."""
    for options, paths in (
        ({}, ("/v1/models",)),
        ({"tokenizer": str(models / "bpe.gguf")}, ("/tokenize", "/generate")),
    ):
        server.socket.faults = Faults(plan=[fault] * 2, paths=paths)
        backend = load(server, **options)
        assert backend.info.can_score
        assert server.socket.faults.struck == [fault] * 2
        asyncio.run(backend.aclose())
    assert "; waiting for it" in caplog.text


@contextmanager
def listening_once_refused(server: Flavor) -> Iterator[None]:
    """Nothing listens where the server is until it was asked some times."""
    listening, asked = threading.Thread(target=server.socket.listen), 0

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal asked
            asked += record.getMessage().startswith("attempt ")
            if asked == 4 and listening.ident is None:
                listening.start()

    server.socket.refuse()
    logger, handler = logging.getLogger("a1agent.backends.retries"), Listen()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    listening.join()


def test_a_server_that_begins_to_listen_is_waited_for(server: Flavor, caplog: pytest.LogCaptureFixture) -> None:
    """For as long as is asked for, however often calls are tried again; it is told where that may be long."""
    caplog.set_level(logging.INFO, logger="a1agent")
    for reach_s, told in ((5.0, 0), (60.0, 1)):
        with listening_once_refused(server):
            asyncio.run(load(server, retry_wait_s=0.05, retries=1, reach_s=reach_s).aclose())
        assert caplog.text.count("; waiting for it") == told


def test_a_server_that_listens_before_it_is_ready_is_said_to_be_waited_for(
    server: Flavor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="a1agent")
    server.socket.faults = Faults(plan=["503"] * 2, paths=("/v1/models",))
    with listening_once_refused(server):
        asyncio.run(load(server, retry_wait_s=0.05).aclose())
    assert caplog.text.count("; waiting for it") == 1


def test_a_server_that_does_not_get_ready_is_an_error_that_says_how_to_wait_longer(server: Flavor) -> None:
    server.socket.faults = Faults(plan=["503"] * 10000)
    error = refused(f"{type(server).__name__.lower()}:{server.url}", patience_s=0.3)
    assert type(error) is BackendError
    assert "503" in error.what
    assert "patience_s" in error.hint
    assert len(server.socket.faults.struck) > 2


def test_a_server_that_is_silent_at_the_start_is_not_asked_for_ever(server: Flavor) -> None:
    server.socket.faults = Faults(plan=["hang"] * 9)
    impatient = {"retries": 8, "first_token_s": 0.2, "patience_s": 0.3}
    error = refused(f"{type(server).__name__.lower()}:{server.url}", **impatient)
    assert "silent" in error.what
    left, server.socket.faults = len(server.socket.faults.plan), Faults()
    assert 0 < left < 9


def test_a_server_of_another_kind_is_refused(servers: dict[str, Flavor]) -> None:
    assert isinstance(refused(f"sglang:{servers['vllm'].url}#tiny"), A1Error)
    assert isinstance(refused(f"vllm:{servers['sglang'].url}#tiny?context_length=99999"), InvalidOption)


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ({"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}, True),
        ({"error": {"message": "The model `m` does not exist or you do not have access to it.", "code": None}}, True),
        ({"error": {"message": 'model "m" not found, try pulling it first', "type": "api_error"}}, True),
        ({"error": "model 'm' not found"}, True),
        ({"error": {"message": "there is no model 'm': known: a1", "param": "model"}}, True),
        ({"error": {"message": "Unable to serve m", "code": "model_not_found"}}, True),
        ({"error": {"message": "This is a chat model and not supported in the v1/completions endpoint"}}, False),
        ({"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}, False),
        ({"detail": "Not Found: /models/v1/models"}, False),
        ({"error": {"message": "Invalid URL (GET /v1/models)", "type": "invalid_request_error"}}, False),
    ],
)
def test_a_404_tells_of_a_model_only_where_it_says_so(told: dict[str, Any], missing: bool) -> None:
    async def reply(request: Request) -> Reply:
        return Reply(told, status=404)

    server = SocketServer({"/v1/models": reply})
    error = refused(f"openai:{server.url}#m")
    server.close()
    assert isinstance(error, ModelNotFound) == missing
    assert "/v1/models" in error.hint


def test_a_failed_check_leaves_nothing_open(server: Flavor) -> None:
    refused(f"{type(server).__name__.lower()}:{server.url}#tinny")
    assert server.socket.drain() == 0
    assert "a1agent-http" not in [thread.name for thread in threading.enumerate()]


def test_a_server_that_cannot_score_is_draft_only_and_says_why(models: Path) -> None:
    server = Vllm(models / "bpe.gguf", prompt_logprobs=False)
    address = f"vllm:{server.url}#tiny?retry_wait_s=0.01"
    with A1(address, address, calibration=None) as a1, pytest.raises(CannotScore, match="log-probabilities"):
        a1.solve("1 + 1")
    with pytest.raises(CannotScore):
        A1("embedded:draft", f"openai:{server.url}#tiny", calibration=None)
    assert server.socket.drain() == 0
    server.close()


@pytest.fixture
def small(models: Path) -> Iterator[OpenAI]:
    server = OpenAI(models / "bpe.gguf", continues="final_message", context=128)
    yield server
    server.close()


async def test_a_text_beyond_the_servers_context_is_an_overflow(small: OpenAI) -> None:
    """A server may count differently than we do: its own complaint means the same."""
    async with loaded(small, context_length=4096) as backend:
        with pytest.raises(ContextOverflow):
            await (await backend.open(Question.of("add the parts " * 60))).generate(4, GREEDY, FREELY)


# Secrets and certificates


def test_a_key_is_sent_and_never_shown(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = Vllm(models / "bpe.gguf", key="sk-very-secret")
    refusal = refused(f"vllm:{server.url}#tiny")
    assert "api_key_env" in refusal.hint
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    backend = load(server, api_key_env="MY_KEY")
    server.socket.faults = Faults(plan=["503"] * 9)

    async def ask() -> None:
        with pytest.raises(BackendError) as caught:
            await (await backend.open(QUESTION)).generate(4, GREEDY, FREELY)
        assert "secret" not in repr(caught.value)
        await backend.aclose()

    asyncio.run(ask())
    shown = [repr(backend.info), str(backend._remote.http), str(refusal), *map(str, caplog.messages)]
    assert not [text for text in shown if "secret" in text]
    server.close()


def test_a_key_that_is_not_set_is_asked_for() -> None:
    assert "MY_KEY" in refused("vllm:http://127.0.0.1:9#m?api_key_env=MY_KEY").what


@pytest.mark.parametrize("key", ["sk-secret\nsk-other", "sk-secr\u200bet", "sk-sécret"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    refusal = refused("vllm:http://127.0.0.1:9#m?api_key_env=MY_KEY")
    assert isinstance(refusal, InvalidOption)
    assert "MY_KEY" in refusal.what
    assert "sk-" not in str(refusal)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALL_PROXY", "gopher://127.0.0.1:1", "ALL_PROXY"),
        ("HTTP_PROXY", "::", "HTTP_PROXY"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    refusal = refused("vllm:http://127.0.0.1:9#m")
    assert isinstance(refusal, InvalidOption)
    assert said in refusal.what


def test_a_session_header_has_the_name_of_one() -> None:
    for name in ("", "X Y", "X-A\nB"):
        assert isinstance(refused("vllm:http://127.0.0.1:9#m", session_header=name), InvalidOption)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("vllm:http://me:secret@host#m", "api_key_env"),
        ("vllm:http://host?api_key=secret#m", "api_key_env"),
        ("vllm:host:8000#m", "http://HOST:PORT"),
        ("sglang:ftp://host#m", "http://HOST:PORT"),
        ("openai:http://host:port#m", "http://HOST:PORT"),
    ],
)
def test_a_wrong_address_says_what_to_write_and_repeats_no_secret(address: str, hint: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_address(address)
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)


def test_options_may_stand_before_and_after_the_model() -> None:
    address = parse_address("vllm:http://host:1,http://other:2/v1?retries=1#org/model?context_length=9")
    assert address.path == "http://host:1,http://other:2/v1#org/model"
    assert dict(address.options) == {"retries": 1, "context_length": 9}


def test_an_untrusted_certificate_is_refused_until_it_is_named(models: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = Vllm(models / "bpe.gguf", ssl=context)
    error = refused(f"vllm:{server.url}#tiny")
    assert "certificate" in error.what.lower()
    assert "verify" in error.hint
    backend = load(server, verify=str(tmp_path / "ca.pem"))
    assert backend.info.can_score
    asyncio.run(backend.aclose())
    server.close()


def test_an_address_with_the_wrong_scheme_says_so(server: Flavor) -> None:
    error = refused(f"vllm:{server.url.replace('http:', 'https:')}#tiny")
    assert type(error) is BackendError
    assert "http://" in error.hint
