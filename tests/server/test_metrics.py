"""Prometheus metrics: each moves with what it counts."""

import asyncio
from typing import Any

import openai
import pytest

from a1agent import A1
from a1agent.server import Keys, ServerSettings, create_app
from tests.doubles import sums_pair
from tests.server.serving import KEY, SUM, Gate, Running, held_agent, in_process, serving, until

pytestmark = pytest.mark.anyio

ASKED: Any = {"model": "a1", "messages": [{"role": "user", "content": SUM}]}
CHAT = "/v1/chat/completions"


def numbers(text: str) -> dict[str, float]:
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def metrics(running: Running, key: str = KEY) -> dict[str, float]:
    async with running.http(headers={"authorization": f"Bearer {key}"}) as http:
        return numbers((await http.get("/metrics")).text)


async def test_metrics_count_requests_tokens_and_rates() -> None:
    async with serving(keys=Keys({"ann": KEY})) as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, extra_body={"a1": {"rejection_rate": 0.5}})
        stream = await client.chat.completions.create(**ASKED, stream=True)
        chunks = [chunk async for chunk in stream]
        told = await metrics(running)
    stats = [answer.model_extra["a1"], chunks[-1].model_extra["a1"]]
    assert told['a1_requests_total{key="ann",route="/v1/chat/completions",status="200"}'] == 2
    assert told['a1_request_seconds_count{route="/v1/chat/completions"}'] == 2
    assert told["a1_verifications_total"] == sum(s["verifications"] for s in stats)
    assert told["a1_rejections_total"] == sum(s["rejections"] for s in stats)
    assert told["a1_asked_rejections_total"] == pytest.approx(sum(s["asked_rate"] * s["verifications"] for s in stats))
    assert told["a1_p_value_count"] == sum(s["verifications"] for s in stats)
    for tenth in range(1, 10):
        below = sum(sum(s["p_value_histogram"][:tenth]) for s in stats)
        assert told[f'a1_p_value_bucket{{le="{tenth / 10}"}}'] == below
    assert told["a1_first_byte_seconds_count"] == 1
    assert told["a1_requests_running"] == 0 and told['a1_sequences_alive{model="draft"}'] == 0


async def test_metrics_count_the_tokens_of_each_model() -> None:
    async with serving() as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, extra_body={"a1": {"rejection_rate": 0.5}})
        told = await metrics(running)
    assert answer.usage is not None
    for model, used in answer.usage.model_extra["a1"].items():
        for kind in ("prompt", "cached", "scored", "output"):
            assert told[f'a1_tokens_total{{kind="{kind}",model="{model}"}}'] == used[f"{kind}_tokens"]
    written = {model: told[f'a1_tokens_total{{kind="output",model="{model}"}}'] for model in ("draft", "target")}
    assert min(written.values()) > 0


async def test_the_queue_and_the_sequences_are_told_while_requests_run() -> None:
    gate = Gate()
    async with (
        held_agent(gate, chains=3) as agent,
        serving(agent, running=1, waiting=1) as running,
        running.client() as client,
    ):
        first = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: gate.waiting == 3)
        second = asyncio.create_task(client.chat.completions.create(**ASKED))
        await until(lambda: running.service.admission.waiting == 1)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**ASKED)
        held = await metrics(running)
        gate.open.set()
        await asyncio.gather(first, second)
        after = await metrics(running)
    assert (held["a1_requests_running"], held["a1_requests_waiting"]) == (1, 1)
    assert held['a1_requests_total{key="",route="/v1/chat/completions",status="429"}'] == 1
    assert held['a1_sequences_alive{model="draft"}'] == 3 + 1  # a sequence a chain, and the prompt
    assert held['a1_sequences_alive{model="target"}'] == 3 + 1
    assert (after["a1_requests_running"], after["a1_requests_waiting"]) == (0, 0)
    assert after['a1_sequences_alive{model="target"}'] == 0


async def test_the_time_to_the_first_byte_begins_with_admission(monkeypatch: pytest.MonkeyPatch) -> None:
    now, loaded = 100.0, asyncio.Event()
    async with A1(*sums_pair(), calibration=None) as agent:
        load, waiting = agent.load, asyncio.Event()

        async def held() -> None:
            waiting.set()
            await loaded.wait()
            await load()

        monkeypatch.setattr(agent, "load", held)
        app = create_app(agent, ServerSettings(running=1))
        service = app.state.service
        service.clock = lambda: now
        await service.admission.enter("", 60)  # somebody else is running
        async with in_process(agent, app) as client:
            asked = asyncio.create_task(client.post(CHAT, json=ASKED | {"stream": True}))
            await until(lambda: service.admission.waiting == 1)
            now = 103.0  # three seconds in the queue, which do not count
            service.admission.leave(0.1)
            await waiting.wait()  # it was admitted, and waits for the models
            now = 110.0  # seven seconds for the models, which do
            loaded.set()
            await asked
            told = numbers((await client.get("/metrics")).text)
    assert (told["a1_first_byte_seconds_count"], told["a1_first_byte_seconds_sum"]) == (1, 7)


async def test_metrics_tell_how_full_the_caches_of_models_in_process_are() -> None:
    pytest.importorskip("llama_cpp")
    async with (
        A1("embedded:draft?n_ctx=1024", "scripted:sums", calibration=None) as agent,
        serving(agent) as running,
        running.client() as client,
    ):
        before = await metrics(running)
        await client.chat.completions.create(**ASKED, extra_body={"a1": {"chains": 2, "turns": 2}})
        told = await metrics(running)
    name = 'a1_kv_cells_used{model="draft"}'
    assert before[name] < told[name] < told['a1_kv_cells{model="draft"}']
    assert 'a1_kv_cells{model="target"}' not in told  # a model without a cache here has no share of one
