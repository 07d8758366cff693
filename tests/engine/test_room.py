"""What is left of the contexts and of `max_tokens`: chains that come to the end of it state their answer."""

import dataclasses
import random
from typing import Any

import pytest

from a1agent import A1, ChainResult, Result
from a1agent.backends.base import Generated, ModelInfo, Sampling, Stop
from a1agent.backends.scripted import ScriptedBackend, ScriptedSequence
from a1agent.errors import ContextOverflow, SolveError
from tests.doubles import Fixed, Rambling

BOXED = "How much is it? Answer in \\boxed{}."
STATEMENT = 64 + 32
"""Tokens a statement may take, and the words that ask for it, in bytes."""


@dataclasses.dataclass(frozen=True)
class Paragraphs:
    """Steps of words without end, until it is asked for the answer."""

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        if text.endswith("\\boxed{"):
            return "7}."
        return "".join(f"word{rng.randint(0, 9)} " * rng.randint(8, 60) + "\n\n" for _ in range(30))

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


class Finer(ScriptedSequence):
    """Its tokenizer cuts every digit into `pieces`."""

    def _tokens(self, ids: list[int]) -> int:
        digits = sum(48 <= byte < 58 for byte in ids)
        return len(ids) + (self.backend.pieces - 1) * digits  # type: ignore[attr-defined]

    @property
    def length(self) -> int:
        return self._tokens(self.ids)

    def _check_room(self, count: int) -> None:
        if self.length + count > self.backend.info.context_length:
            raise ContextOverflow(f"{self.length} + {count} tokens do not fit", "ask for less")

    async def generate(self, max_tokens: int, sampling: Sampling, stop: Stop) -> Generated:
        return await super().generate(max(1, max_tokens // self.backend.pieces), sampling, stop)  # type: ignore[attr-defined]

    async def score(self, step: Any, end: bool = False) -> Any:
        self._check_room(self._tokens(list(step.text.encode())))
        return await super().score(step, end)


class FinerBackend(ScriptedBackend):
    """A target with a tokenizer of its own."""

    pieces = 4
    sequence_type = Finer

    @property
    def info(self) -> ModelInfo:
        return dataclasses.replace(super().info, tokenizer_fingerprint="finer")


def solve(draft: ScriptedBackend, target: ScriptedBackend, **options: Any) -> Result:
    settings = {"chains": 4, "turns": 100, "min_step_tokens": 0, "early_stop": "off", "seed": 3, **options}
    with A1(draft, target, calibration=None, **settings) as a1:
        return a1.solve(BOXED)


def ends(result: Result) -> set[tuple[str, str | None]]:
    return {(chain.end, chain.answer) for chain in result.chains}


@pytest.mark.parametrize("takeover", ["rewrite", "rollback", "continue", "resample"])
@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_no_way_of_taking_over_writes_more_than_is_left(takeover: str, rate: float) -> None:
    def run(context_length: int, **options: Any) -> Result:
        pair = (ScriptedBackend(Paragraphs(), name=n, context_length=context_length) for n in ("draft", "target"))
        return solve(*pair, takeover=takeover, rejection_rate=rate, step_tokens=512, **options)

    bounded = run(1 << 20, max_tokens=600)
    assert ends(bounded) == {("tokens", "7")}
    assert all(chain.token_count <= 600 + STATEMENT for chain in bounded.chains)
    assert ends(run(1000)) == {("tokens", "7")}


@pytest.mark.parametrize("lookahead", ["on", "off"])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_tokenizer_that_cuts_finer_leaves_room_for_the_answer(lookahead: str, rate: float) -> None:
    draft = ScriptedBackend(Paragraphs(), name="draft", context_length=4096)
    target = FinerBackend(Paragraphs(), name="target", context_length=4096)
    result = solve(draft, target, lookahead=lookahead, rejection_rate=rate)
    assert ends(result) == {("tokens", "7")}


@dataclasses.dataclass(frozen=True)
class Numbers(Paragraphs):
    """Words at first, then nothing but digits."""

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        if text.endswith("\\boxed{"):
            return "7}."
        return "".join(("word " * 30 if n + text.count("\n\n") < 4 else "1234 " * 60) + "\n\n" for n in range(30))


@pytest.mark.parametrize("lookahead", ["on", "off"])
def test_a_step_too_long_for_the_target_is_not_written_and_the_chain_states_its_answer(lookahead: str) -> None:
    draft = ScriptedBackend(Numbers(), name="draft", context_length=4096)
    target = FinerBackend(Numbers(), name="target", context_length=1400)
    result = solve(draft, target, lookahead=lookahead, rejection_rate=0.0)
    assert ends(result) == {("tokens", "7")}
    assert result.stats.drafted_tokens == result.stats.kept_tokens + result.stats.discarded_tokens

    def written(chain: ChainResult) -> str:
        return "".join((turn.taken_over or turn.drafted).text for turn in chain.turns[:-1])

    assert all(chain.text.startswith(written(chain)) for chain in result.chains)


def test_looking_ahead_changes_nothing_where_room_runs_out() -> None:
    def texts(lookahead: str, context_length: int) -> list[str]:
        draft = ScriptedBackend(Numbers(), name="draft", jitter=1)
        target = FinerBackend(Numbers(), name="target", context_length=context_length, jitter=4)
        options = {"lookahead": lookahead, "rejection_rate": 0.0, "chains": 2}
        return [chain.text for chain in solve(draft, target, **options).chains]

    for context_length in range(1000, 3000, 40):
        assert texts("on", context_length) == texts("off", context_length)


@pytest.mark.parametrize("takeover", ["rewrite", "continue"])
def test_a_statement_that_is_rejected_is_rewritten(takeover: str) -> None:
    pair = (ScriptedBackend(Rambling(), name=name) for name in ("draft", "target"))
    result = solve(*pair, takeover=takeover, rejection_rate=1.0, turns=2)
    assert all(chain.text.endswith("\\boxed{7}.") for chain in result.chains)
    assert result.answer == "7"


def test_where_nothing_can_be_taken_back_a_rejected_statement_is_continued_too() -> None:
    pair = (ScriptedBackend(Rambling(), name=name, can_rewind=False) for name in ("draft", "target"))
    result = solve(*pair, takeover="continue", rejection_rate=1.0, turns=2)
    assert not result.stats.chains_failed
    assert all("\\boxed{7}." in chain.text for chain in result.chains)


@pytest.mark.parametrize("takeover", ["rewrite", "rollback", "continue", "resample"])
def test_a_stop_string_at_the_start_of_a_step_is_no_reason_to_take_over(takeover: str) -> None:
    pair = (ScriptedBackend(Fixed("One and one.\n\n### and more"), name=name) for name in ("draft", "target"))
    result = solve(*pair, takeover=takeover, rejection_rate=0.0, stop=("###",))
    assert result.stats.observed_rate == 0.0 and result.stats.non_finite_scores == 0
    assert {chain.text for chain in result.chains} == {"One and one.\n\n"}


def test_a_question_that_leaves_no_room_at_all_is_an_error() -> None:
    pair = (ScriptedBackend(Paragraphs(), name=name, context_length=60) for name in ("draft", "target"))
    with pytest.raises(SolveError, match="context"):
        solve(*pair)
