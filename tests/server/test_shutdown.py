"""The end of a server: requests finish or are cancelled within the limit, streams end in a form that clients read."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

import openai
import pytest
from sse_starlette.sse import AppStatus

from a1agent import A1, Question
from a1agent.server.errors import CHAT_NAMES, ApiError
from a1agent.server.jobs import Asked, Job
from tests.doubles import sums_pair
from tests.server.serving import SUM, Gate, held_agent, nothing_left, serving, until

pytestmark = pytest.mark.anyio

ASKED: Any = {"model": "a1", "messages": [{"role": "user", "content": SUM}]}


async def test_shutdown_lets_running_requests_finish_and_sends_waiting_ones_away() -> None:
    gate = Gate()
    async with held_agent(gate, chains=1) as agent, serving(agent, running=1) as running, running.client() as client:
        first = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: gate.waiting == 1)
        second = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: running.service.admission.waiting == 1)
        running.server.should_exit = True
        with pytest.raises(openai.InternalServerError) as caught:
            await second
        assert caught.value.code == "shutting_down"
        assert running.service.problem == "shutting down"
        gate.open.set()
        assert (await first).choices[0].finish_reason == "stop"


async def test_a_call_that_is_cut_off_before_it_began_is_told_so_and_gives_its_place_back() -> None:
    ended: list[Job] = []
    async with A1(*sums_pair(), calibration=None) as agent:
        asked = Asked(question=Question.of(SUM), options=agent.options, n=1, tenant="", names=CHAT_NAMES)
        job = Job(agent, asked, lambda event: None, ended.append, admitted=0.0)
        job.cancel(ApiError(503, "the server shut down", code="shutting_down"))
        async with asyncio.timeout(10):
            with pytest.raises(ApiError, match="shut down"):
                await job.finish()
    assert ended == [job]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_stream_that_ends_within_the_limit_ends_as_ever(path: str) -> None:
    gate = Gate()
    asked = {**ASKED, "input": SUM, "stream": True}
    del asked["messages" if path == "/v1/responses" else "input"]
    async with (
        held_agent(gate, chains=1) as agent,
        serving(agent) as running,
        running.http() as client,
        client.stream("POST", path, json=asked) as answer,
    ):
        await until(lambda: gate.waiting == 1)
        running.server.should_exit = True
        await until(lambda: running.service.admission.closed)
        gate.open.set()
        told = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: {")]
    if path == "/v1/responses":
        assert told[-1]["type"] == "response.completed"
    else:
        assert told[-1]["choices"][0]["finish_reason"] == "stop" and told[-1]["a1"]["chains_finished"] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_shutdown_cancels_what_does_not_finish_in_time(stream: bool) -> None:
    gate = Gate()
    async with held_agent(gate, chains=1) as agent, serving(agent, grace_s=0) as running, running.client() as client:

        async def ask() -> None:
            answer: Any = await client.chat.completions.create(**ASKED, stream=stream)
            if stream:
                async for _ in answer:
                    pass

        first = asyncio.create_task(ask())
        await until(lambda: gate.waiting == 1)
        running.server.should_exit = True
        with pytest.raises(openai.APIError) as caught:
            await first
        assert caught.value.code == "shutting_down"
        await nothing_left(running)


async def test_a_stream_that_is_cut_short_says_so_and_ends_its_body() -> None:
    gate = Gate()
    async with (
        held_agent(gate, chains=1) as agent,
        serving(agent, grace_s=0) as running,
        running.http() as client,
        client.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as answer,
    ):
        await until(lambda: gate.waiting == 1)
        running.server.should_exit = True
        lines = [line async for line in answer.aiter_lines() if line]  # raises where the last chunk is missing
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last["error"]["code"] == "shutting_down"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
async def test_a_signal_to_one_server_of_a_process_leaves_the_streams_of_another_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AppStatus, "should_exit", False)  # a flag of the whole process, which the signal sets
    gates = Gate(), Gate()
    async with (
        held_agent(gates[0], chains=1) as one,
        held_agent(gates[1], chains=1) as other,
        serving(one, grace_s=0, keep_alive_s=0.2) as staying,
        staying.client() as client,
        staying.http() as http,
    ):
        before = await client.chat.completions.create(**ASKED, stream=True)
        async with serving(other, grace_s=0) as ending, ending.client() as cut:
            theirs = await cut.chat.completions.create(**ASKED, stream=True)
            await until(lambda: gates[0].waiting == gates[1].waiting == 1)
            os.kill(os.getpid(), signal.SIGTERM)  # goes to the server that began last
            with pytest.raises(openai.APIError):
                async for _ in theirs:
                    pass
            await until(lambda: not ending.server.server_state.connections)
        async with http.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as after:
            lines = (line async for line in after.aiter_lines() if line)
            for _ in range(8):  # as long as the other's end could still reach it
                while not (await anext(lines)).startswith(": keep-alive"):
                    pass
            gates[0].open.set()
            assert [line async for line in lines][-1] == "data: [DONE]"
        assert [chunk async for chunk in before][-1].choices[0].finish_reason == "stop"
