"""Scripted models for tests of the chat model."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from a1agent.backends import obedient
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.scripted import ScriptedBackend

from langchain_a1 import ChatA1


@dataclass(frozen=True)
class Says:
    """Every chain says one of some texts, as its seed has it."""

    texts: tuple[str, ...]

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        begun = [t for t in self.texts if text and t.startswith(text)]
        if text and not begun:
            return "nothing"
        return rng.choice(begun)[len(text) :] if begun else rng.choice(self.texts)

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


def says(*texts: str, jitter: int = 0, **options: Any) -> ChatA1:
    """A chat model whose chains say these texts, behind a template that has a place for tools."""
    template = ChatTemplate(obedient.TEMPLATE, obedient.CONTROL, {}, "says")
    draft = ScriptedBackend(Says(texts), name="draft", template=template, jitter=jitter)
    target = ScriptedBackend(Says(texts), name="target", template=template, jitter=jitter)
    return ChatA1(draft=draft, target=target, calibration=None, **{"seed": 1, **options})


def alive(chat: ChatA1) -> int:
    """Sequences that its models hold."""
    models = (chat.draft, chat.target)
    return sum(model.counters.sequences_alive for model in models if not isinstance(model, str))


def forwards(chat: ChatA1) -> int:
    """Calls that its models have run."""
    models = (chat.draft, chat.target)
    return sum(model.counters.forwards for model in models if not isinstance(model, str))


async def until(holds: Callable[[], bool]) -> None:
    """Let the event loop turn until this holds, however slow the machine; fail after half a minute."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  counters have no event to wait for
            await asyncio.sleep(0.001)  # turns that cost nothing would starve threads that calls need
