"""The scripted double keeps the rules of real backends, so that what is tested on it holds for them."""

import random
from dataclasses import dataclass

import pytest

from a1agent import InvalidOption
from a1agent.backends.base import Backend
from a1agent.backends.scripted import ScriptedBackend, Sums, load
from tests.backends.contract import BackendFactory, Capabilities, Contract


@dataclass(frozen=True)
class Babble:
    """Writes words without end, by chance."""

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        return "".join(rng.choice((" the", " sum", " is", " é", ",\n\n")) for _ in range(2000))

    def nll(self, prompt: str, text: str, step: str) -> float:
        return Sums().nll(prompt, text, step)


class TestScripted(Contract):
    capabilities = Capabilities(counts=False, guards=False, chance=False)

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        def make(context: int | None) -> Backend:
            return ScriptedBackend(Babble(), context_length=context or 65536, jitter=2)

        return make


class TestScriptedThatCannotScore(Contract):
    capabilities = Capabilities(counts=False, guards=False, chance=False, score=False)

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        return lambda context: ScriptedBackend(Babble(), context_length=context or 65536, can_score=False)


class TestScriptedThatCannotRewind(Contract):
    capabilities = Capabilities(counts=False, guards=False, chance=False, rewind=False)

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        return lambda context: ScriptedBackend(Babble(), context_length=context or 65536, can_rewind=False)


class TestObedient(Contract):
    capabilities = Capabilities(counts=False, guards=False, chance=False, small_context=160)

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        def make(context: int | None) -> Backend:
            return load("obedient", context_length=context or 65536)

        return make


def test_an_unknown_script_is_refused() -> None:
    with pytest.raises(InvalidOption):
        load("summs")


def test_an_option_of_another_script_is_refused() -> None:
    with pytest.raises(InvalidOption, match="noise"):
        load("obedient", noise=0.1)
