"""Scripts that misbehave in the ways models and servers do, for tests of the engine."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

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
