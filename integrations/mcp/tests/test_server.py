"""The tool and the resource, through the SDK's own client: in process, over stdio, over streamable HTTP."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from a1agent import A1, RejectionStats
from a1agent.backends.scripted import ScriptedBackend, Sums
from a1agent.server import Keys, ServerSettings
from a1agent.server.run import announced, bind
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import INVALID_PARAMS, CallToolResult, Request, TextContent

from a1agent_mcp import Limits, create_server
from a1agent_mcp.command import http_server
from a1agent_mcp.ending import Ending

pytestmark = pytest.mark.anyio

ASKED: dict[str, Any] = {"question": "1 + 2 + 3"}
KEY = "a-key-that-nobody-guesses"
OTHER = "another-key-of-somebody"


def pair(jitter: int = 0) -> tuple[ScriptedBackend, ScriptedBackend]:
    draft = ScriptedBackend(Sums(0.6), name="draft", jitter=jitter)
    return draft, ScriptedBackend(Sums(), name="target", jitter=jitter)


@asynccontextmanager
async def agent(jitter: int = 0) -> AsyncIterator[A1]:
    async with A1(*pair(jitter), calibration=None, min_step_tokens=0) as a1:
        yield a1


@asynccontextmanager
async def served(jitter: int = 0, **settings: Any) -> AsyncIterator[str]:
    """The HTTP transport on a free port."""
    chosen = ServerSettings(**{"grace_s": 1, **settings})
    with bind("127.0.0.1", 0, chosen) as listener:
        async with agent(jitter) as a1:
            server = http_server(a1, Limits(), chosen)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield f"{announced(listener)}/mcp"
            finally:
                server.should_exit = True
                await task


@asynccontextmanager
async def http_client(url: str, key: str) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http)) as mcp,
    ):
        yield mcp


async def test_a_question_is_answered_as_text_and_as_structured_content() -> None:
    async with agent() as a1, Client(create_server(a1)) as client:
        answer = await client.call_tool("reason", ASKED)
    assert answer.structured_content is not None and not answer.is_error
    assert answer.structured_content["answer"] == "6"
    stats = RejectionStats.model_validate(answer.structured_content["stats"])
    assert stats.chains_started == 8
    (text,) = answer.content
    assert isinstance(text, TextContent) and "Answer: 6" in text.text
    assert f"Confidence: {answer.structured_content['confidence']:.2f} (the share of 8 chains that agree)" in text.text
    assert f"Rate: {stats.observed_rate:.2f} of the verified steps (asked for 0.30)" in text.text


async def test_a_client_that_sees_text_only_reads_how_sure_a_call_is_that_verified_nothing() -> None:
    async with (
        A1(*pair(), calibration=None, min_step_tokens=0, verify_rate=0.0) as a1,
        Client(create_server(a1)) as client,
    ):
        answer = await client.call_tool("reason", {**ASKED, "effort": "low"})
    (text,) = answer.content
    assert isinstance(text, TextContent) and text.text.endswith(" (the share of 4 chains that agree)")


async def test_each_turn_is_told_while_the_chains_think() -> None:
    told: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async with agent() as a1, Client(create_server(a1)) as client:
        answer = await client.call_tool("reason", ASKED, progress_callback=note)
    assert answer.structured_content is not None
    assert [progress for progress, _ in told] == list(range(1, len(told) + 1))
    taken = sum("taken over" in (message or "") for _, message in told)
    assert 0 < taken <= answer.structured_content["stats"]["rejections"]


@pytest.mark.parametrize(("effort", "chains", "rate"), [("low", 4, 0.2), ("medium", 8, 0.3), ("high", 16, 0.4)])
async def test_effort_and_rate_reach_the_call(effort: str, chains: int, rate: float) -> None:
    async with agent() as a1, Client(create_server(a1)) as client:
        usual = await client.call_tool("reason", {**ASKED, "effort": effort})
        answer = await client.call_tool("reason", {**ASKED, "effort": effort, "rate": 1.0})
    assert usual.structured_content is not None
    assert usual.structured_content["stats"]["asked_rate"] == rate
    assert answer.structured_content is not None
    stats = answer.structured_content["stats"]
    assert (stats["chains_started"], stats["asked_rate"], stats["observed_rate"]) == (chains, 1.0, 1.0)


@pytest.mark.parametrize(
    "asked",
    [{"question": ""}, {}, {**ASKED, "effort": "much"}, {**ASKED, "rate": 2}, {"question": "1 + " * 40000}],
    ids=["empty", "missing", "effort", "rate", "too-long"],
)
async def test_what_cannot_be_asked_is_an_error_of_the_tool(asked: dict[str, Any]) -> None:
    async with agent() as a1, Client(create_server(a1)) as client:
        answer = await client.call_tool("reason", asked)
    assert answer.is_error


async def test_an_argument_of_another_name_is_refused_and_the_nearest_named() -> None:
    async with agent() as a1, Client(create_server(a1)) as client:
        answer = await client.call_tool("reason", {**ASKED, "rates": 0.1})
    (text,) = answer.content
    assert answer.is_error and isinstance(text, TextContent)
    assert "no argument 'rates'" in text.text and "rate" in text.text.partition("'rates'")[2]


@pytest.mark.parametrize("given", ["a question", 5, True], ids=str)
async def test_arguments_that_are_no_object_are_refused_as_such(given: Any) -> None:
    async with agent() as a1, Client(create_server(a1)) as client:
        call = Request[dict[str, Any], str](method="tools/call", params={"name": "reason", "arguments": given})
        with pytest.raises(MCPError) as caught:
            await client.session.send_request(call, CallToolResult)  # type: ignore[arg-type]
    assert caught.value.error.code == INVALID_PARAMS


async def test_past_calls_are_listed_without_their_questions_and_the_oldest_go() -> None:
    async with agent() as a1, Client(create_server(a1, Limits(kept=2)), cache=None) as client:
        for _ in range(3):
            await client.call_tool("reason", ASKED)
        (found,) = (await client.read_resource("a1://calls")).contents
    calls = json.loads(found.text)  # type: ignore[union-attr]
    assert len(calls) == 2 and set(calls[0]) == {"at", "confidence", "stats"}
    assert "1 + 2" not in found.text  # type: ignore[union-attr]


async def test_a_call_that_is_cancelled_leaves_nothing_behind() -> None:
    draft, target = pair(jitter=10**6)
    async with A1(draft, target, calibration=None, min_step_tokens=0) as a1, Client(create_server(a1)) as client:
        call = asyncio.create_task(client.call_tool("reason", ASKED))
        async with asyncio.timeout(30):
            while not draft.counters.sequences_alive:  # noqa: ASYNC110  counters have no event to wait for
                await asyncio.sleep(0)
            call.cancel()
            while draft.counters.sequences_alive or target.counters.sequences_alive:  # noqa: ASYNC110  as above
                await asyncio.sleep(0)


async def test_a_call_beyond_those_that_may_wait_is_an_error_of_the_tool() -> None:
    draft, target = pair(jitter=10**6)
    limits = Limits(calls=1, waiting=0)
    async with (
        A1(draft, target, calibration=None, min_step_tokens=0) as a1,
        Client(create_server(a1, limits)) as client,
        asyncio.timeout(240),
    ):
        first = asyncio.create_task(client.call_tool("reason", ASKED))
        while not draft.counters.sequences_alive:  # noqa: ASYNC110  counters have no event to wait for
            await asyncio.sleep(0)
        second = await client.call_tool("reason", ASKED)
        assert second.is_error and "takes no more" in second.content[0].text  # type: ignore[union-attr]
        first.cancel()
        while draft.counters.sequences_alive:  # noqa: ASYNC110  as above
            await asyncio.sleep(0)


async def test_a_call_that_waits_for_its_turn_is_sent_away_as_the_server_ends() -> None:
    draft, target = pair(jitter=10**6)
    limits = Limits(calls=1)
    queue = limits.queue()
    async with (
        A1(draft, target, calibration=None, min_step_tokens=0) as a1,
        Client(create_server(a1, limits, queue)) as client,
        asyncio.timeout(240),
    ):
        first = asyncio.create_task(client.call_tool("reason", ASKED))
        while not draft.counters.sequences_alive:  # noqa: ASYNC110  counters have no event to wait for
            await asyncio.sleep(0)
        second = asyncio.create_task(client.call_tool("reason", ASKED))
        while not queue.waiting:  # noqa: ASYNC110  as above
            await asyncio.sleep(0)
        Ending(_nothing, 60.0, queue.close).drain()
        (text,) = (await second).content
        assert isinstance(text, TextContent) and "shutting down" in text.text
        first.cancel()
        while draft.counters.sequences_alive:  # noqa: ASYNC110  as above
            await asyncio.sleep(0)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


WORDS = ["-m", "a1agent", "mcp", "--draft", "scripted:sums?accuracy=0.6", "--target", "scripted:sums"]
QUIET = ["--calibration", "none", "--min-step-tokens", "0"]


@asynccontextmanager
async def over_stdio() -> AsyncIterator[Client]:
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}  # the SDK passes on little else
    program = StdioServerParameters(command=sys.executable, args=[*WORDS, *QUIET], env=environment)
    async with Client(stdio_client(program), cache=None) as client:
        yield client


@asynccontextmanager
async def over_http() -> AsyncIterator[Client]:
    async with process("--http", "--port", "0") as (url, _), Client(streamable_http_client(url), cache=None) as client:
        yield client


@asynccontextmanager
async def process(*words: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """`a1 mcp --http` as it is started from a shell, and the address it tells."""
    command = [sys.executable, *WORDS, *QUIET, *words]
    running = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        assert running.stderr is not None
        line = b""
        async with asyncio.timeout(240):
            while not line.startswith(b"serving MCP on "):
                line = await running.stderr.readline()
                assert line, "it ended before it served"
        yield line.split()[-1].decode(), running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


@pytest.mark.parametrize("transport", [over_stdio, over_http])
async def test_over_either_transport_turns_are_told_the_answer_comes_and_the_call_is_kept(transport: Any) -> None:
    told: list[str | None] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with transport() as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["reason"]
        assert [str(r.uri) for r in (await client.list_resources()).resources] == ["a1://calls"]
        answer = await client.call_tool("reason", ASKED, progress_callback=note)
        (found,) = (await client.read_resource("a1://calls")).contents
    assert answer.structured_content is not None and answer.structured_content["answer"] == "6"
    stats = answer.structured_content["stats"]
    assert told and all(message is not None and message.startswith("chain ") for message in told)
    assert len(told) <= stats["verifications"]
    assert [call["stats"] for call in json.loads(found.text)] == [stats]  # type: ignore[union-attr]


def interruptible() -> None:
    """What a shell starts in the background ignores interrupts, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
async def test_over_stdio_the_first_interrupt_ends_the_process() -> None:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    words = [*WORDS, *QUIET]
    running = await asyncio.create_subprocess_exec(sys.executable, *words, **pipes, preexec_fn=interruptible)
    try:
        assert running.stdin is not None and running.stdout is not None and running.stderr is not None
        running.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        async with asyncio.timeout(240):
            assert await running.stdout.readline()
            running.send_signal(signal.SIGINT)
            assert await running.wait() == 130  # though stdin is open still
            assert await running.stderr.read() == b""
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
async def test_over_http_a_signal_ends_the_process_in_order() -> None:
    async with process("--http", "--port", "0") as (url, running):
        assert url.startswith("http://127.0.0.1:") and url.endswith("/mcp")
        async with Client(streamable_http_client(url)) as client:
            await client.call_tool("reason", ASKED)
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(240):
            _, log = await running.communicate()
    assert running.returncode == 0
    lines = [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]
    assert {(line["path"], line["status"]) for line in lines if line["event"] == "request"} >= {("/mcp", 200)}
    assert ASKED["question"].encode() not in log


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_over_http_a_call_that_outlasts_the_grace_period_fails_and_the_end_is_in_order(mode: str) -> None:
    slow = ["--draft", "scripted:sums?jitter=100000", "--target", "scripted:sums?jitter=100000"]
    long, told = {"question": " + ".join(["1"] * 100)}, asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.set()

    async def ask(url: str) -> None:
        async with Client(streamable_http_client(url), mode=mode) as client:  # type: ignore[arg-type]
            await client.call_tool("reason", long, progress_callback=note)

    async with process("--http", "--port", "0", *slow) as (url, running):
        call = asyncio.create_task(ask(url))
        async with asyncio.timeout(240):
            await told.wait()
            running.send_signal(signal.SIGTERM)
            assert running.stderr is not None
            log = await running.stderr.readuntil(b"Shutting down")
            running.send_signal(signal.SIGTERM)  # which ends the grace period
            with pytest.raises(BaseException) as caught:
                await call
            log += (await running.communicate())[1]
    assert not isinstance(caught.value, asyncio.CancelledError)
    assert running.returncode == 0
    assert b"raceback" not in log


@pytest.mark.parametrize("sent", [b"", b"POST /mcp HTTP/1.1\r\nhost: loc"])
async def test_over_http_a_connection_on_which_no_request_comes_is_given_up(sent: bytes) -> None:
    async with served(body_timeout_s=0.2) as url:
        host, _, port = url.removeprefix("http://").removesuffix("/mcp").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(30):
            await reader.read()  # to the end
        writer.close()


async def test_over_http_streams_outlast_the_time_that_a_request_has_to_arrive() -> None:
    times: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        times.append(asyncio.get_running_loop().time())

    async with served(jitter=8000, body_timeout_s=0.1) as url, Client(streamable_http_client(url)) as client:
        began = asyncio.get_running_loop().time()
        answer = await client.call_tool("reason", {"question": " + ".join("12345")}, progress_callback=note)
    assert answer.structured_content is not None and answer.structured_content["answer"] == "15"
    assert len(times) > 1 and times[-1] - began > 0.2


async def test_over_http_another_address_needs_a_key() -> None:
    command = [sys.executable, *WORDS, "--http", "--host", "0.0.0.0", "--port", "0"]
    running = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, error = await running.communicate()
    assert running.returncode == 2 and b"API key" in error


async def test_over_http_each_key_has_past_calls_and_a_calibration_of_its_own() -> None:
    async with served(keys=Keys({"ann": KEY, "bob": OTHER})) as url:
        async with http_client(url, KEY) as ann:
            first = await ann.call_tool("reason", ASKED)
            second = await ann.call_tool("reason", ASKED)
            mine = json.loads((await ann.read_resource("a1://calls")).contents[0].text)  # type: ignore[union-attr]
        async with http_client(url, OTHER) as bob:
            theirs = json.loads((await bob.read_resource("a1://calls")).contents[0].text)  # type: ignore[union-attr]
    assert (len(mine), theirs) == (2, [])
    sizes = [call.structured_content["stats"]["calibration_size"] for call in (first, second)]  # type: ignore[index]
    assert sizes[1] > sizes[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {KEY}", "host": "evil.example"}, 403),
        ({"authorization": f"Bearer {KEY}", "origin": "http://evil.example"}, 403),
        ({"authorization": f"Bearer {KEY}", "content-type": "text/plain"}, 415),
    ],
    ids=["no-key", "wrong-key", "host", "origin", "kind"],
)
async def test_over_http_nobody_else_comes_in(headers: dict[str, str], status: int) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    async with served(keys=Keys({"ann": KEY})) as url, httpx2.AsyncClient() as http:
        answer = await http.post(url, content=body, headers={"content-type": "application/json"} | headers)
    assert answer.status_code == status
