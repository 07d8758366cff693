"""`ChatA1` as a user of LangChain meets it: options, messages, usage, serialisation, mistakes."""

import asyncio
import concurrent.futures
import copy
import dataclasses
import gc
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import a1agent
import pytest
from a1agent import A1, Options, RejectionStats
from a1agent.backends.scripted import ScriptedBackend, Sums
from a1agent.effort import Effort, preset
from langchain_core._api import LangChainBetaWarning
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, ToolMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableParallel
from pydantic import ValidationError

import langchain_a1
from langchain_a1 import ChatA1
from langchain_a1._settings import call_options
from tests.doubles import alive, forwards, says, until

IMAGE = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}


def test_it_is_of_the_same_version_as_the_core_it_needs() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == langchain_a1.__version__ == a1agent.__version__
    assert f"a1agent=={a1agent.__version__}" in project["dependencies"]


def test_every_option_of_a1_is_a_field() -> None:
    options = {field.name for field in dataclasses.fields(Options)} - {"timeout_s"} | {"timeout", "calibration"}
    assert options <= set(ChatA1.model_fields)
    assert {"draft", "target", "reasoning_effort"} <= set(ChatA1.model_fields)


def test_the_voted_message_comes_back_with_what_it_cost() -> None:
    models: Any = {"draft": "scripted:sums?accuracy=0.5", "target": "scripted:sums"}  # the same in every run
    same: Any = {**models, "calibration": None, "seed": 1, "chains": 4, "rejection_rate": 1.0, "early_stop": "off"}
    message = ChatA1(**same).invoke("What is 47 + 28 + 783?")
    with A1(**same) as a1:
        result = a1.solve("What is 47 + 28 + 783?")
    assert message.content == result.text
    assert message.additional_kwargs["reasoning_content"] == result.reasoning
    assert message.response_metadata["answer"] == result.answer
    assert message.response_metadata["confidence"] == result.confidence
    assert message.response_metadata["finish_reason"] == "stop"
    stats = RejectionStats.model_validate(message.response_metadata["a1"])
    assert stats.asked_rate == 1.0
    assert stats.chains_started == 4


def test_usage_counts_what_both_models_processed() -> None:
    usage = says("The answer is 4.", chains=3, early_stop="off").invoke("2 + 2?").usage_metadata
    assert usage is not None
    answer = len("The answer is 4.")
    assert usage["output_tokens"] >= 3 * answer
    assert usage["input_tokens"] >= 3 * answer  # every drafted token is read by the target
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_token_details"] == {"reasoning": usage["output_tokens"] - answer}
    assert usage["input_token_details"] == {"cache_read": 0}


def test_a_preset_of_effort_gives_way_to_options_beside_it() -> None:
    assert call_options({"reasoning_effort": "high"}) == {"chains": 16, "turns": 30, "rejection_rate": 0.4}
    assert call_options({"reasoning_effort": "high", "chains": 2})["chains"] == 2
    assert call_options({"chains": 2}, {"reasoning_effort": "low"})["chains"] == 4


def test_the_readme_tells_what_each_effort_stands_for() -> None:
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    for effort in get_args(Effort):
        values = " | ".join(str(value) for value in preset(effort).values())
        assert re.search(rf"^\| [^|]*`{effort}`[^|]* \| {re.escape(values)} \|$", readme, re.MULTILINE), effort


def test_options_may_be_given_per_call_and_bound(obedient: ChatA1) -> None:
    asked = [
        obedient.invoke("Hi.", rejection_rate=0.1, chains=2),
        obedient.bind(rejection_rate=0.1).invoke("Hi.", chains=2),
        obedient.bind(reasoning_effort="low").invoke("Hi."),
    ]
    assert [m.response_metadata["a1"]["asked_rate"] for m in asked] == [0.1, 0.1, 0.2]
    assert [m.response_metadata["a1"]["chains_started"] for m in asked] == [2, 2, 4]


def test_the_model_of_a_call_is_its_target(obedient: ChatA1) -> None:
    other = "scripted:obedient?accuracy=0.5"
    assert obedient.invoke("Hi.", model=other).response_metadata["model_name"] == other
    assert ChatA1(model=other).target == other
    assert ChatA1(model=other).model_name == other


def test_instances_of_the_same_models_share_them() -> None:
    first, second = ChatA1(chains=2), ChatA1(chains=3)
    assert first.agent_and_options()[0] is second.agent_and_options()[0]
    other = ChatA1(target="scripted:sums")
    assert other.agent_and_options()[0] is not first.agent_and_options()[0]


def test_closed_models_are_loaded_anew_when_used_next() -> None:
    chat = ChatA1(draft="scripted:sums", target="scripted:sums?accuracy=0.99", calibration=None)
    chat.invoke("1 + 1")
    chat.close()
    chat.close()
    assert chat.invoke("1 + 1").content


def test_a_constructor_call_of_another_chat_model_goes_through() -> None:
    chat = ChatA1(model="embedded:target", temperature=0, max_tokens=100, timeout=60, max_retries=2, api_key="secret")
    assert chat.agent_and_options()[1] == {"temperature": 0, "max_tokens": 100, "timeout_s": 60}
    assert "secret" not in repr(chat) + dumps(chat)


def test_it_is_serialised_without_secrets_and_loaded_again() -> None:
    chat = ChatA1(chains=3, stop=["x"])
    with pytest.warns(LangChainBetaWarning):
        loaded = loads(dumps(chat), valid_namespaces=["langchain_a1"], allowed_objects=[ChatA1])
    assert loaded == chat
    assert loaded.chains == 3
    assert pickle.loads(pickle.dumps(chat)) == chat


def test_tokens_are_counted_by_the_target_s_own_tokenizer() -> None:
    chat = ChatA1()
    with A1() as a1:
        assert chat.get_token_ids("the sum is 12") == list(a1.tokenize("the sum is 12"))
    assert chat.get_num_tokens("12") == 2  # digits one by one
    assert chat.get_num_tokens_from_messages([HumanMessage("12")]) > 2
    assert ChatA1(custom_get_token_ids=lambda text: [7] * len(text)).get_token_ids("abc") == [7, 7, 7]


def test_traces_name_provider_model_and_limits() -> None:
    params = ChatA1(temperature=0.5, max_tokens=7, stop=["x"])._get_ls_params()
    assert params.get("ls_provider") == "a1"
    assert params.get("ls_model_name") == "embedded:target"
    assert (params.get("ls_temperature"), params.get("ls_max_tokens"), params.get("ls_stop")) == (0.5, 7, ["x"])


def test_the_profile_says_what_it_takes() -> None:
    profile = ChatA1().profile
    assert profile is not None
    assert profile.get("structured_output") is True
    assert profile.get("image_inputs") is False


def test_a_stop_text_ends_the_message() -> None:
    chat = says("One two three.", chains=2)
    assert chat.invoke("Count.", stop=["three"]).content == "One two"
    assert says("One two three.", chains=2, stop=["two"]).invoke("Count.").content == "One"
    assert says("One two three.", chains=2, stop="two").stop == ["two"]


def test_a_cached_answer_costs_nothing() -> None:
    chat = says("Four.", cache=InMemoryCache())
    first = chat.invoke("2 + 2?")
    spent = forwards(chat)
    assert chat.invoke("2 + 2?").content == first.content
    assert forwards(chat) == spent


def test_a_cache_tells_models_apart_that_are_given_as_backends() -> None:
    cache = InMemoryCache()
    assert says("Four.", cache=cache).invoke("2 + 2?").content == "Four."
    assert says("Five.", cache=cache).invoke("2 + 2?").content == "Five."
    again = says("Four.", cache=cache)
    assert again.invoke("2 + 2?").content == "Four."
    assert forwards(again) == 0


async def test_backends_that_nobody_uses_any_more_are_let_go() -> None:
    chat = says("Four.")
    await chat.ainvoke("2 + 2?")
    gone = weakref.ref(chat.draft)
    del chat
    await until(lambda: gc.collect() >= 0 and gone() is None)


def test_a_model_of_backends_may_be_copied_and_pickled() -> None:
    chat = ChatA1(draft=ScriptedBackend(Sums()), target=ScriptedBackend(Sums()), calibration=None)
    assert chat.invoke("1 + 2").response_metadata["answer"] == "3"
    for made in (copy.deepcopy(chat), pickle.loads(pickle.dumps(chat)), chat.model_copy()):
        assert made.invoke("1 + 2").response_metadata["answer"] == "3"


def test_what_backends_have_learned_lasts_as_long_as_their_model() -> None:
    chat = says("One.\n\nTwo.\n\nThree.", chains=2)
    sizes = [chat.invoke("Count.").response_metadata["a1"]["calibration_size"] for _ in range(2)]
    assert sizes[1] > sizes[0]


def test_each_event_loop_may_ask_the_same_models(embedded: ChatA1) -> None:
    async def ask(question: str) -> int:
        chunks = [chunk async for chunk in embedded.astream(question)]
        message = await embedded.ainvoke(question)
        return len(chunks) and message.response_metadata["a1"]["chains_finished"]

    questions = [f"What is {n} * 28?" for n in (11, 12, 13, 14)]
    assert [asyncio.run(ask(question)) > 0 for question in questions[:2]] == [True, True]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda question: asyncio.run(ask(question)), questions))


def test_fields_may_be_made_configurable_and_differ_within_a_batch(obedient: ChatA1) -> None:
    chat = obedient.configurable_fields(chains=ConfigurableField(id="chains"), seed=ConfigurableField(id="seed"))
    asked = chat.batch(["Hi.", "Ho."], config=[{"configurable": {"chains": n}} for n in (2, 3)])
    assert [message.response_metadata["a1"]["chains_started"] for message in asked] == [2, 3]
    bound = chat.with_config(configurable={"chains": 1})
    assert bound.invoke("Hi.").response_metadata["a1"]["chains_started"] == 1


FORKING = """
import multiprocessing, warnings
from langchain_a1 import ChatA1

warnings.simplefilter("ignore")  # that threads stay behind is the point
chat = ChatA1(DRAFT, TARGET, calibration=None, seed=1, chains=1)

def ask(answers):
    answers.put([repr(each.invoke("What is 47 * 28 + 783?").text) for each in (chat, chat.model_copy())])

fork = multiprocessing.get_context("fork")
answers = fork.SimpleQueue()
ask(answers)
process = fork.Process(target=ask, args=(answers,))
process.start()
process.join()
assert process.exitcode == 0
ask(answers)
print(*(text for _ in range(3) for text in answers.get()), sep="\\n")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("scheme", ["scripted:sums", "embedded:"])
def test_a_forked_process_loads_models_of_its_own(scheme: str) -> None:
    models = [repr(scheme + role if scheme == "embedded:" else scheme) for role in ("draft", "target")]
    code = FORKING.replace("DRAFT, TARGET", "draft={}, target={}".format(*models))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment)
    texts = done.stdout.splitlines()
    assert len(texts) == 6, done.stderr
    assert len(set(texts)) == 1  # one chain and one seed give one text


def test_calibration_may_be_a_path(tmp_path: Path) -> None:
    chat = ChatA1(draft="scripted:sums", target="scripted:sums", calibration=tmp_path / "kept.sqlite3")
    chat.invoke("1 + 1")
    chat.close()
    assert (tmp_path / "kept.sqlite3").is_file()
    assert json.dumps(str(tmp_path))[1:-1] in dumps(chat)


def test_usage_is_added_up_by_langchain_s_own_callback() -> None:
    chat = says("Four.", chains=2)
    with get_usage_metadata_callback() as counted:
        messages = [chat.invoke("2 + 2?") for _ in range(2)]
    spent = [message.usage_metadata["total_tokens"] for message in messages if message.usage_metadata]
    assert counted.usage_metadata["target"]["total_tokens"] == sum(spent) > 0


def test_a_chat_model_needs_langchain_core_only() -> None:
    heavy = ("langchain", "langgraph", "torch", "llama_cpp")
    code = f"import sys, langchain_a1; print([m for m in {heavy!r} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "[]"


class Counting(BaseRateLimiter):
    """Lets everybody through, and counts them."""

    def __init__(self) -> None:
        self.asked = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.asked += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire()


async def test_a_rate_limiter_is_asked_once_a_call() -> None:
    limiter = Counting()
    chat = says("Four.", rate_limiter=limiter)
    chat.invoke("2 + 2?")
    await chat.ainvoke("2 + 2?")
    list(chat.stream("2 + 2?"))
    assert limiter.asked == 3


def test_a_call_cut_by_a_limit_says_so() -> None:
    story = "One.\n\nTwo.\n\nThree."
    cut = says(story, chains=1, turns=1).invoke("Count.").response_metadata
    assert (cut["finish_reason"], says(story).invoke("Count.").response_metadata["finish_reason"]) == ("length", "stop")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted models begin only when eight questions are there."""
    arrived, opened = [0], ScriptedBackend.open

    async def held_up(backend: ScriptedBackend, question: Any) -> Any:
        arrived[0] += 1
        await until(lambda: arrived[0] >= 16)  # both models are asked
        return await opened(backend, question)

    monkeypatch.setattr(ScriptedBackend, "open", held_up)


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_questions_of_a_batch_run_together(asynchronous: bool) -> None:
    chat, eight = says("Four.", chains=2), ["2 + 2?"] * 8
    asked = await chat.abatch(eight) if asynchronous else chat.batch(eight, config={"max_concurrency": 8})
    assert [message.content for message in asked] == ["Four."] * 8
    assert alive(chat) == 0


def test_questions_beside_each_other_share_the_models() -> None:
    chat = says("Four.", chains=2)
    asked = RunnableParallel({f"q{i}": chat for i in range(8)}).invoke("2 + 2?")
    assert [message.content for message in asked.values()] == ["Four."] * 8


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ChatA1(chians=3), "did you mean 'chains'"),
        (lambda: ChatA1(chains=0), "use 1 or more"),
        (lambda: ChatA1(rejection_rate=2), "share between 0 and 1"),
        (lambda: ChatA1(model="a", target="b"), "both model and target"),
        (lambda: ChatA1(target="embedded:targt"), "embedded model"),
        (lambda: ChatA1(target="nowhere:x"), "unknown model address"),
        (lambda: ChatA1(target="scripted:sums?can_score=false"), "cannot score"),
        (lambda: ChatA1(target=ScriptedBackend(Sums(), can_score=False)), "cannot score"),
    ],
)
def test_mistakes_in_the_constructor_are_told_at_once(make: Callable[[], ChatA1], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        make()


@pytest.mark.parametrize(
    ("question", "options", "told"),
    [
        ("Hi.", {"rejection_rat": 0.1}, "did you mean 'rejection_rate'"),
        ("Hi.", {"reasoning_effort": "hi"}, "the effort is 'hi'"),
        ("Hi.", {"chains": 0}, "use 1 or more"),
        ("Hi.", {"model": "scripted:sums?can_score=false"}, "cannot score"),
        ("Hi.", {"model": "nowhere:x"}, "unknown model address"),
        ("Hi.", {"response_format": {"type": "xml"}}, "unknown response_format"),
        ("Hi.", {"tools": [{"name": "add"}]}, "a tool is malformed"),
        ("Hi.", {"tool_choice": "add"}, "there are no tools"),
        ("", {}, "the question is empty"),
        ([], {}, "no messages"),
        ([HumanMessage([{"type": "text", "text": "What is this?"}, IMAGE])], {}, "block of type 'image'"),
        ([HumanMessage("x"), ToolMessage([IMAGE], tool_call_id="1")], {}, "block of type 'image'"),
        ([HumanMessage("x"), AIMessage([IMAGE]), HumanMessage("y")], {}, "block of type 'image'"),
        ([HumanMessage([{"type": "text-plain", "url": "x"}])], {}, "block of type 'text-plain'"),
        ("Hi.", {"response_format": {"type": "json_object", "schema": 3}}, "holds no schema"),
        ("Hi.", {"response_format": "json"}, "response_format is 'json'"),
        ("Hi.", {"tools": ["add"]}, "Unsupported function"),
        ("Hi.", {"stop": 3}, "a text or a list"),
        ([ChatMessage(role="chef", content="x")], {}, "unknown role 'chef'"),
    ],
)
def test_mistakes_in_a_call_are_told_before_a_token_is_spent(question: Any, options: dict[str, Any], told: str) -> None:
    chat = says("Hello.")
    with pytest.raises(ValueError, match=told):
        chat.invoke(question, **options)
    assert forwards(chat) == 0


def test_tools_on_models_without_a_place_for_them_are_refused(embedded: ChatA1) -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}
    pair = asyncio.run(embedded.agent_and_options()[0].pair.load())
    models = (pair.draft, pair.target)
    before = [model.counters.forwards for model in models]
    with pytest.raises(ValueError, match="no place for tools"):
        embedded.bind_tools([tool]).invoke("Add.")
    assert [model.counters.forwards for model in models] == before
