"""Agents: A1 as their model, as their tool, and as a middleware beside another model."""

from typing import Any

import pytest
from a1agent import A1, RejectionStats
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_a1 import A1Middleware, A1Tool, ChatA1
from tests.doubles import alive, says


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@tool
def multiply(a: int, b: int) -> int:
    """Multiplies two numbers."""
    return a * b


@tool
def describe(number: int) -> str:
    """Says what a number is like."""
    return f"{number} is {'even' if number % 2 == 0 else 'odd'}"


TASK = "add 2 and 3, then multiply that by 4, then describe the number"


class Other(GenericFakeChatModel):
    """A model of somebody else, that says what it is given and takes tools."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def other(*texts: str) -> Other:
    return Other(messages=iter([AIMessage(text) for text in texts]))


def run(agent: Any, text: str, **config: Any) -> dict[str, Any]:
    return agent.invoke({"messages": [HumanMessage(text)]}, **config)


def test_an_agent_solves_a_task_with_three_tools(obedient: ChatA1) -> None:
    agent = create_agent(obedient, [add, multiply, describe])
    messages = run(agent, TASK)["messages"]
    assert [m.content for m in messages if isinstance(m, ToolMessage)] == ["5", "20", "20 is even"]
    assert messages[-1].text.endswith("The tools say: 20 is even")
    assert all("a1" in m.response_metadata for m in messages if isinstance(m, AIMessage))


async def test_an_agent_solves_it_asynchronously_and_streams_its_messages(obedient: ChatA1) -> None:
    agent = create_agent(obedient, [add, multiply, describe])
    parts = [part async for part, _ in agent.astream({"messages": [HumanMessage(TASK)]}, stream_mode="messages")]
    assert any(part.additional_kwargs.get("reasoning_content") for part in parts)
    assert [part.content for part in parts if isinstance(part, ToolMessage)] == ["5", "20", "20 is even"]


def test_a_wrong_call_of_a_few_chains_is_outvoted() -> None:
    models: Any = {"draft": "scripted:obedient?accuracy=0.8", "target": "scripted:obedient", "rejection_rate": 0.0}
    chat = ChatA1(**models, chains=48, vote="majority", early_stop="off", seed=1, calibration=None)
    messages = run(create_agent(chat, [add, multiply, describe]), TASK)["messages"]
    assert messages[-1].text.endswith("20 is even")
    confidences = [m.response_metadata["confidence"] for m in messages if isinstance(m, AIMessage) and m.tool_calls]
    assert min(confidences) < 1


def test_an_agent_gives_a_structured_response(obedient: ChatA1) -> None:
    class Sum(BaseModel):
        """A sum."""

        result: int

    agent = create_agent(obedient, [add], response_format=Sum)
    found = run(agent, "add 2 and 3")
    assert isinstance(found["structured_response"], Sum)
    assert [m.content for m in found["messages"] if isinstance(m, ToolMessage)] == ["5"]


def test_the_tool_answers_with_its_statistics_as_artifact() -> None:
    chat = ChatA1(chains=4, seed=1, calibration=None)
    call = {"name": "reason", "args": {"question": "What is 47 * 28?"}, "id": "1", "type": "tool_call"}
    message = A1Tool(chat=chat).invoke(call)
    assert isinstance(message, ToolMessage)
    artifact = message.artifact
    assert message.content == f"{artifact['answer']}\n(confidence {artifact['confidence']:.2f})"
    assert RejectionStats.model_validate(artifact["stats"]).chains_started == 4


async def test_the_tool_answers_asynchronously() -> None:
    chat = ChatA1(draft="scripted:sums", target="scripted:sums", calibration=None)
    assert (await A1Tool(chat=chat).ainvoke({"question": "1 + 2"})).startswith("3\n")


def test_a_question_without_a_stated_answer_is_answered_in_words() -> None:
    assert A1Tool(chat=says("It depends.")).invoke({"question": "Is it?"}) == "It depends."


def test_what_the_tool_cannot_answer_is_a_tool_exception() -> None:
    with pytest.raises(ToolException, match="the question is empty"):
        A1Tool(chat=says("x")).invoke({"question": " "})


def test_the_middleware_takes_every_turn_and_keeps_count(obedient: ChatA1) -> None:
    agent = create_agent(other(), [add, multiply, describe], middleware=[A1Middleware(obedient)])
    found = run(agent, TASK)
    totals = found["a1"]
    answers = [m for m in found["messages"] if isinstance(m, AIMessage)]
    assert found["messages"][-1].text.endswith("20 is even")
    assert totals["calls"] == len(answers) == 4
    assert totals["passed_on"] == totals["escalations"] == 0
    for name in ("verifications", "rejections", "kept_tokens", "target_tokens"):
        assert totals[name] == sum(m.response_metadata["a1"][name] for m in answers)
    assert totals["disagreement"] == 0


def test_a_predicate_says_which_turns_go_to_a1(obedient: ChatA1) -> None:
    middleware = A1Middleware(obedient, when=lambda request: "hard" in request.messages[-1].text)
    agent = create_agent(other("Easy."), [], middleware=[middleware], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    assert run(agent, "A simple one.", config=thread)["messages"][-1].text == "Easy."
    assert "hard" in run(agent, "A hard one.", config=thread)["messages"][-1].text
    totals = agent.get_state(thread).values["a1"]
    assert (totals["calls"], totals["passed_on"]) == (1, 1)


def test_a_budget_holds_within_a_run_and_is_whole_in_the_next(obedient: ChatA1) -> None:
    middleware = A1Middleware(obedient, budget=1)
    agent = create_agent(
        other("Enough.", "Enough again."), [add], middleware=[middleware], checkpointer=InMemorySaver()
    )
    thread: Any = {"configurable": {"thread_id": "1"}}
    first = run(agent, "add 2 and 3", config=thread)
    assert first["messages"][-1].text == "Enough."
    assert (first["a1"]["calls"], first["a1"]["passed_on"]) == (1, 1)
    second = run(agent, "add 4 and 5", config=thread)
    assert (second["a1"]["calls"], second["a1"]["passed_on"]) == (2, 2)


async def test_a_split_vote_escalates_to_the_agent_s_own_model() -> None:
    split = says("The answer is 1.", "The answer is 2.", "The answer is 3.", chains=12, early_stop="off")
    agent = create_agent(other("It is 4."), [], middleware=[A1Middleware(split, escalate_below=0.9)])
    found = await agent.ainvoke({"messages": [HumanMessage("Which?")]})
    assert found["messages"][-1].text == "It is 4."
    assert (found["a1"]["calls"], found["a1"]["escalations"]) == (1, 1)
    assert 0 < found["a1"]["disagreement"] < 1
    assert found["a1"]["kept_tokens"] > 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_failing_a1_escalates_only_where_that_was_asked_for(asynchronous: bool) -> None:
    class Answer(BaseModel):
        """An answer."""

        number: int

    async def ask(**options: Any) -> dict[str, Any]:
        middleware = [A1Middleware(says("No JSON."), **options)]
        own = other('{"number": 4}')
        agent = create_agent(own, [], middleware=middleware, response_format=ProviderStrategy(Answer))
        question: Any = {"messages": [HumanMessage("Which?")]}
        return await agent.ainvoke(question) if asynchronous else agent.invoke(question)

    with pytest.raises(OutputParserException):
        await ask()
    found = await ask(escalate_below=0.1)
    assert found["structured_response"] == Answer(number=4)
    assert (found["a1"]["calls"], found["a1"]["escalations"], found["a1"]["disagreement"]) == (1, 1, 1.0)


@pytest.mark.parametrize("options", [{"budget": -1}, {"escalate_below": 2}])
def test_impossible_settings_of_the_middleware_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it is"):
        A1Middleware(ChatA1(), **options)


def test_an_agent_leaves_no_sequence_behind() -> None:
    chat = says("The answer is 1.", chains=3)
    run(create_agent(other(), [], middleware=[A1Middleware(chat)]), "Which?")
    assert alive(chat) == 0


def test_an_agent_can_read_how_hard_its_question_was() -> None:
    with A1(calibration=None, seed=1, chains=4) as a1:
        expected = a1.solve("What is 47 * 28?").stats
    message = ChatA1(calibration=None, seed=1, chains=4).invoke("What is 47 * 28?")
    seen = RejectionStats.model_validate(message.response_metadata["a1"])
    assert seen.asked_rate == expected.asked_rate
    assert seen.chains_started == 4
