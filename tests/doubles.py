"""Scripts that misbehave in the ways models and servers do, for tests of the engine."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from a1agent.backends.base import Work
from a1agent.backends.scripted import ScriptedBackend, Sums

SUM = "1 + 2 + 3 + 4 + 5 + 6"


@dataclass
class Failing:
    """Fails in some of its calls, then behaves like `Sums`."""

    failures: int
    sums: Sums = field(default_factory=Sums)

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        if self.failures > 0:
            self.failures -= 1
            raise OSError("the model fell over")
        return self.sums.write(prompt, text, rng)

    def nll(self, prompt: str, text: str, step: str) -> float:
        return self.sums.nll(prompt, text, step)


@dataclass(frozen=True)
class Rambling:
    """Never comes to an end, unless it is asked for the answer."""

    answer: str = "7"
    score: float = 1.0
    opening: str = ""

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        if text.endswith("\\boxed{"):
            return f"{self.answer}}}."
        return ("" if text else self.opening) + "and so on,\n\n" * 1000

    def nll(self, prompt: str, text: str, step: str) -> float:
        return self.score


@dataclass(frozen=True)
class Fixed:
    """Writes one text, scores all steps the same."""

    text: str
    score: float = 1.0

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        return self.text.removeprefix(text)

    def nll(self, prompt: str, text: str, step: str) -> float:
        return self.score


class NeverReads:
    """A scripted model's time: no prompt is ever read."""

    async def serve(self, to_read: int, to_write: int) -> Work:
        await asyncio.Event().wait()
        return Work()


LIMIT_S = 1000.0
"""A time limit that passes only when a `Clock` is told so."""


class Clock:
    """The running event loop's, put forward by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = asyncio.get_running_loop()
        self._ahead_s = 0.0
        real = self._loop.time
        monkeypatch.setattr(self._loop, "time", lambda: real() + self._ahead_s)

    def pass_limit(self) -> None:
        """Lets `LIMIT_S` pass; from any thread."""
        self._ahead_s += LIMIT_S
        self._loop.call_soon_threadsafe(lambda: None)  # it looks at its clock when it wakes


@dataclass(frozen=True)
class Late:
    """Answers, and calls `at_last` while it does; what that raises, the model raises."""

    at_last: Callable[[], None]
    answer: str = "It is \\boxed{4}."

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        self.at_last()
        return self.answer.removeprefix(text)

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


def sums_pair(
    accuracy: float = 0.6, *, jitter: int = 0, arrival_seed: int = 0
) -> tuple[ScriptedBackend, ScriptedBackend]:
    """A draft that errs and a target that does not."""
    draft = ScriptedBackend(Sums(accuracy), name="draft", jitter=jitter, arrival_seed=arrival_seed)
    target = ScriptedBackend(Sums(1.0), name="target", jitter=jitter, arrival_seed=arrival_seed + 1)
    return draft, target


async def until(holds: Callable[[], bool]) -> None:
    """Let the event loop turn until this holds, however slow the machine; fail after half a minute."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  models' counters have no event to wait for
            await asyncio.sleep(0)
