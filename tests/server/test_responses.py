"""The Responses API, through the official client and a real socket."""

import json
from typing import Any

import openai
import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from a1agent import A1, RejectionStats
from a1agent.backends.scripted import ScriptedBackend
from a1agent.config import Options
from a1agent.server import ServerSettings, streaming
from a1agent.server.fields import REFUSED
from a1agent.server.responses_request import (
    CallItem,
    CallOutputItem,
    FunctionTool,
    Reasoning,
    ReasoningItem,
    ResponsesRequest,
    TextSettings,
    asked_of,
)
from tests.doubles import Fixed, Rambling, sums_pair
from tests.server.serving import SUM, Gate, held_agent, in_process, serving, until
from tests.server.test_chat import ADD, Sum, obedient

pytestmark = pytest.mark.anyio

UNSUPPORTED = "unsupported_parameter"
TOOL = {"type": "function", "name": "f", "parameters": {}}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "x"}


def format_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "name": "x", "schema": schema}


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


def test_what_an_answer_said_and_called_is_one_message_as_in_a_chat() -> None:
    def call(name: str) -> Any:
        return {"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"}

    def output(name: str) -> Any:
        return {"type": "function_call_output", "call_id": name, "output": "x"}

    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    said = {"type": "message", "role": "assistant", "content": "Let me look."}
    asked = {"role": "user", "content": "Look twice."}
    items = [asked, thought, said, call("1"), call("2"), output("1"), output("2"), call("3"), thought, call("4")]
    request = ResponsesRequest.model_validate({"model": "a1", "input": items})
    messages = asked_of(request, Options(), ServerSettings(), "").question.messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "tool", "assistant", "assistant"]
    both = messages[1]
    assert (both.content, both.extra["reasoning_content"]) == ("Let me look.", "Hm.")
    assert [[call["id"] for call in m.extra.get("tool_calls", [])] for m in messages if m.role == "assistant"] == [
        ["1", "2"],
        ["3"],
        ["4"],
    ]


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


LONG = "1 + " * 30000


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"store": True}, "store", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"tools": [{"type": "web_search", "name": "w"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "unsupported_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", "invalid_value"),
        ({"text": {"format": format_of({"type": "nothing"})}}, "text.format", "invalid_value"),
        ({"text": {"format": format_of({"pattern": "("})}}, "text.format", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tools": [TOOL]}, "tools", "invalid_value"),  # the model has no template for them
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        pytest.param({"input": LONG}, "input", "context_length_exceeded", id="a long input"),
        pytest.param({"input": LONG, "stream": True}, "input", "context_length_exceeded", id="a long input, streamed"),
        ({"n": None}, "n", "unknown_parameter"),
        ({"input": [{"role": "user", "content": "x", "output": "y"}]}, "input[0].output", "unknown_parameter"),
        ({"input": [{"role": "user", "content": "x", "output": None}]}, "input[0].output", "unknown_parameter"),
        ({"input": [CALL | {"content": "x"}]}, "input[0].content", "unknown_parameter"),
        ({"input": [CALL | {"role": "user"}]}, "input[0].role", "unknown_parameter"),
        ({"input": [CALL | {"caller": {"type": "direct"}}]}, "input[0].caller", "unsupported_parameter"),
        ({"input": [OUTPUT | {"arguments": "{}"}]}, "input[0].arguments", "unknown_parameter"),
        ({"input": [{"type": "reasoning", "output": "x"}]}, "input[0].output", "unknown_parameter"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content", UNSUPPORTED),
        ({"input": [CALL | {"arguments": "{"}]}, "input", "invalid_value"),
        ({"text": {"formats": {}}}, "text.formats", "unknown_parameter"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"a1": {"events": True}}, "a1.events", "unsupported_parameter"),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "above_limit"),
        ({"inputs": "x"}, "inputs", "unknown_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content", "invalid_value"),
        ({"input": [{"content": "x"}]}, "input[0].role", "missing_required_parameter"),
        ({"input": [5]}, "input[0]", "invalid_value"),
        (
            {"input": [{"type": "function_call_output", "output": "x"}]},
            "input[0].call_id",
            "missing_required_parameter",
        ),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "invalid_value"),
    ],
    ids=str,
)
async def test_a_field_that_cannot_be_served_is_refused_by_name(
    fields: Any, param: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_PATIENCE_S", 30)  # how busy the machine is does not matter here
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        answer = await client.post("/v1/responses", json={"model": "a1", "input": SUM} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


async def test_null_in_a_field_that_is_known_means_that_it_is_not_given() -> None:
    fields = {*ResponsesRequest.model_fields, *ResponsesRequest.unserved} - {"model", "input"}
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        asked = {"model": "a1", "input": SUM} | dict.fromkeys(fields)
        answer = await client.post("/v1/responses", json=asked)
    assert answer.status_code == 200, answer.text


async def test_every_field_of_the_client_is_served_or_refused_by_name() -> None:
    """Those of newer clients than this one too."""
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        for name in ResponseCreateParamsBase.__annotations__.keys() - ResponsesRequest.model_fields.keys():
            answer = await client.post("/v1/responses", json={"model": "a1", "input": SUM, name: {"x": "y"}})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_every_field_that_is_not_served_has_a_reason() -> None:
    for kind in (ResponsesRequest, FunctionTool, Reasoning, TextSettings, CallItem, CallOutputItem, ReasoningItem):
        assert kind.unserved <= REFUSED.keys() and not kind.unserved & kind.model_fields.keys()


async def test_a_stream_shows_each_step_when_it_stands_not_when_all_is_done() -> None:
    gate = Gate()
    extra: Any = {"a1": {"chains": 1, "rejection_rate": 0.0, "lookahead": "off"}}
    async with held_agent(gate) as agent, serving(agent) as running, running.client() as client:
        stream = await client.responses.create(model="a1", input=SUM, stream=True, extra_body=extra)
        for step in ("1 + 2 = ", " + 3 = "):
            await until(lambda: gate.waiting == 1)
            gate.let_one_pass()
            async for event in stream:  # while the gate holds the next step back
                if event.type == "response.reasoning_text.delta":
                    assert step in event.delta
                    break
        await until(lambda: gate.waiting == 1)
        gate.open.set()
        rest = [event async for event in stream]
    assert rest[-1].type == "response.completed"


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
