"""Agents: A1 as their model, as their tool, and as a middleware beside another model."""

from typing import Any

import pytest
from a1agent import A1, InvalidOption, InvalidQuestion, RejectionStats
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware, ModelRetryMiddleware
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel, PrivateAttr

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


def test_the_tool_may_give_the_agent_s_answer_itself(obedient: ChatA1) -> None:
    reason = A1Tool(chat=ChatA1(draft="scripted:sums", target="scripted:sums", calibration=None), return_direct=True)
    messages = run(create_agent(obedient, [reason]), "Use reason on '1 + 2'")["messages"]
    assert isinstance(messages[-1], ToolMessage)
    assert messages[-1].text.startswith("3\n")
    assert messages[-1].artifact["stats"]["chains_started"] == 8


def test_what_the_tool_cannot_answer_is_a_tool_exception() -> None:
    with pytest.raises(ToolException, match="the question is empty"):
        A1Tool(chat=says("x")).invoke({"question": " "})


def test_the_agent_s_model_may_be_told_that_the_tool_failed(obedient: ChatA1) -> None:
    away = ChatA1(draft="scripted:sums?context_length=2", target="scripted:sums?context_length=2", calibration=None)
    agent = create_agent(obedient, [A1Tool(chat=away, handle_tool_error=True)])
    messages = run(agent, "Use reason on '1 + 2'")["messages"]
    assert next(m.status for m in messages if isinstance(m, ToolMessage)) == "error"
    assert "context" in messages[-1].text


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


def test_an_agent_with_the_middleware_has_schemas(obedient: ChatA1) -> None:
    agent = create_agent(obedient, tools=[], middleware=[A1Middleware(obedient)])
    assert set(agent.get_input_jsonschema()["properties"]) == {"messages"}
    assert {"messages", "a1"} <= set(agent.get_output_jsonschema()["properties"])


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
    assert found["a1"]["verifications"] > 0  # what it cost counts, too


class Flaky(ChatA1):
    """Fails when it is asked for the first time."""

    _asked: int = PrivateAttr(default=0)

    def _generate(self, *arguments: Any, **options: Any) -> Any:
        self._asked += 1
        if self._asked == 1:
            raise ConnectionError("the network is away")
        return super()._generate(*arguments, **options)


def flaky() -> Flaky:
    return Flaky(draft="scripted:obedient", target="scripted:obedient", calibration=None, seed=1)


def answers_of(found: dict[str, Any]) -> list[AIMessage]:
    return [message for message in found["messages"] if isinstance(message, AIMessage)]


def test_a_model_call_that_is_tried_again_counts_once() -> None:
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0, jitter=False)
    for order in ([retry, A1Middleware(flaky())], [A1Middleware(flaky()), retry]):
        found = run(create_agent(other(), [add], middleware=order), "add 2 and 3")
        assert found["a1"]["calls"] == len(answers_of(found)) == 2
        stats = [message.response_metadata["a1"] for message in answers_of(found)]
        assert found["a1"]["verifications"] == sum(each["verifications"] for each in stats)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_run_that_is_taken_up_again_goes_on_counting(obedient: ChatA1, asynchronous: bool) -> None:
    middleware = [A1Middleware(obedient, budget=1), HumanInTheLoopMiddleware(interrupt_on={"add": True})]
    own = other("It is 5.", "It is 9.")
    agent: Any = create_agent(own, [add], middleware=middleware, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}

    async def go_on(given: Any) -> dict[str, Any]:
        return await agent.ainvoke(given, thread) if asynchronous else agent.invoke(given, thread)

    for calls, text in ((1, "It is 5."), (2, "It is 9.")):
        halted = await go_on({"messages": [HumanMessage("add 2 and 3")]})
        assert len(halted["__interrupt__"]) == 1
        assert (halted["a1"]["calls"], halted["a1"]["passed_on"]) == (calls, calls - 1)
        found = await go_on(Command(resume={"decisions": [{"type": "approve"}]}))
        assert found["messages"][-1].text == text  # the same run: its budget is spent
        assert (found["a1"]["calls"], found["a1"]["passed_on"]) == (calls, calls)


def test_a_run_that_broke_is_resumed_without_counting_twice(obedient: ChatA1) -> None:
    broken = [True]

    @tool
    def divide(a: int, b: int) -> float:
        """Divides two numbers."""
        if broken:
            raise ConnectionError(broken.pop())
        return a / b

    agent: Any = create_agent(other(), [divide], middleware=[A1Middleware(obedient)], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(ConnectionError):
        run(agent, "divide 6 by 3", config=thread)
    found = agent.invoke(None, thread)
    assert found["messages"][-1].text.endswith("2.0")
    assert found["a1"]["calls"] == len(answers_of(found)) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_rules_may_stand_side_by_side_each_with_its_own_budget(obedient: ChatA1, asynchronous: bool) -> None:
    rules = [
        A1Middleware(obedient, name="sums", when=lambda request: "add" in request.messages[-1].text, budget=1),
        A1Middleware(obedient, name="the rest", budget=1),
    ]
    agent: Any = create_agent(other("It is 20."), [add, multiply], middleware=rules)
    task = {"messages": [HumanMessage("add 2 and 3, then multiply that by 4")]}
    found = await agent.ainvoke(task) if asynchronous else agent.invoke(task)
    assert found["messages"][-1].text == "It is 20."  # the third turn: both budgets are spent
    assert (found["a1"]["calls"], found["a1"]["passed_on"]) == (2, 3)
    stats = [message.response_metadata["a1"] for message in answers_of(found)[:2]]
    assert found["a1"]["verifications"] == sum(each["verifications"] for each in stats)


def test_what_a1_cannot_take_escalates_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    picture = HumanMessage([{"type": "image", "base64": "AAAA", "mime_type": "image/png"}])
    plain: Any = create_agent(other("A cat."), [], middleware=[A1Middleware(says("x"))])
    with pytest.raises(InvalidQuestion, match="block of type 'image'"):
        plain.invoke({"messages": [picture]})
    agent: Any = create_agent(other("A cat."), [], middleware=[A1Middleware(says("x"), escalate_below=0.1)])
    found = agent.invoke({"messages": [picture]})
    assert found["messages"][-1].text == "A cat."
    assert (found["a1"]["escalations"], found["a1"]["verifications"]) == (1, 0)
    assert "block of type 'image'" in caplog.text


def test_a_mistake_in_the_settings_is_not_passed_over() -> None:
    class Set(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model_settings={"temperature": -1}))

    agent = create_agent(other("x"), [], middleware=[Set(), A1Middleware(says("x"), escalate_below=0.5)])
    with pytest.raises(InvalidOption, match="temperature"):
        run(agent, "Which?")


async def _later(request: Any) -> bool:
    return True


@pytest.mark.parametrize(
    "options",
    [
        *({"budget": budget} for budget in (-1, "3", 1.5, True)),
        *({"escalate_below": share} for share in (2, "0.5", float("nan"))),
        *({"when": rule} for rule in (_later, "hard")),
        {"chat": "openai:gpt-5"},
    ],
    ids=lambda options: str({name: getattr(value, "__name__", value) for name, value in options.items()}),
)
def test_impossible_settings_of_the_middleware_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        A1Middleware(**{"chat": ChatA1(), **options})


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
