"""A1 through servers that keep failing: every question answered, no step lost or doubled, the rate kept."""

import asyncio
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from a1agent import A1, Result, embedded
from a1agent.embedded.problems import problems
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.servers.flavors import Flavor
from tests.servers.sglang import Sglang
from tests.servers.sockets import Faults
from tests.servers.vllm import Vllm

KINDS = ("reset", "mid-stream", "429", "502", "503", "504", "truncated", "wrong length", "null", "slow")
OPTIONS = "retry_wait_s=0.01&cooldown_s=0.05"


@dataclass
class Servers:
    """A draft on SGLang, a target on vLLM, both of the embedded pair."""

    draft: Sglang
    target: Vllm

    def fail(self, rate: float) -> None:
        for i, server in enumerate((self.draft, self.target)):
            server.socket.faults = Faults(rate=rate, kinds=KINDS, rng=random.Random(i))

    @property
    def addresses(self) -> tuple[str, str]:
        return f"sglang:{self.draft.url}#tiny?{OPTIONS}", f"vllm:{self.target.url}#tiny?{OPTIONS}"


@pytest.fixture
def servers() -> Iterator[Servers]:
    pytest.importorskip("llama_cpp")
    found = Servers(Sglang(embedded.path("draft")), Vllm(embedded.path("target"), step_scoring=True))
    yield found
    found.draft.close()
    found.target.close()


def run(servers: Servers, questions: int, together: int, rate: float) -> list[Result]:
    short = sorted(problems(questions * 20, 77), key=lambda problem: len(problem.question))
    asked = [ask_for_box(Question.of(problem.question)) for problem in short[:questions]]
    limit = asyncio.Semaphore(together)

    async def main() -> list[Result]:
        async with A1(*servers.addresses, calibration=None, seed=5, rejection_rate=0.3, min_step_tokens=0) as a1:
            await a1.load()
            servers.fail(rate)

            async def ask(question: Question) -> Result:
                async with limit:
                    return await a1.asolve(question, early_stop="off", step_tokens=64)

            return await asyncio.gather(*map(ask, asked))

    return asyncio.run(main())


def texts(server: Flavor, requests: list[tuple[int, ...]]) -> set[str]:
    """What was sent of the assistant's message."""
    vocabulary = server.model.vocabulary
    begin = vocabulary.control["<|im_start|>"]
    said = (ids[len(ids) - ids[::-1].index(begin) :] for ids in requests if begin in ids)  # not so: the probes
    return {b"".join(map(vocabulary.piece, ids)).decode(errors="replace") for ids in said}


def audit(servers: Servers, results: list[Result]) -> None:
    """Every step of every chain stands once in its text, and was scored after exactly what stood before it."""
    scored = texts(servers.target, servers.target.scored)
    drafted_after = texts(servers.draft, [base for base, _ in servers.draft.written])
    for chain in (chain for result in results for chain in result.chains):
        text = ""
        for turn in chain.turns:
            rest = chain.text[len(text) :]
            step = turn.taken_over or turn.drafted
            cue = rest.find(step.text)  # before it: the words that ask for the answer, if any
            assert cue >= 0
            text += rest[:cue]
            assert f"assistant\n{text}" in drafted_after
            assert f"assistant\n{text}{turn.drafted.text}" in scored
            text += step.text
        assert text == chain.text


def check(servers: Servers, results: list[Result], tolerance: float) -> None:
    assert all(result.complete and result.stats.chains_failed == 0 for result in results)
    assert all(result.answer is not None for result in results)
    rejections = sum(result.stats.rejections for result in results)
    verifications = sum(result.stats.verifications for result in results)
    assert rejections / verifications == pytest.approx(0.3, abs=tolerance)
    assert len(servers.draft.socket.faults.struck) > 10
    assert len(servers.target.socket.faults.struck) > 10
    audit(servers, results)
    assert servers.draft.socket.drain() == servers.target.socket.drain() == 0
    assert "a1agent-http" not in [thread.name for thread in threading.enumerate()]


def test_questions_are_answered_while_faults_strike(servers: Servers) -> None:
    check(servers, run(servers, 8, 8, 0.05), tolerance=0.08)


@pytest.mark.slow
def test_two_hundred_questions_are_answered_while_faults_strike(servers: Servers) -> None:
    check(servers, run(servers, 200, 8, 0.05), tolerance=0.02)
