"""What counts as the answer in a chain's text."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a1agent.engine import extract
from a1agent.engine.extract import EXTRACTORS, Answer, Kind, canonical_json, extract_answer, may_answer

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}, no: \boxed{8}.", "8"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{12}", "12"),
        (r"\boxed{ 3 }", "3"),
        (r"\boxed {4}", "4"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{6} and then \boxed{7", "6"),
        (r"\boxed{oops, never closed \boxed{9}", "9"),
        (r"\boxed{2} and an empty \boxed{}", "2"),
        (r"\boxed{2}, as asked for: \boxed{...}", "2"),
        ("\\boxed{1}\n\n\\boxed{never closed\n\nanother paragraph}", "1"),
        ("}} stray { braces \\boxed{4}", "4"),
    ],
)
def test_last_balanced_box_is_the_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == Answer(answer, "boxed")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42.", "42"),
        ("The answer is 41. No, the answer is 42.", "42"),
        ("The answer is **$42$**.", "42"),
        ("**Answer:** 42", "42"),
        ("**Answer**: `42`", "42"),
        ("Final Answer: 3.14. That is all.", "3.14"),
        ("The final answer is: \\(x = 5\\).", "x = 5"),
        ("Answer:\n\n12 apples", "12 apples"),
        ("Answer:\n$$\n42\n$$", "42"),
        ("The answer is therefore 7.", "7"),
        ("The answer to the first question is 9.", "9"),
        ("The answers are 1 and 2.", "1 and 2"),
        ("The answer is $5,000.", "$5,000"),
        ("The answer is St. Louis.", "St. Louis"),
        ("The answer is x. So we are done.", "x"),
        ("ANSWER: yes!", "yes"),
        ("It works out.\n#### 18", "18"),
        ("The answer must be 12.", "12"),
        ("So the answer would be $\\frac12$.", "\\frac12"),
        ("The final answer should be **12**.", "12"),
        ("The answer is approx. 12 cm.", "12 cm"),
        ("The answer is approximately 3.14.", "3.14"),
        ("The answer \u2248 12.", "12"),
        ("The answer equals 12.", "12"),
        ("The answer is 42. " + "And on it goes " * 200, "42"),
    ],
)
def test_phrase_states_the_answer_up_to_the_end_of_its_sentence(text: str, answer: str) -> None:
    assert extract_answer(text) == Answer(answer, "phrase")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Let me think about it",
        "the answer is not unique",
        "The answer must be positive.",
        "The answer should be an integer between 0 and 999.",
        "The answer would be different.",
        "The answer is \\boxed{12",
        "P(A) = f(B)",
        "Options: (A) red (B) blue",
        "an option A person might like\nand so on",
        "x lies in [0, 1] here",
        "the answer is " + "blah " * 1000,
        "\\frac{1}{2}",
        "I will put the final answer in \\boxed{}.",
        "The answer goes into \\boxed{\\ldots}.",
        "There are ${}_5C_2$ pairs.",
    ],
)
def test_text_without_a_stated_answer_has_none(text: str) -> None:
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Answer: (B) Paris",
        "The answer is B.",
        "The answer is B, since 3 > 2.",
        "The answer is (B) because it floats.",
        "so it is (B).",
        "**B**",
        "(B)",
        "option B",
    ],
)
def test_choice_letter_is_found_by_auto(text: str) -> None:
    assert extract_answer(text) == Answer("B", "choice")


@pytest.mark.parametrize("text", [r"\boxed{\text{(C)}}", r"\boxed{C}", "It is (C).\nI am quite sure.", "Choice C\n"])
def test_asking_for_a_choice_looks_further(text: str) -> None:
    assert extract_answer(text, "choice") == Answer("C", "choice")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('Here: {"b": 1.0, "a": [1, "x}"]} done', '{"a":[1,"x}"],"b":1}'),
        ('```json\n{"a": 2}\n```\nas in [1]', '{"a":2}'),
        ('first {"a": 1} then {"a": 2}', '{"a":2}'),
        ('a stray { and then {"a": 1}', '{"a":1}'),
        ("gives\n[1, 2]", "[1,2]"),
        ('{"a": {"b": "\\"}"}}', '{"a":{"b":"\\"}"}}'),
        ('{"a": 1}, and not ${}_5C_2$', '{"a":1}'),
    ],
)
def test_last_json_value_is_canonical(text: str, form: str) -> None:
    assert extract_answer(text) == Answer(form, "json")


def test_json_asked_for_may_be_an_array_anywhere() -> None:
    assert extract_answer("we get [1, 2] from it", "json") == Answer("[1,2]", "json")


@pytest.mark.parametrize("text", ["{'a': 1}", '{"a": NaN}', '{"a": 1e999}', "[" * 100_000, '{"a": "\\ud800"}'])
def test_what_is_no_standard_json_has_no_canonical_form(text: str) -> None:
    assert canonical_json(text) is None


def test_text_itself_is_an_answer_only_when_asked_for() -> None:
    assert extract_answer("  Once upon a time ") is None
    assert extract_answer("  Once upon a time ", "text") == Answer("Once upon a time", "text")
    assert extract_answer(" \n", "text") is None


HOSTILE = {
    "braces": "{" * MEGABYTE,
    "an open box of braces": "\\boxed{" + "{" * MEGABYTE,
    "boxes": "\\boxed{" * (MEGABYTE // 7),
    "nested boxes": "\\boxed{" * (MEGABYTE // 8) + "}" * (MEGABYTE // 8),
    "brackets": "[" * (MEGABYTE // 2) + "}" * (MEGABYTE // 2),
    "balanced brackets": "[" * (MEGABYTE // 2) + "]" * (MEGABYTE // 2),
    "quotes": '{"' + '\\"' * (MEGABYTE // 2),
    "phrases": "answer is " * (MEGABYTE // 10),
    "half phrases": "answer to " * (MEGABYTE // 10),
    "spaces": "answer" + " " * MEGABYTE,
    "stars": "answer is " + "*" * MEGABYTE,
    "fences": "```" * (MEGABYTE // 3),
    "options": "(A) " * (MEGABYTE // 4),
    "lines": "\n" * MEGABYTE,
}


@pytest.mark.parametrize("kind", ["auto", "choice", "json"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_megabyte_of_hostile_text_takes_linear_time(text: str, kind: Kind) -> None:
    started = time.process_time()
    extract_answer(text, kind)
    assert time.process_time() - started < 20  # quadratic time would be hours


@given(st.text(alphabet='\\{}[]()"ABab1, .:\n$*`#boxed answer is'), st.sampled_from(sorted(EXTRACTORS)))
def test_no_text_breaks_an_extractor(text: str, kind: str) -> None:
    found = EXTRACTORS[kind](text)
    assert found is None or found.text.strip()


PIECES = [
    "\\boxed{", "}", "{", "[", "]", "[1, 2]", '{"a": 1}', "```", "```json\n", "5", "A", "(B)", "option ", "choice C",
    "The answer", " is ", "Answer: ", "#### ", "####", "\n", "\n\n", " ", ".", "not ", "x = 3", "**", "words " * 300,
]  # fmt: skip


@settings(max_examples=600)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.sampled_from(PIECES), max_size=6))
def test_what_cannot_be_an_answer_yet_is_told_without_reading_the_text_anew(old: list[str], new: list[str]) -> None:
    before, text = "".join(old), "".join(old + new)
    for kind in ("auto", "boxed"):
        if extract_answer(before, kind) is None and not may_answer(text, len(before)):
            assert extract_answer(text, kind) is None


def test_a_long_text_is_not_looked_at_as_a_whole_again() -> None:
    thought = "Let x be half of it, and y the rest of what there is. " * 10_000
    assert not may_answer(thought + "So x is 3.\n\n", len(thought))
    assert may_answer(thought + "The answer is 3.\n\n", len(thought))
    assert may_answer(thought + "It is \\boxed{3}", len(thought))


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_phrases_are_found_wherever_their_pattern_is(pieces: list[str]) -> None:
    text = "".join(pieces)
    ends = [match.end() for match in extract._PHRASE.finditer(text)]  # pyright: ignore[reportPrivateUsage]
    found = extract._phrase_ends(text)  # pyright: ignore[reportPrivateUsage]
    assert ends[-1:] == found[-1:] and set(ends) <= set(found)
