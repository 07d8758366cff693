"""Stop texts that one step begins and the next completes."""

from typing import Any

import pytest

from a1agent import A1, Result
from a1agent.backends.scripted import ScriptedBackend
from tests.doubles import Fixed

ACTING = "Thought: add.\n\nObservation: 3\n\nSo it is 3."


def solve(text: str, *stop: str, **options: Any) -> Result:
    draft, target = (ScriptedBackend(Fixed(text), name=name, jitter=2) for name in ("draft", "target"))
    settings = {"chains": 2, "min_step_tokens": 0, "early_stop": "off", "seed": 3, "rejection_rate": 0.0, **options}
    with A1(draft, target, calibration=None, **settings) as a1:
        result = a1.solve("Hi", stop=stop)
    assert draft.counters.sequences_alive == target.counters.sequences_alive == 0
    assert result.stats.drafted_tokens == result.stats.kept_tokens + result.stats.discarded_tokens
    return result


@pytest.mark.parametrize("lookahead", ["on", "off"])
@pytest.mark.parametrize(
    ("takeover", "rate"), [("rewrite", 0.0), ("rewrite", 1.0), ("rollback", 1.0), ("resample", 1.0)]
)
@pytest.mark.parametrize("stop", ["\nObservation", "\n\nObs", "add.\n\nObservation: 3\n\nSo", "Observation"])
def test_it_ends_the_message_before_itself(stop: str, takeover: str, rate: float, lookahead: str) -> None:
    result = solve(ACTING, stop, "never", takeover=takeover, rejection_rate=rate, lookahead=lookahead)
    expected = ACTING.partition(stop)[0]
    assert {(chain.text, chain.end) for chain in result.chains} == {(expected, "ended")}


def test_it_ends_what_continues_a_step() -> None:
    result = solve("One.\n\nOne more.", "\n\nOne", takeover="continue", rejection_rate=1.0)
    assert {chain.text for chain in result.chains} == {"One."}


def test_the_first_of_several_counts() -> None:
    result = solve(ACTING, "Observation: 3", "\nObs", "add.\n\nO")
    assert {chain.text for chain in result.chains} == {"Thought: "}


def test_it_ends_no_thought() -> None:
    thinking = "<think>\nA.\n\nSo B.\n</think>\n\nIt is B.\n\nSo there."
    result = solve(thinking, "\n\nSo")
    assert {chain.text for chain in result.chains} == {thinking.removesuffix("\n\nSo there.")}
