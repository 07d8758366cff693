"""Chat completions, through the official client and a real socket."""

import json
import random
import re
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import BaseModel

from a1agent import A1, RejectionStats
from a1agent.backends.scripted import ScriptedBackend, load
from a1agent.server import streaming
from a1agent.server.chat_request import ChatMessage, ChatRequest
from a1agent.server.fields import REFUSED
from tests.doubles import Failing, Fixed, Rambling, sums_pair
from tests.server.serving import SUM, Gate, held_agent, in_process, serving, until

pytestmark = pytest.mark.anyio

ASKED: Any = {"model": "a1", "messages": [{"role": "user", "content": SUM}]}


def tool(name: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


PART = {"type": "text", "text": "x"}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def obedient() -> A1:
    model = load("obedient", accuracy=1.0)
    return A1(model, model, calibration=None, seed=3)


NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
ADD: Any = tool("add", NUMBERS, strict=True, description="Adds two numbers.")


class Sum(BaseModel):
    total: int


async def test_a_question_is_answered_with_usage_and_statistics() -> None:
    async with serving() as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED)
    choice = answer.choices[0]
    assert choice.message.content is not None and choice.message.content.endswith("\\boxed{10}.")
    assert choice.finish_reason == "stop"
    stats = RejectionStats.model_validate(answer.model_extra["a1"])
    assert stats.chains_started == 8
    assert answer.usage is not None
    usage = answer.usage.model_extra["a1"]
    assert answer.usage.prompt_tokens == sum(usage[m]["prompt_tokens"] + usage[m]["scored_tokens"] for m in usage)
    assert answer.usage.completion_tokens == stats.drafted_tokens + stats.target_tokens


async def test_n_answers_come_from_calls_of_their_own() -> None:
    async with serving() as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.model_extra["a1"]["chains_started"] == 24
    steps = answer.model_extra["a1"]["verifications"]
    assert sum(answer.model_extra["a1"]["p_value_histogram"]) == steps


async def test_options_reach_the_call() -> None:
    extra = {"a1": {"chains": 2, "rejection_rate": 1.0, "early_stop": "off"}}
    async with serving() as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, extra_body=extra)
        stopped = await client.chat.completions.create(**ASKED, stop=["The answer"])
        short = await client.chat.completions.create(**ASKED, max_completion_tokens=4)
    stats = answer.model_extra["a1"]
    assert (stats["chains_started"], stats["asked_rate"], stats["observed_rate"]) == (2, 1.0, 1.0)
    assert "The answer" not in (stopped.choices[0].message.content or "")
    assert short.choices[0].finish_reason == "length"


async def test_a_request_may_have_fewer_steps_verified_and_drafts_written_ahead() -> None:
    told: dict[str, list[str]] = {}
    async with (
        A1(*sums_pair(jitter=3), calibration=None, min_step_tokens=0) as agent,
        serving(agent) as running,
        running.client() as client,
    ):
        for name, value in (("lookahead", "off"), ("lookahead", "on"), ("verify_rate", 0.0)):
            extra: Any = {"a1": {name: value, "early_stop": "off", "events": True, "rejection_rate": 0.5}}
            stream = await client.chat.completions.create(**ASKED, stream=True, seed=1, extra_body=extra)
            told[f"{name}={value}"] = [chunk.model_extra.get("a1", {}).get("event") async for chunk in stream]
    assert [("StepDropped" in events, "StepVerified" in events) for events in told.values()] == [
        (False, True),
        (True, True),
        (False, False),
    ]


@pytest.mark.parametrize(
    ("effort", "chains", "rate"),
    [("none", 1, 0.2), ("low", 4, 0.2), ("medium", 8, 0.3), ("high", 16, 0.4), ("xhigh", 32, 0.4)],
)
async def test_effort_scales_the_operators_chains_and_rate(effort: Any, chains: int, rate: float) -> None:
    async with serving() as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, reasoning_effort=effort)
        own: Any = {"a1": {"rejection_rate": 0.5}}
        chosen = await client.chat.completions.create(**ASKED, reasoning_effort=effort, extra_body=own)
    stats = answer.model_extra["a1"]
    assert (stats["chains_started"], stats["asked_rate"]) == (chains, rate)
    assert chosen.model_extra["a1"]["asked_rate"] == 0.5


async def test_effort_and_n_stay_within_the_cap_on_chains() -> None:
    async with serving(max_chains=10) as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, n=2, reasoning_effort="high")
    assert answer.model_extra["a1"]["chains_started"] == 10


async def test_caps_below_the_operators_own_options_bound_them_and_refuse_nobody() -> None:
    caps: Any = {"max_tokens": 20, "max_chains": 2, "max_turns": 2}
    async with serving(**caps) as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED)
    stats = answer.model_extra["a1"]
    assert stats["chains_started"] == 2
    assert stats["drafted_tokens"] <= 2 * (20 + 20)  # a chain, and the answer that it is made to state


async def test_a_whole_conversation_is_read() -> None:
    messages: Any = [
        {"role": "developer", "content": "Add."},
        {"role": "user", "content": [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1"}]},
        {"role": "assistant", "content": "2", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "20 + 22", "name": "ann"},
    ]
    async with serving() as running, running.client() as client:
        answer = await client.chat.completions.create(model="a1", messages=messages)
        again = [*messages, answer.choices[0].message, {"role": "user", "content": "1 + 1"}]
        second = await client.chat.completions.create(model="a1", messages=again)
    assert answer.choices[0].model_extra["a1"]["answer"] == "42"
    assert second.choices[0].model_extra["a1"]["answer"] == "2"


async def test_values_that_change_nothing_are_let_through() -> None:
    async with serving() as running, running.client() as client:
        answer = await client.chat.completions.create(
            **ASKED,
            frequency_penalty=0,
            presence_penalty=0.0,
            logprobs=False,
            store=False,
            service_tier="auto",
            response_format={"type": "text"},
            user="someone",
        )
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"frequency_penalty": 1}, "frequency_penalty", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "f f"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [tool("f", {"type": "nothing"})]}, "tools", "invalid_value"),
        ({"tools": [tool("f", {}), tool("f", {})]}, "tools", "invalid_value"),
        ({"tools": [tool("f", {})], "tool_choice": "fly"}, "tool_choice", "invalid_value"),
        ({"tools": [tool("f", {})], "tool_choice": named("g")}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"temperatur": None}, "temperatur", "unknown_parameter"),
        ({"Temperature": 1}, "Temperature", "unknown_parameter"),
        ({"a1": {"chans": None}}, "a1.chans", "unknown_parameter"),
        ({"a1": {"store": False}}, "a1.store", "unsupported_parameter"),
        ({"previous_response_id": None}, "previous_response_id", "unsupported_parameter"),
        ({"prompt_cache_key": "x"}, "prompt_cache_key", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "x", "tone": None}]}, "messages[0].tone", "unknown_parameter"),
        ({"messages": [{"role": "user", "content": [PART | {"tone": 1}]}]}, "messages[0].content", "invalid_value"),
        ({"tools": [tool("f", {}, tone=None)]}, "tools[0].function.tone", "unknown_parameter"),
        ({"tools": [tool("f", {"properties": {"x": {"pattern": "("}}})]}, "tools", "invalid_value"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        ({"response_format": json_schema({"$ref": "http://192.0.2.1/x"})}, "response_format", "invalid_value"),
        ({"response_format": json_schema({"pattern": "("})}, "response_format", "invalid_value"),
        ({"temperatur": 1}, "temperatur", "unknown_parameter"),
        ({"a1": {"chans": 2}}, "a1.chans", "unknown_parameter"),
        ({"a1": {"draft": "llama-cpp:/etc/passwd"}}, "a1.draft", "unknown_parameter"),
        ({"a1": {"calibration": "/tmp/x"}}, "a1.calibration", "unknown_parameter"),
        ({"a1": {"calibrator": "static"}}, "a1.calibrator", "unknown_parameter"),
        ({"a1": {"rejection_rate": 2.0}}, "a1.rejection_rate", "invalid_value"),
        ({"a1": {"chains": 65}}, "a1.chains", "above_limit"),
        ({"n": 9}, "n", "above_limit"),
        ({"max_tokens": 10**6}, "max_tokens", "above_limit"),
        ({"a1": {"timeout_s": 1e9}}, "a1.timeout_s", "above_limit"),
        ({"a1": {"step_tokens": 10**9}}, "a1.step_tokens", "above_limit"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": list("abcde")}, "stop", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "invalid_value"),
    ],
    ids=str,
)
async def test_a_field_that_cannot_be_served_is_refused_by_name(fields: Any, param: str, code: str) -> None:
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        answer = await client.post("/v1/chat/completions", json=ASKED | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"


async def test_null_in_a_field_that_is_known_means_that_it_is_not_given() -> None:
    fields = {*ChatRequest.model_fields, *ChatRequest.unserved} - set(ASKED)
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        answer = await client.post("/v1/chat/completions", json=ASKED | dict.fromkeys(fields))
    assert answer.status_code == 200, answer.text


async def test_every_field_of_the_client_is_served_or_refused_by_name() -> None:
    """Those of newer clients than this one too."""
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        for name in CompletionCreateParamsBase.__annotations__.keys() - ChatRequest.model_fields.keys():
            answer = await client.post("/v1/chat/completions", json=ASKED | {name: {"x": "y"}})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_every_field_that_is_not_served_has_a_reason() -> None:
    for kind in (ChatRequest, ChatMessage):
        assert kind.unserved <= REFUSED.keys() and not kind.unserved & kind.model_fields.keys()


async def test_a_refusal_reaches_the_official_client_as_its_own_error() -> None:
    async with serving() as running, running.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**ASKED, frequency_penalty=1)
    assert (caught.value.param, caught.value.code) == ("frequency_penalty", "unsupported_parameter")


async def test_an_unknown_model_is_not_found() -> None:
    async with serving(name="sums") as running, running.client() as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(**ASKED)
        assert [model.id async for model in client.models.list()] == ["sums"]
        assert (await client.models.retrieve("sums")).owned_by == "a1agent"
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_beyond_the_context_is_refused(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_PATIENCE_S", 30)  # how busy the machine is does not matter here
    messages: Any = [{"role": "user", "content": "1 + " * 30000}]
    async with serving() as running, running.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="a1", messages=messages, stream=stream)
    assert caught.value.code == "context_length_exceeded"


async def test_a_model_that_fails_is_an_error_of_the_server() -> None:
    agent = A1(ScriptedBackend(Failing(10**6)), sums_pair()[1], calibration=None, min_step_tokens=0)
    async with agent, serving(agent) as running, running.client() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ASKED)
    assert caught.value.status_code == 500 and caught.value.type == "server_error"


async def test_a_stream_thinks_aloud_and_ends_with_usage_and_statistics() -> None:
    async with serving() as running, running.client() as client:
        stream = await client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    kinds = ["content" if d.content else "reasoning" for d in deltas[1:-1]]
    assert kinds == sorted(kinds, reverse=True) and "reasoning" in kinds
    assert "".join(d.content or "" for d in deltas).endswith("\\boxed{10}.")
    finish = [c.choices[0] for c in chunks if c.choices and c.choices[0].finish_reason]
    assert [choice.finish_reason for choice in finish] == ["stop"]
    last = chunks[-1]
    assert last.choices == [] and last.usage is not None
    stats = RejectionStats.model_validate(last.model_extra["a1"])
    assert last.usage.completion_tokens == stats.drafted_tokens + stats.target_tokens


async def test_a_stream_without_usage_ends_with_its_finish_reason_and_the_statistics() -> None:
    async with serving() as running, running.client() as client:
        stream = await client.chat.completions.create(**ASKED, stream=True, n=2)
        chunks = [chunk async for chunk in stream]
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].model_extra["a1"]["chains_started"] == 16
    assert {c.choices[0].index for c in chunks if c.choices[0].finish_reason} == {0, 1}


async def test_a_stream_shows_each_step_when_it_stands_not_when_all_is_done() -> None:
    gate = Gate()
    extra: Any = {"a1": {"chains": 1, "rejection_rate": 0.0, "lookahead": "off"}}
    async with held_agent(gate) as agent, serving(agent) as running, running.client() as client:
        stream = await client.chat.completions.create(**ASKED, stream=True, extra_body=extra)
        first = await anext(aiter(stream))
        assert first.choices[0].delta.role == "assistant"  # before any step was drafted
        for step in ("1 + 2 = ", " + 3 = "):
            await until(lambda: gate.waiting == 1)
            gate.let_one_pass()
            thought = await anext(aiter(stream))  # while the gate holds the next step back
            assert step in thought.choices[0].delta.model_extra["reasoning_content"]
        await until(lambda: gate.waiting == 1)
        gate.open.set()
        rest = [chunk async for chunk in stream]
    assert rest[-1].choices[0].finish_reason == "stop"


async def test_every_event_is_streamed_when_it_is_asked_for() -> None:
    async with serving() as running, running.client() as client:
        stream = await client.chat.completions.create(**ASKED, stream=True, extra_body={"a1": {"events": True}})
        chunks = [chunk async for chunk in stream]
    events = [chunk.model_extra["a1"] for chunk in chunks if "event" in (chunk.model_extra or {}).get("a1", {})]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "QuestionOpened" and kinds.count("ChainFinished") == kinds.count("ChainStarted") == 8
    verified = next(event for event in events if event["event"] == "StepVerified")
    assert 0 <= verified["verdict"]["p_value"] <= 1


async def test_an_error_in_the_middle_of_a_stream_is_told_in_it() -> None:
    gate = Gate()
    async with held_agent(gate) as agent, serving(agent) as running, running.client() as client:
        stream = await client.chat.completions.create(**ASKED, stream=True)
        await until(lambda: gate.waiting > 0)
        for backend in (agent.pair.loaded.draft, agent.pair.loaded.target):  # type: ignore[union-attr]
            await backend.aclose()
        gate.open.set()
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "model_unavailable"


async def test_thinking_stands_apart_from_the_message() -> None:
    text = "<think>Let me see.</think>\n\nForty-two."
    backend = ScriptedBackend(Fixed(text))
    async with (
        A1(backend, backend, calibration=None, min_step_tokens=0) as agent,
        serving(agent) as running,
        running.client() as client,
    ):
        answer = await client.chat.completions.create(**ASKED)
    message = answer.choices[0].message
    assert (message.content, message.model_extra["reasoning_content"]) == ("Forty-two.", "Let me see.")


async def test_a_limit_that_cuts_an_answer_short_is_told() -> None:
    backend = ScriptedBackend(Rambling())
    async with (
        A1(backend, backend, calibration=None, turns=2) as agent,
        serving(agent) as running,
        running.client() as client,
    ):
        answer = await client.chat.completions.create(**ASKED)
    assert answer.choices[0].finish_reason == "length"


async def test_the_same_seed_gives_the_same_answer_and_a_negative_one_is_fine() -> None:
    async with serving() as running, running.client() as client:
        answers = [await client.chat.completions.create(**ASKED, seed=-7, temperature=1.0) for _ in range(2)]
    assert len({answer.choices[0].message.content for answer in answers}) == 1


async def test_tools_are_called_and_what_they_say_is_read() -> None:
    messages: Any = [{"role": "user", "content": "Please add 17 and 25"}]
    async with obedient() as agent, serving(agent) as running, running.client() as client:
        first = await client.chat.completions.create(model="a1", messages=messages, tools=[ADD])
        choice = first.choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function" and call.function.name == "add"
        assert json.loads(call.function.arguments) == {"a": 17, "b": 25}
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "42"}]
        second = await client.chat.completions.create(model="a1", messages=messages, tools=[ADD])
    assert second.choices[0].finish_reason == "stop"
    assert "42" in (second.choices[0].message.content or "")


async def test_an_answer_calls_one_tool_at_most_where_the_client_wants_it_so() -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    model = ScriptedBackend(Fixed(f"{call}\n{call}"), template=load("obedient").template)
    messages: Any = [{"role": "user", "content": "Add 1 and 2, twice"}]
    async with A1(model, model, calibration=None) as agent, serving(agent) as running, running.client() as client:
        counts = []
        for parallel in (True, False):
            answer = await client.chat.completions.create(
                model="a1", messages=messages, tools=[ADD], parallel_tool_calls=parallel
            )
            counts.append(len(answer.choices[0].message.tool_calls or []))
    assert counts == [2, 1]


@dataclass(frozen=True)
class Sloppy:
    """Calls a tool with arguments that do not match more often than with some that do."""

    right: int

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        arguments = rng.choice(['{"a": "one"}'] * 3 + ['{"a": 1, "b": 2}'] * self.right)
        return "" if text else f'<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call>'

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


@pytest.mark.parametrize("stream", [False, True])
async def test_chains_that_break_the_schema_of_a_strict_tool_do_not_vote(stream: bool) -> None:
    model = ScriptedBackend(Sloppy(right=1), template=load("obedient").template)
    never = ScriptedBackend(Sloppy(right=0), template=load("obedient").template)
    asked: Any = {"model": "a1", "messages": [{"role": "user", "content": "Add 1 and 2"}], "tools": [ADD], "seed": 1}
    async with A1(model, model, calibration=None, chains=16) as agent, serving(agent) as running:
        async with running.client() as client:
            if stream:
                async with client.chat.completions.stream(**asked) as events:
                    answer: Any = await events.get_final_completion()
            else:
                answer = await client.chat.completions.create(**asked)
        (call,) = answer.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"a": 1, "b": 2}
    async with A1(never, never, calibration=None) as agent, serving(agent) as running, running.client() as client:
        with pytest.raises(openai.APIError) as caught:
            async for _ in await client.chat.completions.create(**asked, stream=True):
                pass
    assert caught.value.code == "invalid_answer"


async def test_a_stream_ends_with_its_tool_calls() -> None:
    messages: Any = [{"role": "user", "content": "Please add 17 and 25"}]
    async with (
        obedient() as agent,
        serving(agent) as running,
        running.client() as client,
        client.chat.completions.stream(model="a1", messages=messages, tools=[ADD], tool_choice="required") as stream,
    ):
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"a": 17, "b": 25}
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("question", "choice", "called"),
    [
        ("Please add 17 and 25", "auto", ["add"]),
        ("Please add 17 and 25", "none", []),
        ("Good day", "auto", []),
        ("Good day", "required", ["add"]),
        ("Please add 17 and 25", "required", ["add"]),
        ("Please add 17 and 25", named("multiply"), ["multiply"]),
    ],
    ids=["auto", "none", "auto-words", "required-words", "required", "named"],
)
async def test_the_choice_of_a_tool_is_kept(question: str, choice: Any, called: list[str], stream: bool) -> None:
    multiply = tool("multiply", NUMBERS, strict=True)
    asked: Any = {"messages": [{"role": "user", "content": question}], "tools": [ADD, multiply], "tool_choice": choice}
    async with obedient() as agent, serving(agent) as running, running.client() as client:
        if stream:
            async with client.chat.completions.stream(model="a1", **asked) as events:
                answer: Any = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(model="a1", **asked)
    first = answer.choices[0]
    assert [call.function.name for call in first.message.tool_calls or []] == called
    assert first.finish_reason == ("tool_calls" if called else "stop")
    assert called or "You said" in (first.message.content or "")


async def test_an_answer_in_a_format_is_json_and_nothing_else() -> None:
    messages: Any = [{"role": "user", "content": "The total is 42"}]
    async with obedient() as agent, serving(agent) as running, running.client() as client:
        parsed = await client.chat.completions.parse(model="a1", messages=messages, response_format=Sum)
        plain = await client.chat.completions.create(
            model="a1", messages=messages, response_format={"type": "json_object"}
        )
    assert parsed.choices[0].message.parsed == Sum(total=42)
    assert isinstance(json.loads(plain.choices[0].message.content or ""), dict)


async def test_an_answer_in_a_format_keeps_to_its_patterns() -> None:
    code = {"type": "string", "pattern": r"^\d{3}-(?:\d{2}|X)$"}
    asked = json_schema({"type": "object", "properties": {"code": code}, "required": ["code"]})
    pair = A1("embedded:draft?n_ctx=1024", "embedded:target?n_ctx=1024", calibration=None, chains=2, turns=2)
    async with pair as agent, serving(agent) as running, running.client() as client:
        answer = await client.chat.completions.create(**ASKED, response_format=asked)  # type: ignore[arg-type]
    assert re.fullmatch(code["pattern"], json.loads(answer.choices[0].message.content or "")["code"])


async def test_a_format_that_no_chain_keeps_to_is_an_error_that_clients_do_not_repeat() -> None:
    async with serving() as running, running.client() as client:
        with pytest.raises(openai.UnprocessableEntityError, match="no chain gave an answer in the asked") as caught:
            await client.chat.completions.create(**ASKED, response_format=json_schema({"required": ["x"]}))  # type: ignore[arg-type]
    assert caught.value.code == "invalid_answer"


async def test_tools_for_a_model_without_a_template_for_them_are_refused() -> None:
    async with serving() as running, running.client() as client:
        with pytest.raises(openai.BadRequestError, match="no template for tools") as caught:
            await client.chat.completions.create(**ASKED, tools=[ADD])
    assert caught.value.param == "tools"
