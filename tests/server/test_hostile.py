"""Bodies that are no requests and clients without manners, over a real socket: counted before and after."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from a1agent import A1
from tests.doubles import sums_pair
from tests.server.serving import (
    SUM,
    Gate,
    Running,
    body,
    held_agent,
    leaving_nothing,
    nothing_left,
    posted,
    raw,
    serving,
    until,
)

pytestmark = pytest.mark.anyio

ASKED: Any = {"model": "a1", "messages": [{"role": "user", "content": SUM}]}
MEGABYTES = 10_000_000


def tool(name: str, parameters: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def formatted(schema: Any) -> bytes:
    return body(response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}})


REFUSED = {
    "nothing": (posted(b""), 400),
    "no JSON": (posted(b"hello"), 400),
    "half of a JSON": (posted(b'{"model": "a1", "messages": ['), 400),
    "no UTF-8": (posted(b"\xff\xfe\x00"), 400),
    "deep lists": (posted(b"[" * 100_000), 400),
    "deep lists that end": (posted(b"[" * 50_000 + b"]" * 50_000), 400),
    "deep objects": (posted(b'{"a":' * 50_000), 400),
    "a deep schema": (body(response_format={"type": json.loads('{"a":' * 200 + "1" + "}" * 200)}), 400),
    "a megabyte of tools": (body(tools=[tool(f"t{number}", {}) for number in range(10_000)]), 400),
    "a tool with a megabyte of arguments": (body(tools=[tool("t", {"enum": [*range(120_000)]})]), 400),
    "a megabyte of a schema": (formatted({"anyOf": [{}] * 200_000}), 400),
    "a list for an object": (posted(b"[]"), 400),
    "a number for messages": (body(messages=5), 400),
    "lists for messages": (body(messages=[[], []]), 400),
    "an object for a number": (body(n={"a": 1}), 400),
    "a text for tools": (body(tools="add"), 400),
    "a list for a1": (body(a1=[1]), 400),
    "a megabyte for a model": (body(model="x" * 1_000_000), 400),
    "ten megabytes announced": (posted(b"", **{"content-length": MEGABYTES}), 413),
    "ten megabytes in chunks": (
        posted(b"", **{"content-length": None, "transfer-encoding": "chunked"})
        + f"{MEGABYTES:x}\r\n".encode()
        + b"x" * (2**20 + 1),
        413,
    ),
    "no length that is a number": (posted(b"{}", **{"content-length": "many"}), 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n\r\n", 400),
}


async def exchange(running: Running, sent: bytes) -> int:
    """The status of what comes back."""
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(sent)
    status = await reader.readline()
    writer.close()
    with contextlib.suppress(OSError):  # what is refused is not read to its end
        await writer.wait_closed()
    return int(status.split()[1])


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_hostile_body_is_refused_and_leaves_nothing(kind: str) -> None:
    sent, status = REFUSED[kind]
    async with serving() as running, leaving_nothing(running):
        assert [await exchange(running, sent) for _ in range(3)] == [status] * 3


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_tools_and_format_together_are_bounded_and_the_larger_is_named(path: str) -> None:
    schema = {"enum": [*range(15_000)]}
    named: Any = {"name": "it", "schema": schema}
    own: Any = {
        "/v1/chat/completions": {
            **ASKED,
            "tools": [tool("t", {"enum": [*range(10_000)]})],
            "response_format": {"type": "json_schema", "json_schema": named},
        },
        "/v1/responses": {
            "model": "a1",
            "input": SUM,
            "tools": [{"type": "function", "name": "t", "parameters": {"enum": [*range(10_000)]}}],
            "text": {"format": {"type": "json_schema", **named}},
        },
    }
    async with serving() as running, running.http() as http:
        error = (await http.post(path, json=own[path])).json()["error"]
    field = "response_format" if "chat" in path else "text.format"
    assert (error["code"], error["param"]) == ("above_limit", field)
    assert "tools" in error["message"] and "20,000" in error["message"]


@pytest.mark.parametrize(
    ("path", "asked", "field"),
    [
        ("chat/completions", {"messages": ASKED["messages"] * 5000}, "messages"),
        ("chat/completions", {**ASKED, "tools": [tool(f"t{i}", {}) for i in range(1025)]}, "tools"),
        ("responses", {"input": [{"role": "user", "content": "1"}] * 5000}, "input"),
    ],
    ids=["messages", "tools", "input"],
)
async def test_how_many_messages_and_tools_a_request_may_hold_is_told(path: str, asked: Any, field: str) -> None:
    async with serving() as running, running.http() as http:
        answer = await http.post(f"/v1/{path}", json={"model": "a1"} | asked)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"].startswith(field)
    assert "at most" in error["message"]


async def test_ten_megabytes_that_are_sent_to_the_end_leave_nothing() -> None:
    async with serving() as running, leaving_nothing(running):
        for _ in range(3):
            with raw(running.address) as connection, contextlib.suppress(OSError):
                await asyncio.to_thread(connection.sendall, posted(b"x" * MEGABYTES))


async def test_ten_megabytes_that_are_allowed_are_too_long_for_the_model_and_block_nobody() -> None:
    async with (
        serving(max_body_bytes=2**24) as running,
        leaving_nothing(running),
        running.client() as client,
        running.http() as http,
    ):
        long = asyncio.create_task(
            client.chat.completions.create(model="a1", messages=[{"role": "user", "content": "1 + " * 2_500_000}])
        )
        assert (await http.get("/healthz")).status_code == 200
        with pytest.raises(openai.BadRequestError) as caught:
            await long
        assert caught.value.code == "context_length_exceeded"


async def test_a_body_that_never_arrives_is_not_waited_for() -> None:
    async with serving(body_timeout_s=0.05) as running, leaving_nothing(running):
        assert await exchange(running, body()[:-5]) == 408


async def test_a_client_that_leaves_in_the_middle_of_its_request_leaves_nothing() -> None:
    async with serving() as running, leaving_nothing(running):
        for upto in (1, 40, -5):
            connection = raw(running.address)
            connection.sendall(body()[:upto])
            connection.close()
        assert await exchange(running, body()) == 200  # by then all of them were taken up


@pytest.mark.parametrize("sent", [b"", b"GET /hea", posted(b"x" * 100, **{"content-length": MEGABYTES})])
async def test_a_connection_on_which_no_request_comes_is_given_up(sent: bytes) -> None:
    async with serving(body_timeout_s=0.2) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        writer.write(sent)
        async with asyncio.timeout(30):
            await reader.read()  # to the end
            await until(lambda: not running.server.server_state.connections)
        writer.close()


async def test_a_connection_is_kept_while_its_request_runs() -> None:
    gate = Gate()
    async with held_agent(gate, chains=1) as agent, serving(agent, body_timeout_s=0.1) as running:
        answer = asyncio.create_task(exchange(running, body()))
        await until(lambda: gate.waiting == 1)
        await asyncio.sleep(0.3)
        gate.open.set()
        assert await answer == 200


async def test_half_closed_sockets_leave_nothing() -> None:
    gate = Gate(free=10**6)
    async with held_agent(gate, chains=2) as agent, serving(agent) as running, leaving_nothing(running):
        gate.free = 0
        connections = [raw(running.address) for _ in range(4)]
        for number, connection in enumerate(connections):
            connection.sendall(body(stream=number % 2 == 0))
        await until(lambda: gate.waiting == 2 * len(connections))
        for connection in connections:
            connection.shutdown(socket.SHUT_WR)
        await nothing_left(running)
        await until(lambda: not running.server.server_state.connections)
        assert gate.waiting == 0
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_readers_that_never_read_are_cut_off_and_leave_nothing(stream: bool) -> None:
    options: Any = {"early_stop": "off", "chains": 4, "turns": 64, "events": stream}
    question = " + ".join(["1"] * 80)
    asked = body(messages=[{"role": "user", "content": question}], a1=options, stream=stream, n=1 if stream else 8)
    async with (
        A1(*sums_pair(), calibration=None, min_step_tokens=0) as agent,
        serving(agent, slow_reader_s=0.1, send_buffer=4096) as running,
        leaving_nothing(running),
    ):
        connections = [raw(running.address, receive_buffer=4096) for _ in range(3)]
        for connection in connections:
            connection.sendall(asked)
        await until(lambda: running.service.admission.running > 0)
        await nothing_left(running)
        await until(lambda: not running.server.server_state.connections)
        for connection in connections:
            connection.close()


async def test_two_hundred_streams_run_at_once_are_all_answered_and_leave_nothing() -> None:
    streams, chains = 200, 1
    gate = Gate(free=10**6)
    async with (
        held_agent(gate, chains=chains, rejection_rate=0.0) as agent,
        serving(agent, running=streams) as running,
        leaving_nothing(running),
        running.client() as client,
    ):
        gate.free = 0
        begun = await asyncio.gather(*(begin(client) for _ in range(streams)))
        await until(lambda: gate.waiting == streams * chains)  # every chain of every stream is at work
        assert (running.service.admission.running, running.service.admission.waiting) == (streams, 0)
        assert running.alive == streams * 2 * (chains + 1)  # of both models, with those that hold the prompts
        for stream in begun[::5]:  # some leave early
            await stream.aclose()
        await until(lambda: running.service.admission.running == streams * 4 // 5)
        gate.open.set()
        ends = await asyncio.gather(*(ended(stream) for number, stream in enumerate(begun) if number % 5))
    assert ends == ["stop"] * (streams * 4 // 5)


async def begin(client: openai.AsyncOpenAI) -> AsyncGenerator[Any]:
    """A stream of which the first chunk has come."""

    async def chunks() -> AsyncGenerator[Any]:
        async with await client.chat.completions.create(**ASKED, stream=True) as stream:
            async for chunk in stream:
                yield chunk

    stream = chunks()
    assert (await anext(stream)).choices[0].delta.role == "assistant"
    return stream


async def ended(stream: AsyncGenerator[Any]) -> str | None:
    return [chunk async for chunk in stream][-1].choices[0].finish_reason


async def test_requests_of_every_kind_leave_nothing() -> None:
    async with serving() as running, leaving_nothing(running):
        for _ in range(5):
            async with running.client() as client:
                await client.chat.completions.create(**ASKED)
                await client.responses.create(model="a1", input=SUM)
                stream = await client.chat.completions.create(**ASKED, stream=True)
                await anext(aiter(stream))
                await stream.close()
                with pytest.raises(openai.BadRequestError):
                    await client.chat.completions.create(**ASKED, temperature=9)


@pytest.mark.parametrize(
    "pattern",
    ["^[a-z]{1,100000}$", "^([a-z]{1,300}){1,300}$", "^(a?){1,900}$", "^(a|a)*$", f"^{'(' * 5000}a{')' * 5000}$"],
)
async def test_a_pattern_does_not_hold_up_the_server_nor_end_it(pattern: str) -> None:
    pair = A1("embedded:draft?n_ctx=1024", "embedded:target?n_ctx=1024", calibration=None, chains=2, turns=1)
    async with pair as agent, serving(agent) as running:
        schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}, "required": ["x"]}
        assert await exchange(running, formatted(schema)) in (200, 400, 422)
        assert await exchange(running, body()) == 200
