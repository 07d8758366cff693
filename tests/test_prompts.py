"""What the engine says in a chain, and how it reads thinking."""

import pytest

from a1agent import Message, Question
from a1agent.prompts import (
    BOX_OPENING,
    BOXED_INSTRUCTION,
    NEXT_MESSAGE,
    announces,
    answer_cue,
    ask_for_box,
    asks_for_box,
    find_shown,
    is_thinking,
    opens_thought,
    split_thinking,
)

TELLS = "<|channel|>commentary<|message|>I call."


def test_the_box_is_asked_for_once_after_the_last_user_message() -> None:
    messages = (
        Message(role="user", content="1 + 1?"),
        Message(role="assistant", content="2"),
        Message(role="user", content="And 2 + 2?"),
    )
    asked = ask_for_box(ask_for_box(Question(messages=messages)))
    assert [m.content for m in asked.messages] == ["1 + 1?", "2", f"And 2 + 2?\n\n{BOXED_INSTRUCTION}"]
    assert asks_for_box(asked)
    assert not asks_for_box(Question(messages=messages))


def test_a_box_that_an_earlier_message_asked_for_is_not_asked_for_any_more() -> None:
    asked, answered = Message(role="user", content="3 + 4? \\boxed{} it."), Message(role="assistant", content="7")
    poem = Message(role="user", content="Now write me a poem.")
    always = Message(role="system", content="Put every answer in \\boxed{}.")
    assert asks_for_box(Question(messages=(asked,)))
    assert not asks_for_box(Question(messages=(asked, answered, poem)))
    assert asks_for_box(Question(messages=(always, asked, answered, poem)))
    assert asks_for_box(Question(messages=(asked, Message(role="assistant", content="It is"))))


@pytest.mark.parametrize(
    ("text", "thinking", "message"),
    [
        ("Hello.", None, "Hello."),
        ("<think>\nhm\n</think>\n\nHello.", "hm", "Hello."),
        ("hm\n</think>\n\nHello.", "hm", "Hello."),  # the template opened the thinking
        ("<think>\nhm", "hm", ""),
        ("<think>thought\nhm</think>Hello.", "hm", "Hello."),  # Gemma's word
        (f"<think>\nhm{NEXT_MESSAGE}<|channel|>final<|message|>Hello.", "hm", "Hello."),
        (f"hm{NEXT_MESSAGE}{TELLS}{NEXT_MESSAGE}<|channel|>final<|message|>", "hm\n\nI call.", ""),
    ],
)
def test_thinking_is_told_from_the_message(text: str, thinking: str | None, message: str) -> None:
    assert split_thinking(text) == (thinking, message)


def test_a_message_that_tells_of_the_next_is_not_the_last() -> None:
    assert announces(f"hm{NEXT_MESSAGE}{TELLS}")
    assert not announces(f"hm{NEXT_MESSAGE}<|channel|>commentary to=functions.add<|message|>{{}}")
    assert not announces(f"hm{NEXT_MESSAGE}<|channel|>final<|message|>I call.")
    assert not announces("I call.")


def test_thinking_is_open_until_it_is_closed() -> None:
    assert is_thinking("<think> a </think> b <think> c")
    assert not is_thinking("<think> a </think> b")


@pytest.mark.parametrize(
    ("prompt", "said", "opened"),
    [
        ("user: 1 + 1?\nassistant: <think>\n", None, True),
        ("user: 1 + 1?\nassistant: <think>", None, True),
        ("user: 1 + 1?\nassistant: <think>\n\n</think>\n\n", None, False),  # told not to think
        ("user: what does <think> mean?\nassistant: ", None, False),
        ("user: 1 + 1?\nassistant: <think>\nTwo", "<think>\nTwo", True),
        ("user: 1 + 1?\nassistant: <think>\nTwo", "Two", True),  # the template opened what is continued
        ("user: 1 + 1?\nassistant: <think>\nTwo</think> So", "Two</think> So", False),
        ("user: 1 + 1?\nassistant: Two", "Two", False),
    ],
)
def test_a_prompt_may_end_inside_a_thought(prompt: str, said: str | None, opened: bool) -> None:
    messages = (Message(role="user", content="1 + 1?"),)
    begun = () if said is None else (Message(role="assistant", content=said),)
    assert opens_thought(prompt, Question(messages=messages + begun)) is opened


@pytest.mark.parametrize(
    ("text", "boxed", "cue"),
    [
        ("So 1 + 1 = 2.", True, "\n\nThe final answer is \\boxed{"),
        ("So 1 + 1 = 2.\n\n", True, "The final answer is \\boxed{"),
        ("", True, "The final answer is \\boxed{"),
        ("<think> hm", True, "\n</think>\n\nThe final answer is \\boxed{"),
        ("<think> hm", False, "\n</think>\n\n"),
        ("Once upon a time", False, "\n\n"),
        ("Once upon a time\n", False, ""),
    ],
)
def test_a_chain_is_asked_for_its_answer_where_it_stands(text: str, boxed: bool, cue: str) -> None:
    assert answer_cue(text, BOX_OPENING if boxed else None) == cue


@pytest.mark.parametrize(
    ("text", "after", "at"),
    [
        ("one\ntwo", "", 3),
        ("one two", "", -1),
        ("<think>a\nb</think>\n\none\ntwo", "", 23),
        ("<think>a\nb", "", -1),
        ("a\nb</think>\n\none\ntwo", "<think>", 16),
        ("a\nb", "<think>", -1),
        ("\n\none\ntwo", "</think>", 5),
    ],
)
def test_a_stop_text_is_found_in_what_is_shown(text: str, after: str, at: int) -> None:
    assert find_shown(text, "\n", 0, after) == at
