"""Streams show reasoning while it is written, then the answer; giving one up frees everything."""

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import operator
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from a1agent import ChainFinished, ChainStarted, StepVerified, VoteClosed
from a1agent.backends.scripted import ScriptedSequence
from langchain_core._api import LangChainBetaWarning
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from langchain_a1 import ChatA1
from tests.doubles import alive, forwards, says, until

STORY = "One.\n\nTwo.\n\nThree.\n\nThe answer is 3."


def merged(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return functools.reduce(operator.add, chunks)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Scripted models go on after a chain's first step only when this is set."""
    event, generate = threading.Event(), ScriptedSequence.generate

    async def held_up(sequence: ScriptedSequence, *arguments: Any, **options: Any) -> Any:
        if sequence.text:
            await until(event.is_set)  # no thread waits: the event loop has few, and calls need them to begin
        return await generate(sequence, *arguments, **options)

    monkeypatch.setattr(ScriptedSequence, "generate", held_up)
    return event


def test_reasoning_comes_while_the_chain_is_written_and_the_answer_last(seen: threading.Event) -> None:
    chat = says(STORY, chains=1, rejection_rate=0.0)
    chunks: list[AIMessageChunk] = []
    for chunk in chat.stream("Count."):
        chunks.append(chunk)
        seen.set()  # the model waits for this
    assert [c.additional_kwargs.get("reasoning_content") for c in chunks[:2]] == ["One.\n\n", "Two.\n\n"]
    assert [bool(c.content) for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].content == STORY
    assert chunks[-1].chunk_position == "last"


async def test_an_async_stream_is_the_same() -> None:
    chat = says(STORY, jitter=2, chains=3)
    spent: list[int] = []
    chunks: list[AIMessageChunk] = []
    async for chunk in chat.astream("Count."):
        chunks.append(chunk)
        spent.append(forwards(chat))
    assert spent[0] < spent[-1]
    assert merged(chunks).content == STORY
    assert chunks[-1].chunk_position == "last"


async def test_an_async_stream_needs_no_thread_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    handed, hand = [0], asyncio.BaseEventLoop.run_in_executor

    def counted(loop: Any, *arguments: Any) -> Any:
        handed[0] += 1
        return hand(loop, *arguments)

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", counted)
    took: list[int] = []
    for steps in (2, 12):
        before = handed[0]
        chunks = [chunk async for chunk in says("One.\n\n" * steps, chains=1, rejection_rate=0.0).astream("Count.")]
        assert len(chunks) >= steps
        took.append(handed[0] - before)
    assert took[0] == took[1]


@pytest.mark.parametrize("version", [None, "v1"])
def test_the_merged_stream_is_what_invoke_gives(version: str | None) -> None:
    first, second = (says(STORY, chains=1, output_version=version) for _ in range(2))
    streamed, invoked = merged(list(first.stream("Count."))), second.invoke("Count.")
    assert [b["type"] for b in streamed.content_blocks] == ["reasoning", "text"]
    assert streamed.text == invoked.text == STORY
    assert streamed.content_blocks[0].get("reasoning") == invoked.content_blocks[0].get("reasoning")
    assert streamed.usage_metadata == invoked.usage_metadata
    assert streamed.response_metadata["a1"].keys() == invoked.response_metadata["a1"].keys()


def test_only_one_chunk_carries_usage_and_statistics() -> None:
    chunks = list(says(STORY, chains=2).stream("Count."))
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    assert sum("a1" in chunk.response_metadata for chunk in chunks) == 1


async def test_all_chains_show_as_custom_events_of_the_model_s_run() -> None:
    chat = says(STORY, chains=3, early_stop="off")
    events = [event async for event in chat.astream_events("Count.", version="v2")]
    custom = [event for event in events if event["event"] == "on_custom_event"]
    kinds = [type(event["data"]) for event in custom]
    assert kinds.count(ChainStarted) == kinds.count(ChainFinished) == 3
    assert StepVerified in kinds
    assert kinds[-1] is VoteClosed
    model = next(event for event in events if event["event"] == "on_chat_model_start")
    assert {event["run_id"] for event in custom} == {model["run_id"]}


async def test_custom_events_are_seen_through_a_pipeline() -> None:
    pipeline = ChatPromptTemplate.from_template("Count to {n}.") | says(STORY, chains=2) | StrOutputParser()
    events = [event async for event in pipeline.astream_events({"n": 3}, version="v2")]
    assert sum(event["event"] == "on_custom_event" for event in events) > 5


async def test_custom_events_are_seen_when_a_model_inside_a_step_is_invoked() -> None:
    chat = says(STORY, chains=2)

    async def step(text: str) -> Any:
        return await chat.ainvoke(text)

    events = [event async for event in RunnableLambda(step).astream_events("Count.", version="v2")]
    custom = [event for event in events if event["event"] == "on_custom_event"]
    assert {ChainStarted, VoteClosed} <= {type(event["data"]) for event in custom}
    model = next(event for event in events if event["event"] == "on_chat_model_start")
    assert {event["run_id"] for event in custom} == {model["run_id"]}


class Seen(BaseCallbackHandler):
    """Keeps what happened, and the custom events with what they bear."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.bearing: list[tuple[Any, list[str], dict[str, Any]]] = []

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.kinds.append("start")

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, tags: Any, metadata: Any, **_: Any) -> None:
        self.kinds.append("event")
        self.bearing.append((data, tags, metadata))

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        self.kinds.append("token")

    def on_stream_event(self, *_: Any, **__: Any) -> None:
        self.kinds.append("token")

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.kinds.append("end")


def stream(chat: ChatA1, config: Any) -> None:
    list(chat.stream("Count.", config))


def stream_in_a_pipeline(chat: ChatA1, config: Any) -> None:
    list((chat | StrOutputParser()).stream("Count.", config))


def invoke_streaming(chat: ChatA1, config: Any) -> None:
    chat.invoke("Count.", config, stream=True)


def stream_version_3(chat: ChatA1, config: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainBetaWarning)
        assert chat.stream_events("Count.", config, version="v3").output.text == STORY


@pytest.mark.parametrize("ask", [stream, stream_in_a_pipeline, invoke_streaming, stream_version_3])
def test_events_bear_the_tags_and_metadata_of_their_call_and_come_in_order(ask: Callable[..., None]) -> None:
    of_call, of_model = Seen(), Seen()
    chat = says(STORY, chains=2, callbacks=[of_model], tags=["ours"], metadata={"team": "maths"})
    ask(chat, {"callbacks": [of_call], "tags": ["asked"], "metadata": {"user": "ada"}})
    assert of_call.kinds == of_model.kinds
    assert (of_call.kinds[0], of_call.kinds[1], of_call.kinds[-1]) == ("start", "event", "end")
    assert of_call.kinds.count("token") >= 2
    assert [type(data) for data, _, _ in of_call.bearing].count(VoteClosed) == 1
    for _, tags, metadata in of_call.bearing:
        assert {"asked", "ours"} <= set(tags)
        assert (metadata["user"], metadata["team"]) == ("ada", "maths")


def test_a_stream_given_up_midway_frees_everything(seen: threading.Event) -> None:
    chat = says(STORY, chains=4, rejection_rate=0.0)
    stream = chat.stream("Count.")
    next(stream)
    assert alive(chat) == 10  # of both models: the prompt and four chains
    stream.close()
    assert alive(chat) == 0
    seen.set()


async def test_an_async_stream_given_up_midway_frees_everything() -> None:
    chat = says(STORY, jitter=3, chains=4)
    stream = chat.astream("Count.")
    await anext(stream)
    assert alive(chat) > 0
    await stream.aclose()
    await until(lambda: alive(chat) == 0)  # the generators inside are closed in turns of the loop


@pytest.mark.parametrize("error", [None, KeyError])
def test_a_loop_that_ends_while_a_stream_is_open_ends_without_complaint(error: type[Exception] | None) -> None:
    chat, complaints, kept = says(STORY, jitter=3, chains=4), list[dict[str, Any]](), list[Any]()

    async def begin() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        kept.append(chat.astream("Count."))
        await anext(kept[0])
        if error is not None:
            raise error

    with contextlib.nullcontext() if error is None else pytest.raises(error):
        asyncio.run(begin())
    assert complaints == []
    assert alive(chat) == 0


@pytest.mark.parametrize("kept", [[], None])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_loop_that_ends_while_a_pipeline_streams_frees_everything(kept: list[Any] | None, steps: int) -> None:
    chat, complaints = says(STORY, jitter=3, chains=4), list[dict[str, Any]]()
    pipeline = ChatPromptTemplate.from_template("{text}") | chat | StrOutputParser()

    async def begin() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        chunks = pipeline.astream({"text": "Count."})
        if kept is not None:
            kept.append(chunks)
        for _ in range(steps):
            await anext(chunks)

    asyncio.run(begin())
    gc.collect()
    assert complaints == []
    assert alive(chat) == 0


async def test_a_handler_that_fails_ends_the_chains_of_its_stream() -> None:
    class Fails(BaseCallbackHandler):
        raise_error = True

        def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            if isinstance(data, StepVerified):
                raise KeyError(name)

    chat = says(STORY, jitter=3, chains=4)
    with pytest.raises(KeyError):
        _ = [chunk async for chunk in chat.astream("Count.", {"callbacks": [Fails()]})]
    assert alive(chat) == 0


async def test_a_cancelled_call_frees_everything(seen: threading.Event) -> None:
    chat = says(STORY, chains=4, rejection_rate=0.0)
    calls = [asyncio.create_task(chat.ainvoke("Count.")) for _ in range(3)]
    await until(lambda: alive(chat) == 30)  # of both models: three prompts, each with four chains that are held up
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert all(call.cancelled() for call in calls)
    assert alive(chat) == 0
    seen.set()


def test_streaming_can_be_turned_off_and_on() -> None:
    assert len(list(says(STORY, disable_streaming=True).stream("Count."))) == 1
    seen: list[Any] = []

    class Handler(BaseCallbackHandler):
        def on_llm_new_token(self, token: Any, **_: Any) -> None:
            seen.append(token)

    message = says(STORY, streaming=True).invoke("Count.", config={"callbacks": [Handler()]})
    assert message.content == STORY
    assert len(seen) >= 4


async def test_sync_calls_work_inside_a_running_loop() -> None:
    chat = says(STORY, chains=2)
    assert chat.invoke("Count.").content == STORY
    assert merged(list(chat.stream("Count."))).content == STORY


def test_many_threads_may_ask_at_once() -> None:
    chat = says(STORY, jitter=2, chains=2)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: chat.invoke("Count.").content, range(48)))
    assert answers == [STORY] * 48
    assert alive(chat) == 0


async def test_a_batch_shares_forwards_and_leaves_no_sequence_behind(embedded: ChatA1) -> None:
    questions = [f"What is {n} * 28?" for n in range(11, 19)]
    pair = await embedded.agent_and_options()[0].pair.load()
    models = (pair.draft, pair.target)
    before = sum(model.counters.forwards for model in models)
    for question in questions:
        await embedded.ainvoke(question)
    between = sum(model.counters.forwards for model in models)
    messages = await embedded.abatch(questions)
    after = sum(model.counters.forwards for model in models)
    assert all(message.response_metadata["a1"]["chains_started"] == 4 for message in messages)
    assert after - between < 0.75 * (between - before)  # about half; how many exactly hangs on who arrives when
    assert all(model.counters.sequences_alive == 0 for model in models)
