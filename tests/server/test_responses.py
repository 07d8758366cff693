"""The Responses API, through the official client and a real socket."""

import json
from typing import Any

import openai
import pytest

from a1agent import A1, RejectionStats
from a1agent.backends.scripted import ScriptedBackend
from tests.doubles import Fixed, Rambling, sums_pair
from tests.server.serving import SUM, Gate, held_agent, in_process, serving, until
from tests.server.test_chat import ADD, Sum, obedient

pytestmark = pytest.mark.anyio


async def test_a_text_is_answered_with_usage_and_statistics() -> None:
    async with serving() as running, running.client() as client:
        answer = await client.responses.create(model="a1", input=SUM, instructions="Add.", store=False)
    assert answer.status == "completed" and answer.output_text.endswith("\\boxed{10}.")
    assert answer.instructions == "Add."
    stats = RejectionStats.model_validate(answer.model_extra["a1"])
    assert answer.usage is not None
    assert answer.usage.output_tokens == stats.drafted_tokens + stats.target_tokens
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens


async def test_an_answer_goes_into_the_next_question_as_it_came() -> None:
    backend = ScriptedBackend(Fixed("<think>Let me see.</think>\n\nForty-two."))
    asked: list[Any] = [{"role": "user", "content": "2 * 21?"}]
    async with A1(backend, backend, calibration=None) as agent, serving(agent) as running, running.client() as client:
        first = await client.responses.create(model="a1", input=asked)
        assert [item.type for item in first.output] == ["reasoning", "message"]
        asked += [item.model_dump(exclude_none=True) for item in first.output]
        asked += [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sure?"}]}]
        second = await client.responses.create(model="a1", input=asked)
    assert second.output_text == "Forty-two."


async def test_a_stream_tells_the_whole_story_in_order() -> None:
    async with serving() as running, running.client() as client:
        stream = await client.responses.create(model="a1", input=SUM, stream=True)
        events: list[Any] = [event async for event in stream]
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    response = events[-1].response
    assert [item.type for item in response.output] == ["reasoning", "message"]
    thought = "".join(e.delta for e in events if e.type == "response.reasoning_text.delta")
    assert response.output[0].content[0].text == thought
    assert response.model_extra["a1"]["chains_started"] == 8


async def test_the_clients_own_accumulator_takes_the_stream() -> None:
    async with (
        serving() as running,
        running.client() as client,
        client.responses.stream(model="a1", input=SUM) as stream,
    ):
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert final.output_text.endswith("\\boxed{10}.")


async def test_a_limit_that_cuts_an_answer_short_is_told() -> None:
    backend = ScriptedBackend(Rambling())
    async with (
        A1(backend, backend, calibration=None, turns=2) as agent,
        serving(agent) as running,
        running.client() as client,
    ):
        answer = await client.responses.create(model="a1", input="Go on.", max_output_tokens=100)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None and answer.incomplete_details.reason == "max_output_tokens"


async def test_an_error_in_the_middle_of_a_stream_is_told_in_it() -> None:
    gate = Gate()
    async with held_agent(gate) as agent, serving(agent) as running, running.client() as client:
        stream = await client.responses.create(model="a1", input=SUM, stream=True)
        await until(lambda: gate.waiting > 0)
        await agent.pair.loaded.target.aclose()  # type: ignore[union-attr]
        gate.open.set()
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "model_unavailable"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"store": True}, "store", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"tools": [{"type": "web_search", "name": "w"}]}, "tools[0].type", "invalid_value"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "unsupported_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "response_format", "invalid_value"),
        ({"text": {"formats": {}}}, "text.formats", "unknown_parameter"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"a1": {"events": True}}, "a1.events", "unsupported_parameter"),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "above_limit"),
        ({"inputs": "x"}, "inputs", "unknown_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content", "invalid_value"),
        ({"input": [{"content": "x"}]}, "input[0]", "invalid_value"),
        ({"input": [{"type": "function_call_output"}]}, "input[0]", "invalid_value"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "invalid_value"),
    ],
    ids=str,
)
async def test_a_field_that_cannot_be_served_is_refused_by_name(fields: Any, param: str, code: str) -> None:
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        answer = await client.post("/v1/responses", json={"model": "a1", "input": SUM} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_what_they_say_is_read(stream: bool) -> None:
    asked: list[Any] = [{"role": "user", "content": "Please add 17 and 25"}]
    tools: Any = [{"type": "function", "name": "add", "parameters": ADD["function"]["parameters"], "strict": True}]
    async with obedient() as agent, serving(agent) as running, running.client() as client:
        if stream:
            async with client.responses.stream(model="a1", input=asked, tools=tools) as events:
                first: Any = await events.get_final_response()
        else:
            first = await client.responses.create(model="a1", input=asked, tools=tools)
        call = next(item for item in first.output if item.type == "function_call")
        assert (call.name, json.loads(call.arguments)) == ("add", {"a": 17, "b": 25})
        asked += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in first.output]
        asked += [{"type": "function_call_output", "call_id": call.call_id, "output": "42"}]
        second = await client.responses.create(model="a1", input=asked, tools=tools)
    assert "42" in second.output_text


async def test_an_answer_in_a_format_is_json_and_nothing_else() -> None:
    async with obedient() as agent, serving(agent) as running, running.client() as client:
        parsed = await client.responses.parse(model="a1", input="The total is 42", text_format=Sum)
    assert parsed.output_parsed == Sum(total=42)
