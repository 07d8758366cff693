"""Chains of models whose chat template opens the thought itself: the prompt ends in `<think>`, the text has none."""

import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from a1agent import A1, Message, Question, Result
from a1agent.backends import obedient
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.scripted import ScriptedBackend
from a1agent.narrator import Narrator
from tests.doubles import Fixed, Rambling

BOXED = "What is 3 + 4? Put the answer in \\boxed{}."
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
OPENS = "{% if add_generation_prompt %}<think>\n{% endif %}"
THOUGHT = "Maybe \\boxed{5}? Let me check.\n\nNo, 3 + 4 is 7.\n\n"
ANSWER = "The answer is \\boxed{7}."


@dataclass
class Thinking:
    """Writes a thought, whoever opened it, and an answer. Keeps every text of the assistant's turn it goes on from."""

    thought: str = f"{THOUGHT}</think>\n\n"
    answer: str = ANSWER
    seen: list[str] = field(default_factory=list[str])

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        self.seen.append(prompt.rpartition("assistant: ")[2] + text)
        written = text.removeprefix("<think>\n")
        if "</think>" in written:
            return self.answer.removeprefix(written.rpartition("</think>")[2].lstrip())
        return (self.thought + self.answer * ("</think>" in self.thought)).removeprefix(written)

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


def backend(script: Any, opens: bool = True, name: str = "model") -> ScriptedBackend:
    return ScriptedBackend(script, name=name, template=ChatTemplate(PLAIN + OPENS * opens, (), {}, name))


def solved(draft: ScriptedBackend, target: ScriptedBackend, question: Any = BOXED, **options: Any) -> Result:
    asked = {"seed": 1, "chains": 2, "turns": 6, "min_step_tokens": 0, "rejection_rate": 0.0, **options}
    with A1(draft, target, calibration=None, early_stop="off", **asked) as a1:
        return a1.solve(question)


def test_what_a_thought_considers_is_no_answer() -> None:
    result = solved(backend(Thinking()), backend(Thinking(), name="target"))
    assert result.answer == "7"
    assert result.text == ANSWER
    assert result.reasoning == THOUGHT.strip()
    assert {chain.end for chain in result.chains} == {"ended"}
    assert {chain.text for chain in result.chains} == {f"<think>\n{THOUGHT}</think>\n\n{ANSWER}"}


def test_a_chain_out_of_turns_closes_the_thought_that_its_prompt_opened() -> None:
    result = solved(backend(Rambling()), backend(Rambling(), name="target"), turns=2)
    assert result.text == "The final answer is \\boxed{7}."
    assert result.reasoning == "and so on,\n\nand so on,"
    assert {chain.end for chain in result.chains} == {"turns"}


@pytest.mark.parametrize("turns", [1, 2, 4])
def test_a_model_that_ends_its_turn_inside_a_thought_still_has_to_say_something(turns: int) -> None:
    model = Thinking(thought="Maybe \\boxed{5}, or so.")
    result = solved(backend(model), backend(model, name="target"), turns=turns, question="What is 3 + 4?")
    assert result.reasoning == "Maybe \\boxed{5}, or so."
    assert result.text == ANSWER
    assert result.answer == "7"


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize(("draft_opens", "target_opens"), [(True, False), (False, True)])
def test_both_models_continue_one_text_when_one_prompt_opens_a_thought(
    draft_opens: bool, target_opens: bool, rate: float
) -> None:
    draft, target = Thinking(), Thinking()
    models = backend(draft, draft_opens), backend(target, target_opens, name="target")
    result = solved(*models, rejection_rate=rate)
    assert (result.answer, result.text, result.reasoning) == ("7", ANSWER, THOUGHT.strip())
    assert draft.seen and all(text.startswith("<think>\n") for text in draft.seen)
    assert bool(target.seen) == (rate == 1.0) and all(text.startswith("<think>\n") for text in target.seen)


def test_where_no_prompt_opens_a_thought_none_is_put_in() -> None:
    result = solved(backend(Fixed(ANSWER), opens=False), backend(Fixed(ANSWER), opens=False, name="target"))
    assert {chain.text for chain in result.chains} == {ANSWER}


def test_a_thought_that_the_caller_began_is_gone_on_with() -> None:
    said = Message(role="assistant", content="<think>\nFirst I add. ")
    question = Question(messages=(*Question.of(BOXED).messages, said))
    result = solved(backend(Thinking(), opens=False), backend(Thinking(), opens=False, name="target"), question)
    assert (result.answer, result.text, result.reasoning) == ("7", ANSWER, THOUGHT.strip())


ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": %d}}\n</tool_call>'
CONSIDERED = f"I could write {CALL % 1}.\n\nBetter not."


def tool_model() -> ScriptedBackend:
    template = ChatTemplate(obedient.TEMPLATE + OPENS, obedient.CONTROL, {}, "model")
    return ScriptedBackend(Thinking(CONSIDERED, CALL % 2), template=template)


def test_a_call_in_a_thought_is_not_made() -> None:
    question = replace(Question.of("Add."), tools=(ADD,))
    result = solved(tool_model(), tool_model(), question)
    assert [dict(call.arguments) for call in result.tool_calls] == [{"a": 2}]
    assert result.reasoning == CONSIDERED


def test_json_in_a_thought_is_no_answer() -> None:
    model = Thinking('Perhaps {"x": 1}?\n\nNo.', '{"x": 2}')
    question = replace(Question.of("Give x."), response_format={"type": "json_object"})
    result = solved(backend(model), backend(model, name="target"), question)
    assert json.loads(result.answer or "") == {"x": 2}


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("takeover", ["rewrite", "continue"])
@pytest.mark.parametrize(
    "model", [Thinking(), Thinking(thought="Hm.\n\nI see."), Rambling()], ids=["closes", "ends", "rambles"]
)
def test_what_is_told_of_a_chain_is_its_thought(model: Any, takeover: str, rate: float) -> None:
    options: dict[str, Any] = {"takeover": takeover, "rejection_rate": rate, "turns": 4, "chains": 1}
    narrator = Narrator()
    with A1(
        backend(model), backend(model, name="target"), calibration=None, seed=1, min_step_tokens=0, **options
    ) as a1:
        events = list(a1.stream(BOXED))
    told = "".join(map(narrator.tell, events))
    assert told.strip() == events[-1].result.reasoning
    assert "boxed{7}" not in told


def test_a_call_in_a_thought_is_told_with_it() -> None:
    narrator = Narrator()
    with A1(tool_model(), tool_model(), calibration=None, seed=1, min_step_tokens=0, chains=1) as a1:
        parts = [narrator.tell(event) for event in a1.stream(replace(Question.of("Add."), tools=(ADD,)))]
    assert [part for part in parts if part] == [f"I could write {CALL % 1}.\n\n", "Better not.", "\n"]


@pytest.mark.parametrize("options", [{}, {"rejection_rate": 1.0}, {"lookahead": "on"}, {"step_tokens": 20}])
@pytest.mark.parametrize(("stop", "text"), [("7", "The answer is \\boxed{"), ("\n", ANSWER), ("nowhere", ANSWER)])
def test_a_stop_text_ends_the_message_and_no_thought(options: dict[str, Any], stop: str, text: str) -> None:
    asked = {"turns": 40, "chains": 1, "stop": [stop], **options}
    result = solved(backend(Thinking()), backend(Thinking(), name="target"), "What is 3 + 4?", **asked)
    assert result.reasoning == THOUGHT.strip()
    assert result.text == text
