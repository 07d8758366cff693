"""Tools: bound, called, malformed, and voted on."""

import functools
import json
import operator
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_a1 import ChatA1
from langchain_a1._requests import tool_choice_name
from tests.doubles import says


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def call(**arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'add', 'arguments': arguments})}\n</tool_call>"


def test_the_agreement_on_a_call_is_its_confidence() -> None:
    chat = says(call(a=2, b=3), call(b=3, a=2), call(a=2, b=3), call(a=2, b=4), chains=16, early_stop="off")
    message = chat.bind_tools([add]).invoke("Add 2 and 3.")
    assert isinstance(message, AIMessage)
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("add", {"a": 2, "b": 3})]
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert 0.5 < message.response_metadata["confidence"] < 1
    assert add.invoke(message.tool_calls[0]).content == "5"


def test_calls_come_whole_in_a_stream_too() -> None:
    chunks = list(says("I add.\n\n" + call(a=2, b=3), chains=2).bind_tools([add]).stream("Add."))
    assert chunks[0].additional_kwargs["reasoning_content"] == "I add.\n\n"
    assert [c["args"] for c in chunks[-1].tool_calls] == [{"a": 2, "b": 3}]
    assert not any("<tool_call>" in str(chunk.additional_kwargs) + str(chunk.content) for chunk in chunks)


def test_malformed_calls_are_reported_as_such() -> None:
    broken = '<tool_call>{"name": "add", "arguments": {"a": 2'
    chat = says(broken, chains=2).bind_tools([add])
    message = chat.invoke("Add.")
    assert isinstance(message, AIMessage)
    assert message.tool_calls == []
    assert [(c["name"], c["error"]) for c in message.invalid_tool_calls] == [("add", "it is not JSON")]
    streamed = functools.reduce(operator.add, chat.stream("Add."))
    assert streamed.tool_calls == []
    assert [c["name"] for c in streamed.invalid_tool_calls] == ["add"]


def test_the_text_of_a_malformed_call_is_shown_to_the_model_again() -> None:
    chat = ChatA1(draft="scripted:obedient", target="scripted:obedient", calibration=None)
    past = AIMessage(
        "", invalid_tool_calls=[{"name": "x", "args": '{"a', "id": "1", "error": "no", "type": "invalid_tool_call"}]
    )
    assert chat.invoke([HumanMessage("Hi."), past, HumanMessage("Again.")]).text.endswith("You said: Again.")


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (None, "auto"),
        (False, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("any", "required"),
        (True, "required"),
        ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"type": "tool", "name": "add"}, "add"),
    ],
)
def test_a_tool_choice_is_read_in_every_spelling(choice: Any, name: str) -> None:
    assert tool_choice_name(choice) == name


def test_a_tool_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="the name of a tool"):
        ChatA1().bind_tools([add], tool_choice={"type": "any thing"})


def test_a_call_that_must_come_and_does_not_is_an_error_with_the_text() -> None:
    chat = says("No.").bind_tools([add], tool_choice="any")
    with pytest.raises(OutputParserException, match="no chain called a tool") as caught:
        chat.invoke("Add.")
    assert str(caught.value.llm_output).startswith("No.")


def test_tool_messages_take_the_name_of_their_call(obedient: ChatA1) -> None:
    messages = [
        HumanMessage("Please add 2 and 3."),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 2, "b": 3}, "id": "x", "type": "tool_call"}]),
        ToolMessage("5", tool_call_id="x"),
    ]
    assert obedient.bind_tools([add]).invoke(messages).text.endswith("The tools say: 5")


class Joke(BaseModel):
    """A joke."""

    setup: str
    laughs: int


def test_structured_output_is_the_vote_of_those_that_validate() -> None:
    chat = says('{"setup": "a", "laughs": 3}', '{"setup": "a", "laughs": "many"}', chains=8)
    assert chat.with_structured_output(Joke).invoke("Tell one.") == Joke(setup="a", laughs=3)
    assert chat.with_structured_output(Joke.model_json_schema()).invoke("Tell one.") == {"setup": "a", "laughs": 3}


def test_no_valid_answer_is_an_error_with_the_raw_text() -> None:
    chat = says('{"setup": "a", "laughs": "many"}', chains=3)
    with pytest.raises(OutputParserException, match="no chain gave an answer in the asked format") as caught:
        chat.with_structured_output(Joke).invoke("Tell one.")
    assert str(caught.value.llm_output).startswith('{"setup"')
    with pytest.raises(OutputParserException):
        list(chat.with_structured_output(Joke).stream("Tell one."))


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()])
@pytest.mark.parametrize("streamed", [False, True])
def test_with_the_raw_message_the_error_is_beside_it(schema: Any, streamed: bool) -> None:
    chat = says('{"setup": "a", "laughs": "many"}', chains=3).with_structured_output(schema, include_raw=True)
    if streamed:
        found: dict[str, Any] = {}
        for part in chat.stream("Tell one."):
            found.update(part)
    else:
        found = chat.invoke("Tell one.")
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)
    assert found["raw"].response_metadata["a1"]["chains_finished"] == 3


def test_with_the_raw_message_a_call_that_does_not_come_is_beside_it_too() -> None:
    chat = says("No joke.", chains=2).with_structured_output(Joke, method="function_calling", include_raw=True)
    found = chat.invoke("Tell one.")
    assert found["parsed"] is None
    assert "no chain called a tool" in str(found["parsing_error"])
    assert found["raw"].content.startswith("No joke.")


def test_the_raw_message_comes_with_a_valid_answer_too(obedient: ChatA1) -> None:
    found = obedient.with_structured_output(Joke, include_raw=True).invoke("Tell one that gets 3 laughs.")
    assert found["parsed"].laughs == 3
    assert found["parsing_error"] is None
    assert json.loads(found["raw"].content)["laughs"] == 3


def test_the_models_that_ship_are_held_to_a_schema(embedded: ChatA1) -> None:
    class Sum(BaseModel):
        """A sum."""

        result: int

    answer = embedded.with_structured_output(Sum).invoke("What is 47 * 28?")
    assert isinstance(answer, Sum)


@pytest.mark.parametrize(
    ("schema", "told"),
    [({"type": "number of things"}, "no JSON schema"), ({"$ref": "#/$defs/x"}, "does not hold")],
)
def test_a_schema_that_is_none_is_refused_when_it_is_given(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ChatA1().with_structured_output(schema)


def test_an_unknown_option_of_structured_output_is_refused() -> None:
    with pytest.raises(ValueError, match="include_rw"):
        ChatA1().with_structured_output(Joke, include_rw=True)
