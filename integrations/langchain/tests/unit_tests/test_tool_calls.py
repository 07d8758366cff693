"""Tools: bound, called, malformed, and voted on."""

import functools
import json
import operator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, field_validator

from langchain_a1 import ChatA1
from langchain_a1._requests import tool_choice_name
from langchain_a1._schemas import openai_tool
from tests.doubles import says


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def said(message: Any) -> AIMessage:
    assert isinstance(message, AIMessage)
    return message


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


def both_ways(chat: Any) -> list[AIMessage]:
    """What a model says to "Add.", at once and streamed."""
    return [said(chat.invoke("Add.")), functools.reduce(operator.add, chat.stream("Add."))]


def test_in_version_1_a_call_is_one_block_streamed_or_not() -> None:
    chat = says("I add.\n\n" + call(a=2, b=3), chains=1, output_version="v1").bind_tools([add])
    for message in both_ways(chat):
        assert [block["type"] for block in message.content_blocks] == ["reasoning", "text", "tool_call"]
        assert [c["args"] for c in message.tool_calls] == [{"a": 2, "b": 3}]


def test_in_version_1_a_malformed_call_is_none_streamed_or_not() -> None:
    chat = says('<tool_call>{"name": "add", "arguments": {"a": 2', chains=1, output_version="v1").bind_tools([add])
    for message in both_ways(chat):
        assert message.tool_calls == []
        assert [c["name"] for c in message.invalid_tool_calls] == ["add"]
        assert "tool_call" not in {block["type"] for block in message.content_blocks}


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
        ({"type": "any"}, "required"),
        ({"type": "auto"}, "auto"),
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


def test_tools_and_formats_may_be_given_with_a_call_as_langchain_knows_them(obedient: ChatA1) -> None:
    asked = obedient.invoke("add 2 and 3", tools=[add])
    assert [c["args"] for c in said(asked).tool_calls] == [{"a": 2, "b": 3}]
    told = obedient.bind(response_format=Joke).invoke("One that gets 3 laughs.")
    assert Joke.model_validate_json(told.text).laughs == 3


def test_without_parallel_calls_an_answer_calls_one_tool() -> None:
    both = f"{call(a=2, b=3)}\n{call(a=4, b=5)}"
    assert len(said(says(both).bind_tools([add]).invoke("Add.")).tool_calls) == 2
    alone = says(both).bind_tools([add], parallel_tool_calls=False)
    assert [c["args"] for c in said(alone.invoke("Add.")).tool_calls] == [{"a": 2, "b": 3}]


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


class Polite(Joke):
    """A joke that offends nobody."""

    @field_validator("setup")
    @classmethod
    def _is_polite(cls, setup: str) -> str:
        if "fool" in setup:
            raise ValueError("too rude")
        return setup


FUNNY, SAD = {"setup": "a", "laughs": 3}, {"setup": "a", "laughs": "many"}
RUDE = {"setup": "A fool...", "laughs": 3}
METHODS: Any = ["json_schema", "function_calling", "json_mode"]


def joke(arguments: dict[str, Any], method: str) -> str:
    """What a model writes to answer with these arguments."""
    if method != "function_calling":
        return json.dumps(arguments)
    return f"<tool_call>{json.dumps({'name': 'Joke', 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize("method", METHODS)
def test_chains_that_do_not_validate_do_not_vote(method: Any) -> None:
    texts = (*[joke(SAD, method)] * 3, joke(FUNNY, method))
    chat = says(*texts, chains=32, early_stop="off")
    found = chat.with_structured_output(Joke, method=method, include_raw=True).invoke("Tell one.")
    assert found["parsed"] == Joke(setup="a", laughs=3)
    assert 0 < found["raw"].response_metadata["confidence"] < 0.5  # the others are the more


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()])
def test_when_none_validates_the_error_carries_the_raw_text(method: Any, schema: Any) -> None:
    chat = says(joke(SAD, method), chains=3)
    with pytest.raises(OutputParserException, match="'many' is not of type 'integer'") as caught:
        chat.with_structured_output(schema, method=method).invoke("Tell one.")
    assert '"laughs": "many"' in str(caught.value.llm_output)
    found = chat.with_structured_output(schema, method=method, include_raw=True).invoke("Tell one.")
    assert (found["parsed"], type(found["parsing_error"])) == (None, OutputParserException)
    usage, stats = found["raw"].usage_metadata, found["raw"].response_metadata["a1"]
    assert usage["output_tokens"] == stats["drafted_tokens"] + stats["target_tokens"] > 0
    assert usage["input_tokens"] == stats["prompt_tokens"] + stats["scored_tokens"] > 0


class Node(BaseModel):
    """A node of a tree."""

    number: int
    below: list["Node"] = []


class Tree(BaseModel):
    """A tree."""

    root: Node


@tool
def plant(root: Node) -> str:
    """Plants a tree."""
    return f"planted {root.number}"


def tree(number: Any) -> dict[str, Any]:
    return {"root": {"number": 1, "below": [{"number": 2, "below": [{"number": number}]}]}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [Tree, Tree.model_json_schema()])
def test_a_schema_that_refers_to_itself_is_kept_to_at_every_depth(method: Any, schema: Any) -> None:
    good, bad = (joke(tree(number), method).replace("Joke", "Tree") for number in (3, "three"))
    chat = says(bad, bad, bad, good, chains=16, early_stop="off")
    found = chat.with_structured_output(schema, method=method).invoke("Plant one.")
    assert (found.model_dump(exclude_unset=True) if isinstance(found, BaseModel) else found) == tree(3)


def test_where_a_whole_schema_is_a_reference_the_tool_has_what_it_refers_to() -> None:
    bad, good = ({"number": 1, "below": [{"number": number}]} for number in ("two", 2))
    chat = says(*(joke(each, "function_calling").replace("Joke", "Node") for each in (bad, bad, good)), chains=16)
    for schema in (Node, Node.model_json_schema()):
        found = chat.with_structured_output(schema, method="function_calling").invoke("Plant one.")
        assert (found.model_dump(exclude_unset=True) if isinstance(found, BaseModel) else found) == good


@pytest.mark.parametrize("given", [Tree, plant, plant.func])
def test_tools_show_what_refers_to_itself(given: Any) -> None:
    function = openai_tool(given)["function"]
    assert function["name"] == ("Tree" if given is Tree else "plant")
    assert function["parameters"]["properties"]["root"] == {"$ref": "#/$defs/Node"}
    below = function["parameters"]["$defs"]["Node"]["properties"]["below"]
    assert below["items"] == {"$ref": "#/$defs/Node"}
    assert openai_tool(given, strict=True)["function"]["parameters"]["$defs"]["Node"]["additionalProperties"] is False


def test_the_usage_of_an_invalid_answer_counts_what_a_limit_cut_off() -> None:
    chat = says("Nobody knows. " * 40, chains=1, rejection_rate=1.0, step_tokens=9, takeover_tokens=9)
    raw = chat.with_structured_output(Joke, method="json_schema", include_raw=True).invoke("Tell one.")["raw"]
    stats = raw.response_metadata["a1"]
    assert stats["observed_rate"] == 1  # the target wrote all that the draft wrote, and both were cut alike
    assert raw.usage_metadata["output_tokens"] == 2 * stats["drafted_tokens"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_what_a_model_s_own_validators_refuse_is_an_error_with_the_raw_text(method: Any) -> None:
    chat = says(joke(RUDE, method).replace("Joke", "Polite"), chains=2)
    with pytest.raises(OutputParserException, match="too rude") as caught:
        chat.with_structured_output(Polite, method=method).invoke("Tell one.")
    assert json.loads(str(caught.value.llm_output)) == RUDE
    found = chat.with_structured_output(Polite, method=method, include_raw=True).invoke("Tell one.")
    assert found["parsed"] is None
    assert "too rude" in str(found["parsing_error"])


@pytest.mark.parametrize("method", METHODS)
def test_a_schema_may_be_written_in_every_way_that_langchain_knows(method: Any) -> None:
    plain = {k: v for k, v in Joke.model_json_schema().items() if k not in ("title", "description")}
    named = {"name": "Joke", "description": "A joke."}
    function = {**named, "parameters": plain}
    written = [
        plain,
        {"title": "Joke", **plain},
        {"name": "Joke", "schema": plain, "strict": True},
        function,
        {"type": "function", "function": function},
        {**named, "input_schema": plain},
    ]
    for schema in written:
        text = joke(FUNNY, method) if schema is not plain else joke(FUNNY, method).replace("Joke", "answer")
        assert says(text).with_structured_output(schema, method=method).invoke("Tell one.") == FUNNY
        wrong = says(joke(SAD, method)).with_structured_output(schema, method=method)
        with pytest.raises(OutputParserException):
            wrong.invoke("Tell one.")


def test_json_mode_without_a_schema_takes_any_object() -> None:
    assert says('{"a": [1]}').with_structured_output(method="json_mode").invoke("Some.") == {"a": [1]}
    with pytest.raises(ValueError, match="there is no schema"):
        ChatA1().with_structured_output()


def test_structured_output_is_tried_again_and_handed_on_by_langchain_s_own_means() -> None:
    chat, another = says("No joke.", chains=2), says(json.dumps(FUNNY))
    asked: list[Any] = []

    class Handler(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            asked.append(1)

    telling = chat.with_structured_output(Joke).with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    with pytest.raises(OutputParserException):
        telling.invoke("Tell one.", config={"callbacks": [Handler()]})
    assert len(asked) == 3
    safe = telling.with_fallbacks([another.with_structured_output(Joke)])
    assert safe.invoke("Tell one.") == Joke(setup="a", laughs=3)


def test_structured_output_is_the_vote_of_those_that_validate() -> None:
    chat = says('{"setup": "a", "laughs": 3}', '{"setup": "a", "laughs": "many"}', chains=8)
    assert chat.with_structured_output(Joke).invoke("Tell one.") == Joke(setup="a", laughs=3)
    assert chat.with_structured_output(Joke.model_json_schema()).invoke("Tell one.") == {"setup": "a", "laughs": 3}


def test_a_stream_without_a_valid_answer_is_an_error_too() -> None:
    with pytest.raises(OutputParserException, match="no chain gave an answer in the asked format"):
        list(says(json.dumps(SAD), chains=3).with_structured_output(Joke).stream("Tell one."))


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
