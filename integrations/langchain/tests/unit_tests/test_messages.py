"""Conversations as A1's models are shown them."""

import functools
import operator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_a1._messages import a1_messages
from tests.doubles import says


def test_messages_reach_the_template_as_they_are() -> None:
    call = {"name": "add", "args": {"a": 2}, "id": "abc", "type": "tool_call"}
    converted = a1_messages(
        [
            SystemMessage("Be brief."),
            HumanMessage([{"type": "text", "text": "Add "}, "2."], name="ada"),
            AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Yes."}], tool_calls=[call]),
            ToolMessage("2", tool_call_id="abc"),
            ChatMessage(role="user", content="Thanks."),
        ]
    )
    assert [(m.role, m.content) for m in converted] == [
        ("system", "Be brief."),
        ("user", "Add 2."),
        ("assistant", "Yes."),
        ("tool", "2"),
        ("user", "Thanks."),
    ]
    assert converted[1].extra == {"name": "ada"}
    assert converted[2].extra["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 2}}
    assert converted[3].extra == {"tool_call_id": "abc", "name": "add"}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "reasoning", "summary": []}, {"type": "text", "text": "Yes."}, {"type": "function_call", "id": "1"}],
        [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}, {"type": "tool_use", "id": "1"}],
        [{"type": "server_tool_use", "name": "search"}, {"type": "output_text", "text": "Yes."}],
        [{"reasoningContent": {"text": "hm"}}, {"text": "Yes."}],
        [{"type": "non_standard", "value": {}}, {"type": "refusal", "refusal": "Yes."}],
    ],
)
def test_what_other_models_have_said_is_shown_as_its_text(content: list[Any]) -> None:
    (converted,) = a1_messages([AIMessage(content)])
    assert converted.content == "Yes."


@pytest.mark.parametrize("version", [None, "v1"])
def test_its_own_answers_may_be_fed_back(version: str | None) -> None:
    chat = says("One.\n\nTwo.", chains=1, output_version=version)
    streamed = functools.reduce(operator.add, chat.stream("Count."))
    for message in (chat.invoke("Count."), streamed):
        (converted,) = a1_messages([message])
        assert converted.content == "One.\n\nTwo."
        assert chat.invoke([HumanMessage("Count."), message, HumanMessage("Again.")]).text == "One.\n\nTwo."


def test_a_text_document_is_text() -> None:
    document = {"type": "text-plain", "text": "The text.", "mime_type": "text/plain"}
    (converted,) = a1_messages([HumanMessage([document])])
    assert converted.content == "The text."
