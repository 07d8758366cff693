"""Errors speak of options as a chat model calls them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from a1agent import TimedOut
from a1agent.backends.scripted import ScriptedBackend
from langchain_core.tools import ToolException

from langchain_a1 import A1Tool, ChatA1
from tests.doubles import says


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ChatA1(timeout=-1), r"\btimeout is -1"),
        (lambda: ChatA1(timeot=1), "did you mean 'timeout'"),
        (lambda: says("Four.").invoke("2 + 2?", timeout=-1), r"\btimeout is -1"),
        (lambda: says("Four.").invoke("2 + 2?", timeot=1), "did you mean 'timeout'"),
    ],
)
def test_a_time_limit_that_is_none_is_told_by_its_name(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize(
    "ask",
    [
        lambda chat: chat.invoke("2 + 2?"),
        lambda chat: asyncio.run(chat.ainvoke("2 + 2?")),
        lambda chat: list(chat.stream("2 + 2?")),
        lambda chat: asyncio.run(anext(chat.astream("2 + 2?"))),
        lambda chat: A1Tool(chat=chat).invoke("2 + 2?"),
        lambda chat: asyncio.run(A1Tool(chat=chat).ainvoke("2 + 2?")),
    ],
)
def test_who_ran_out_of_time_is_told_which_option_to_raise(
    ask: Callable[[ChatA1], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ScriptedBackend, "open", never)
    with pytest.raises((TimedOut, ToolException), match=r"raise timeout,"):
        ask(says("Four.", timeout=0.01))
