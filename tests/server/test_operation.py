"""A server under load, and with clients that leave: nothing is lost, nothing goes on for nobody."""

import asyncio
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from a1agent import A1, embedded
from a1agent.backends.scripted import ScriptedBackend, Sums
from a1agent.server import Keys, create_app
from a1agent.server.admission import Admission
from a1agent.server.errors import ApiError
from tests.doubles import NeverReads
from tests.server.serving import KEY, SUM, Gate, body, held_agent, nothing_left, raw, serving, until

pytestmark = pytest.mark.anyio

OTHER = "another-key-of-somebody"
ASKED: Any = {"model": "a1", "messages": [{"role": "user", "content": SUM}]}


async def test_requests_beyond_the_queue_are_told_when_to_come_again() -> None:
    gate = Gate()
    async with (
        held_agent(gate, chains=1) as agent,
        serving(agent, running=1, waiting=1) as running,
        running.client() as client,
    ):
        first = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: running.service.admission.running == 1)
        second = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: running.service.admission.waiting == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ASKED)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        gate.open.set()
        answers = await asyncio.gather(first, second)
    assert all(answer.choices[0].finish_reason == "stop" for answer in answers)


async def test_a_request_that_waited_too_long_is_sent_away() -> None:
    gate = Gate()
    async with held_agent(gate, chains=1) as agent, serving(agent, running=1) as running, running.client() as client:
        first = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: running.service.admission.running == 1)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ASKED, extra_body={"a1": {"timeout_s": 0.01}})
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert running.service.admission.waiting == 0
        gate.open.set()
        await first


async def test_a_deadline_returns_the_best_answer_so_far() -> None:
    gate = Gate()
    async with held_agent(gate, chains=1) as agent, serving(agent) as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, extra_body={"a1": {"timeout_s": 0.2}})
        await nothing_left(running)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].model_extra["a1"]["complete"] is False


async def test_a_time_too_short_to_begin_in_is_told_as_such_and_not_tried_again() -> None:
    agent = A1(ScriptedBackend(Sums(), service=NeverReads()), "scripted:sums", calibration=None, min_step_tokens=0)
    async with agent, serving(agent) as running, running.client() as client:
        with pytest.raises(openai.InternalServerError, match="raise timeout_s") as caught:
            await client.chat.completions.create(**ASKED, extra_body={"a1": {"timeout_s": 0.01}})
    assert (caught.value.status_code, caught.value.code) == (504, "timed_out")
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_the_queue_is_served_in_order_and_gives_back_every_place() -> None:
    queue, order = Admission(2, 10), list[int]()

    async def one(number: int) -> None:
        await queue.enter("", 60)
        order.append(number)
        queue.leave(0.1)

    await queue.enter("", 60)
    await queue.enter("", 60)
    tasks = [asyncio.create_task(one(number)) for number in range(6)]
    await until(lambda: queue.waiting == 6)
    tasks[2].cancel()
    await until(lambda: queue.waiting == 5)
    queue.leave(0.1)
    queue.leave(0.1)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 1, 3, 4, 5]
    assert (queue.running, queue.waiting) == (0, 0)
    for _ in range(2):
        await queue.enter("", 0.001)
    with pytest.raises(ApiError):
        await queue.enter("", 0.001)


async def in_line(queue: Admission, *keys: str) -> tuple[list[asyncio.Task[None]], list[str]]:
    """A request of each key in the queue, one after the other; each that is let in writes its key down and leaves."""
    order = list[str]()

    async def one(key: str) -> None:
        await queue.enter(key, 60)
        order.append(key)
        queue.leave(0.1)

    tasks: list[asyncio.Task[None]] = []
    for key in keys:
        before = queue.waiting
        tasks.append(asyncio.create_task(one(key)))
        await until(lambda before=before, task=tasks[-1]: queue.waiting > before or task.done())
    return tasks, order


async def test_keys_that_wait_take_turns() -> None:
    queue = Admission(1, 10, keys=3)
    await queue.enter("ann", 60)
    tasks, order = await in_line(queue, "ann", "ann", "ann", "bob", "bob", "cid")
    queue.leave(0.1)
    await asyncio.gather(*tasks)
    assert order == ["ann", "bob", "cid", "ann", "bob", "ann"]
    assert (queue.running, queue.waiting) == (0, 0)


async def test_a_key_that_fills_the_queue_leaves_others_their_share() -> None:
    queue = Admission(1, 4, keys=2)
    await queue.enter("ann", 60)
    tasks, order = await in_line(queue, *["ann"] * 5, *["bob"] * 3)
    told = [isinstance(task.exception(), ApiError) if task.done() else False for task in tasks]
    assert told == [False] * 4 + [True] + [False] * 2 + [True]
    tasks[5].cancel()
    await until(lambda: queue.waiting == 5)
    queue.leave(0.1)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["ann", "bob", "ann", "ann", "ann"]
    assert (queue.running, queue.waiting) == (0, 0)


async def test_a_place_given_to_a_request_that_is_cancelled_goes_to_the_next() -> None:
    queue = Admission(1, 4)
    await queue.enter("", 60)
    tasks, order = await in_line(queue, "", "")
    queue.leave(0.1)
    tasks[0].cancel()  # the place is its own by now, and it does not know yet
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (order, tasks[0].cancelled()) == ([""], True)
    assert (queue.running, queue.waiting) == (0, 0)


async def test_one_key_cannot_keep_another_waiting_for_all_of_its_requests() -> None:
    gate, keys = Gate(), {"ann": KEY, "bob": OTHER}
    async with (
        held_agent(gate, chains=1) as agent,
        serving(agent, running=1, waiting=2, keys=Keys(keys)) as running,
        running.client(KEY) as ann,
        running.client(OTHER) as bob,
    ):
        ended: list[str] = []

        async def ask(name: str, client: openai.AsyncOpenAI, waiting: int) -> asyncio.Task[None]:
            async def one() -> None:
                await client.chat.completions.create(**ASKED)
                ended.append(name)

            task = asyncio.create_task(one())
            await until(lambda: (running.service.admission.running, running.service.admission.waiting) == (1, waiting))
            return task

        tasks = [await ask("ann", ann, waiting) for waiting in range(3)]
        with pytest.raises(openai.RateLimitError):
            await ann.chat.completions.create(**ASKED)
        tasks.append(await ask("bob", bob, 3))
        gate.open.set()
        await asyncio.gather(*tasks)
    assert ended.index("bob") < 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_takes_its_chains_with_it(stream: bool) -> None:
    gate = Gate()
    async with held_agent(gate, chains=4) as agent, serving(agent) as running:
        connection = raw(running.address)
        connection.sendall(body(stream=stream))
        await until(lambda: gate.waiting == 4)
        connection.close()
        await nothing_left(running)
        assert gate.waiting == 0


async def test_no_forward_begins_for_a_client_that_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp")
    from a1agent.backends.batching.sequence import BatchedSequence
    from a1agent.backends.llama_runner import LlamaRunner

    call, forward = BatchedSequence._call, LlamaRunner.forward
    calls, forwards, chains = 0, 0, 4
    held, go = threading.Event(), threading.Event()

    async def counted(sequence: BatchedSequence, task: Any) -> Any:
        nonlocal calls
        calls += 1
        try:
            return await call(sequence, task)
        finally:
            calls -= 1

    def holding(runner: LlamaRunner, rows: Any) -> None:
        nonlocal forwards
        forwards += 1
        if calls == chains and not held.is_set():  # in the midst of a step that every chain waits for
            held.set()
            assert go.wait(30)
        forward(runner, rows)

    monkeypatch.setattr(BatchedSequence, "_call", counted)
    monkeypatch.setattr(LlamaRunner, "forward", holding)
    async with (
        A1("embedded:draft?n_ctx=2048", "embedded:target?n_ctx=2048", calibration=None, early_stop="off") as agent,
        serving(agent) as running,
    ):
        connection = raw(running.address)
        connection.sendall(body(stream=True, a1={"chains": chains}))
        await until(held.is_set)
        before = forwards
        connection.close()
        await until(lambda: calls == 0)
        go.set()
        await nothing_left(running)
        assert forwards == before


async def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    gate = Gate()
    async with held_agent(gate, chains=1) as agent, serving(agent, running=1) as running, running.client() as client:
        first = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: running.service.admission.running == 1)
        connection = raw(running.address)
        connection.sendall(body())
        await until(lambda: running.service.admission.waiting == 1)
        connection.close()
        await until(lambda: running.service.admission.waiting == 0)
        gate.open.set()
        await first


async def test_closing_a_stream_of_the_official_client_cancels_the_chains() -> None:
    gate = Gate()
    async with held_agent(gate) as agent, serving(agent) as running, running.client() as client:
        stream = await client.chat.completions.create(**ASKED, stream=True)
        await until(lambda: gate.waiting > 0)
        await stream.close()
        await nothing_left(running)


async def test_a_stream_is_kept_alive_while_nothing_happens() -> None:
    gate = Gate()
    async with (
        held_agent(gate, chains=1) as agent,
        serving(agent, keep_alive_s=0.01) as running,
        running.http() as client,
        client.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        async for line in lines:
            if line.startswith(": keep-alive"):
                gate.open.set()
                break
        rest = [line async for line in lines]
    assert [line for line in rest if line.startswith("data: ")][-1] == "data: [DONE]"


async def test_requests_that_run_together_share_the_forwards_of_the_models() -> None:
    pytest.importorskip("llama_cpp")
    asked = ASKED | {"seed": 7}
    extra: Any = {"a1": {"chains": 2, "early_stop": "off"}}
    together = 4
    async with (
        A1("embedded:draft?n_ctx=4096", "embedded:target?n_ctx=4096", calibration=None) as agent,
        serving(agent, running=together) as running,
        running.client() as client,
    ):
        loaded, queue = await agent.pair.load(), running.service.admission

        async def forwards(requests: int) -> int:
            """Of both models, for requests that all begin at the same moment."""
            before = loaded.draft.counters.forwards + loaded.target.counters.forwards
            for _ in range(together):
                await queue.enter("", 60)
            ask = client.chat.completions.create
            tasks = [asyncio.create_task(ask(**asked, extra_body=extra)) for _ in range(requests)]
            await until(lambda: queue.waiting == requests)
            for _ in range(together):
                queue.leave(0.1)
            await asyncio.gather(*tasks)
            return loaded.draft.counters.forwards + loaded.target.counters.forwards - before

        alone = await forwards(1)
        assert await forwards(together) < together / 2 * alone


async def test_ready_means_that_the_models_are_loaded() -> None:
    async with serving() as running, running.http() as client:
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert (await client.get("/healthz")).status_code == 200
        running.service.drain()
        assert (await client.get("/readyz")).status_code == 503


async def test_models_that_do_not_load_are_told_by_readyz_and_by_every_answer() -> None:
    agent = A1("llama-cpp:/nowhere.gguf", "scripted:sums", calibration=None)
    app = create_app(agent)
    await app.state.service.load()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client:
        assert (await client.get("/readyz")).json() == {"status": "the models do not load"}
        answer = await client.post("/v1/chat/completions", json=ASKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    await agent.aclose()


async def test_models_that_a_later_request_loads_are_ready(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    agent = A1(f"llama-cpp:{model}?n_ctx=512", "scripted:sums", calibration=None, chains=1)
    app = create_app(agent)
    service = app.state.service
    await service.load()
    assert service.problem == "the models do not load"
    shutil.copyfile(embedded.path("draft"), model)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client:
        assert (await client.post("/v1/chat/completions", json=ASKED)).status_code == 200
        assert (await client.get("/readyz")).json() == {"status": "ready"}
    await agent.aclose()


async def test_a_request_does_not_wait_for_models_beyond_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agent = A1(f"vllm:http://127.0.0.1:{silent.getsockname()[1]}?retries=0", "scripted:sums", calibration=None)
        app = create_app(agent)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client:
            answer = await client.post("/v1/chat/completions", json=ASKED | {"a1": {"timeout_s": 0.05}})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
            assert int(answer.headers["retry-after"]) >= 1
            assert app.state.service.admission.running == 0
    await agent.aclose()  # the silent server is gone: the load ends


async def test_each_key_has_a_calibration_of_its_own() -> None:
    async with serving(keys=Keys({"ann": KEY, "bob": OTHER})) as running:
        sizes: dict[str, list[int]] = {}
        for key in (KEY, KEY, OTHER):
            async with running.client(key) as client:
                answer = await client.chat.completions.create(**ASKED, extra_body={"a1": {"early_stop": "off"}})
                sizes.setdefault(key, []).append(answer.model_extra["a1"]["calibration_size"])
    assert sizes[KEY][1] > sizes[KEY][0]  # goes on where it was
    assert sizes[OTHER][0] == pytest.approx(sizes[KEY][0], abs=4)  # begins at the beginning
