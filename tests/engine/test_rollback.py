"""Rollback: what the target would have written too stays, and it writes on from the first token that it would not."""

import dataclasses
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1agent import A1, Event, Result, StepTakenOver, VoteClosed
from a1agent.backends.base import ModelInfo, StepText, TokenScores
from a1agent.backends.scripted import ScriptedBackend, ScriptedSequence
from a1agent.engine.rollback import NOTHING, first_strange, kept_of
from a1agent.notices import written_share
from tests.doubles import Fixed

LIKELY, STRANGE = -0.01, -6.0
BOXED = "How much is it? Answer in \\boxed{}."


@pytest.mark.parametrize(
    ("logprobs", "first"),
    [
        ((-0.1, -0.2, -6.0, -9.0, -0.1), 2),  # the mistake, not the worst of what follows from it
        ((-0.1, -0.2, -2.0, -9.0), 3),
        ((-5.0, -0.1), 0),
        ((-1.0, -4.0), 0),  # the fourth root of its probability
        ((-0.99, -4.0), 1),
        ((-0.1, -0.1, -0.1), 0),  # none is stranger than the others
        ((-0.1, math.nan, -3.0), 1),
        ((-0.1, -2.0, -math.inf), 2),
        ((-0.1, 1e-4, -1.0), 2),
        ((0.0, 0.0), 0),
        ((), 0),
    ],
)
def test_the_first_strange_token_is_found(logprobs: tuple[float, ...], first: int) -> None:
    assert first_strange(logprobs) == first


def spelling(model: str = "") -> ScriptedSequence:
    return ScriptedSequence(ScriptedBackend(Fixed(model)), "", [10], decoded=0, thinking=False)


def scores_of(text: str, wrong: int, end: float | None = None) -> TokenScores:
    """Bytes from `wrong` on are strange."""
    ids = text.encode()
    return TokenScores(
        ids=tuple(ids), logprobs=tuple(LIKELY if i < wrong else STRANGE for i in range(len(ids))), end=end
    )


def test_what_stands_before_the_mistake_stays() -> None:
    kept = kept_of("So 1 + 1 = 3.", scores_of("So 1 + 1 = 3.", wrong=11), spelling(), ())
    assert kept == ("So 1 + 1 = ", tuple(b"So 1 + 1 = "), (LIKELY,) * 11)


def test_a_step_that_is_right_but_ends_too_early_stays_whole() -> None:
    kept = kept_of("So far.", scores_of("So far.", wrong=99, end=STRANGE), spelling(), ())
    assert kept.text == "So far."


@pytest.mark.parametrize(
    ("step", "wrong", "strings", "text"),
    [
        ("one naïve", 7, (), "one na"),  # inside of a character
        ("One.\nTwo", 5, (), "One."),  # a line end that would complete a blank line
        ("a END b", 4, ("ENDE",), "a "),  # the beginning of a stop text
        ("a END b", 4, ("NEVER",), "a E"),
        ("\nTwo", 1, (), ""),
        ("Hm.</thin", 6, (), "Hm."),  # a thought that what follows would close
        ("<thimk>", 4, (), ""),
        ("Hm.</think> So", 12, (), "Hm.</think> "),
    ],
)
def test_nothing_is_kept_that_what_follows_may_complete(
    step: str, wrong: int, strings: tuple[str, ...], text: str
) -> None:
    assert kept_of(step, scores_of(step, wrong), spelling(), strings).text == text


def test_of_a_step_whose_tokens_spell_another_text_nothing_stays() -> None:
    assert kept_of("One.", scores_of("Two.", wrong=3), spelling(), ()) == NOTHING


@pytest.mark.parametrize("step", ["?" + "a" * 3000, "a" * 3000])
@pytest.mark.parametrize("first", [b"\xff", b"a"])
def test_long_steps_are_looked_through_once(step: str, first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    spelled, text_of = list[int](), ScriptedSequence.text_of
    monkeypatch.setattr(ScriptedSequence, "text_of", lambda s, ids: (spelled.append(len(ids)), text_of(s, ids))[1])
    ids = tuple(first + b"a" * 2999)
    scores = TokenScores(ids=ids, logprobs=(LIKELY,) * 2999 + (STRANGE,))
    kept = kept_of(step, scores, spelling(), ())
    assert sum(spelled) <= len(ids) and len(kept.ids) == (2999 if step.encode().startswith(first) else 0)


@given(st.text(max_size=30), st.lists(st.floats(-20, 0), min_size=130, max_size=130), st.sampled_from(["", "\n", "ab"]))
def test_what_is_kept_is_the_beginning_of_the_step_and_of_its_tokens(text: str, values: list[float], stop: str) -> None:
    ids = tuple(text.encode())
    scores = TokenScores(ids=ids, logprobs=tuple(values[: len(ids)]))
    kept = kept_of(text, scores, spelling(), (stop,) if stop else ())
    assert text.startswith(kept.text) and tuple(kept.text.encode()) == kept.ids
    assert len(kept.ids) == len(kept.logprobs) <= first_strange(scores.logprobs)


class Knowing(ScriptedSequence):
    """What its script would write is likely, all from the first other byte on strange."""

    async def score(self, step: StepText, end: bool = False) -> TokenScores:
        plan = self.backend.script.write(self.prompt, self.text, None).encode()  # type: ignore[arg-type]
        found = await super().score(step, end)
        right = next((i for i, (a, b) in enumerate(zip(found.ids, plan, strict=False)) if a != b), len(found.ids))
        told = scores_of(step.text, right, found.end and STRANGE)
        return TokenScores(ids=found.ids, logprobs=told.logprobs, end=told.end, work=found.work)


class KnowingBackend(ScriptedBackend):
    """Scores token by token."""

    sequence_type = Knowing


def ask(wrong: str, right: str, **options: Any) -> tuple[Result, list[Event]]:
    draft, target = ScriptedBackend(Fixed(wrong), name="draft"), KnowingBackend(Fixed(right), name="target")
    settings = {"chains": 1, "min_step_tokens": 0, "rejection_rate": 1.0, "takeover": "rollback", "seed": 1, **options}
    with A1(draft, target, calibration=None, **settings) as a1:
        events = list(a1.stream(BOXED))
    assert draft.counters.sequences_alive == target.counters.sequences_alive == 0
    closed = events[-1]
    assert isinstance(closed, VoteClosed)
    return closed.result, events


def test_the_target_writes_on_from_the_mistake() -> None:
    result, events = ask("One and one is three: \\boxed{3}.", "One and one is two: \\boxed{2}.")
    (taken,) = (event for event in events if isinstance(event, StepTakenOver))
    assert (taken.kept, taken.step.text) == ("One and one is t", "wo: \\boxed{2}.")
    assert (taken.takeover, taken.kept_tokens, taken.step.tokens) == ("rollback", 16, 14)
    (turn,) = result.chains[0].turns
    assert (turn.kept, turn.taken_over) == (taken.kept, taken.step)
    assert result.chains[0].text == "One and one is two: \\boxed{2}." and result.answer == "2"
    assert result.chains[0].token_count == 30 and len(result.chains[0].scores) == 1
    stats = result.stats
    assert (stats.kept_tokens, stats.discarded_tokens, stats.target_tokens) == (16, 16, 14)
    assert (stats.drafted_tokens, stats.spared_tokens) == (32, 16)
    assert written_share([stats]) == 14 / 30


@pytest.mark.parametrize("lookahead", ["on", "off"])
def test_steps_end_where_they_would_if_the_target_had_written_them_whole(lookahead: str) -> None:
    wrong, right = "A is 1.\n\nB is 3.\n\n\\boxed{3}", "A is 1.\n\nB is 2.\n\n\\boxed{2}"
    result, events = ask(wrong, right, lookahead=lookahead)
    taken = [event for event in events if isinstance(event, StepTakenOver)]
    assert result.chains[0].text == right
    assert [(event.kept, event.step.text) for event in taken][1] == ("B is ", "2.\n\n")


def test_the_tokens_that_stay_count_for_the_length_of_the_step() -> None:
    right = "a" * 20 + "\n\n" + "b" * 20 + "\n\n\\boxed{2}"
    _, events = ask("a" * 18 + "X" * 40, right, min_step_tokens=22, step_tokens=40)
    first = next(event for event in events if isinstance(event, StepTakenOver))
    assert first.kept + first.step.text == "a" * 20 + "\n\n"
    _, events = ask("a" * 18 + "X" * 40, right, min_step_tokens=40, step_tokens=20)
    first = next(event for event in events if isinstance(event, StepTakenOver))
    assert (first.kept_tokens, first.step.tokens + first.trimmed_tokens) == (18, 2)


def test_as_many_tokens_as_a_takeover_may_have_are_written_after_those_that_stay() -> None:
    _, events = ask("a b " * 10 + "X Y " * 40, "a b " * 40, step_tokens=60, takeover_tokens=20)
    first = next(event for event in events if isinstance(event, StepTakenOver))
    assert (first.kept_tokens, first.step.tokens + first.trimmed_tokens) == (40, 20)


@pytest.mark.parametrize("takeover", ["rewrite", "rollback", "continue"])
@pytest.mark.parametrize("most", [60, 100])
def test_a_chain_has_no_more_tokens_than_it_may_whichever_model_cuts_finer(takeover: str, most: int) -> None:
    lines = ["Multiply by parts: 28 is 20 + 8.\n\n", "So 47 * 20 = 800 + 140 = 940.\n\n", "So 47 * 8 = 999.\n\n" * 9]
    draft = ScriptedBackend(Fixed("".join(lines)), name="draft")  # a token a byte
    options = {"chains": 2, "turns": 6, "min_step_tokens": 300, "rejection_rate": 1.0, "early_stop": "off", "seed": 2}
    limits = {"max_tokens": most, "answer_tokens": 4}
    with A1(draft, "embedded:target", calibration=None, takeover=takeover, **options, **limits) as a1:
        result = a1.solve("What is 47 * 28 + 783? Answer in \\boxed{}.")
    assert all(chain.token_count <= most + 4 for chain in result.chains)
    assert takeover != "rollback" or most < 100 or result.stats.spared_tokens > 0


def test_a_stop_text_is_seen_after_a_thought_that_the_target_closes() -> None:
    wrong, right = "<think>a</thonk> Two. END", "<think>a</think> Two. END"
    result, _ = ask(wrong, right, stop=("END",))
    assert result.chains[0].text == "<think>a</think> Two. "


def test_a_statement_is_written_anew() -> None:
    result, events = ask("and so on, 3\n\n" * 9, "and so on, 2\n\n" * 9, turns=2)
    last = [event for event in events if isinstance(event, StepTakenOver)][-1]
    assert (last.takeover, last.kept) == ("rewrite", "") and len(result.chains[0].turns) == 3


@dataclasses.dataclass(frozen=True)
class Counting:
    """Each step tells how long the text before it is, and ends as its writer does."""

    ending: str

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        if text.endswith("\\boxed{"):
            return "7}."
        begun = text.rpartition("\n\n")[2]
        step = f"after {len(text) - len(begun)} characters {self.ending}\n\n"
        return step.removeprefix(begun) if step.startswith(begun) else f"not after {text}\n\n"

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


@pytest.mark.parametrize("rate", [0.5, 1.0])
@pytest.mark.parametrize("tokenizer", ["bytes", "another"])
@pytest.mark.parametrize("lookahead", ["on", "off"])
def test_both_models_hold_the_text_of_the_chain(rate: float, tokenizer: str, lookahead: str) -> None:
    class Draft(ScriptedBackend):
        @property
        def info(self) -> ModelInfo:
            return dataclasses.replace(super().info, tokenizer_fingerprint=tokenizer)

    draft, target = Draft(Counting("dog"), name="draft"), KnowingBackend(Counting("cat"), name="target")
    options = {"chains": 3, "turns": 8, "early_stop": "off", "lookahead": lookahead, "seed": 5, "min_step_tokens": 0}
    with A1(draft, target, calibration=None, takeover="rollback", rejection_rate=rate, **options) as a1:
        result = a1.solve(BOXED)
    for chain in result.chains:
        text = ""
        for turn in chain.turns[:-1]:
            assert turn.drafted.text == f"after {len(text)} characters dog\n\n"
            stands = turn.kept + turn.taken_over.text if turn.taken_over else turn.drafted.text
            assert stands == f"after {len(text)} characters {'cat' if turn.taken_over else 'dog'}\n\n"
            assert not turn.taken_over or turn.kept == f"after {len(text)} characters "
            text += stands
        assert chain.text.startswith(text)
    assert (
        result.stats.rejections
        and result.stats.drafted_tokens == result.stats.kept_tokens + result.stats.discarded_tokens
    )
