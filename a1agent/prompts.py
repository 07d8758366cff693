"""Chat prompts and what the engine says in a chain: step boundaries, the request for an answer."""

from __future__ import annotations

import dataclasses
import re

from a1agent.types import Question

__all__ = [
    "BLANK_LINE",
    "BOXED_INSTRUCTION",
    "BOX_OPENING",
    "MESSAGE_START",
    "NEXT_MESSAGE",
    "THINK_CLOSE",
    "THINK_OPEN",
    "THOUGHT_CLOSING",
    "THOUGHT_OPENING",
    "announces",
    "answer_cue",
    "ask_after",
    "ask_for_box",
    "asks_for_box",
    "final_message",
    "find_shown",
    "is_thinking",
    "opens_thought",
    "split_thinking",
    "unshown",
    "without_opening",
]

BLANK_LINE = "\n\n"
BOXED_INSTRUCTION = "Think step by step and put the final answer in \\boxed{}."
BOX_OPENING = "The final answer is \\boxed{"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
THOUGHT_OPENING = f"{THINK_OPEN}\n"
THOUGHT_CLOSING = f"\n{THINK_CLOSE}{BLANK_LINE}"
MESSAGE_START = "<|start|>assistant"
"""What stands before the kind of a message, of models that say it (`ModelInfo.channels`)."""
NEXT_MESSAGE = f"\n{THINK_CLOSE}{MESSAGE_START}"
_KIND = re.compile(rf"{re.escape(MESSAGE_START)}<\|channel\|>(\w+)<\|message\|>")
_FURTHER = re.compile(rf"\n?{THINK_CLOSE}{_KIND.pattern}")
_GEMMA_OPENING = re.compile(f"{THINK_OPEN}(?:thought\n)?")


def ask_after(question: Question, request: str) -> Question:
    """The question with a request after its last user message; a conversation without one is left as it is."""
    last = max((i for i, m in enumerate(question.messages) if m.role == "user"), default=None)
    if last is None or request in question.messages[last].content:
        return question
    message = question.messages[last]
    asked = dataclasses.replace(message, content=f"{message.content}{BLANK_LINE}{request}")
    messages = (*question.messages[:last], asked, *question.messages[last + 1 :])
    return dataclasses.replace(question, messages=messages)


def ask_for_box(question: Question) -> Question:
    """The question with the request to box its answer after the last user message."""
    return ask_after(question, BOXED_INSTRUCTION)


def asks_for_box(question: Question) -> bool:
    """Whether a system message or the last user message asks for a boxed answer; what was asked before is answered."""
    asking = [m for m in question.messages if m.role == "system"]
    asking += [m for m in question.messages if m.role == "user"][-1:]
    return any("\\boxed" in m.content for m in asking)


def is_thinking(text: str) -> bool:
    """Whether the text has opened its thinking and not closed it."""
    return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)


def opens_thought(prompt: str, question: Question) -> bool:
    """Whether the rendered prompt of a question ends inside a thought.

    It does where the template opens one for the assistant, or where the assistant's message to be continued left one
    open. A `<think>` elsewhere opens nothing: users may write it too.
    """
    last = question.messages[-1]
    said = last.content if last.role == "assistant" else ""
    opened = prompt.removesuffix(said).rstrip().endswith(THINK_OPEN)
    return is_thinking(THINK_OPEN + said if opened else said)


def split_thinking(text: str) -> tuple[str | None, str]:
    """What stands before the last `</think>` (None: the text does not think), and the message after it."""
    if THINK_OPEN not in text and THINK_CLOSE not in text:  # most often so, and seen at a glance in a long text
        return None, text.strip()
    head, mark, tail = text.rpartition(THINK_CLOSE)
    if mark:
        return _FURTHER.sub(BLANK_LINE, without_opening(head)).strip(), _without_kind(tail.strip())
    if is_thinking(text):
        return without_opening(text).strip(), ""
    return None, text.strip()


def without_opening(text: str) -> str:
    """A text without the mark that opens its thought, and the word that Gemma has there."""
    return _GEMMA_OPENING.sub("", text, count=1)


def announces(text: str) -> bool:
    """Whether the text ends in a message that only tells of the next one, of models that say which kind each is."""
    kind = _KIND.match(text.rpartition(THINK_CLOSE)[2])
    return kind is not None and kind[1] == "commentary"


def _without_kind(message: str) -> str:
    kind = _KIND.match(message)
    return message[kind.end() :].lstrip() if kind else message


def final_message(text: str) -> str:
    """The message of a chain without its thinking."""
    return split_thinking(text)[1]


def unshown(text: str) -> str:
    """The mark after which the text has shown nothing yet: `<think>`, `</think>`, or none where it has."""
    thinking, message = split_thinking(text)
    if thinking is None or message:
        return ""
    return THINK_OPEN if is_thinking(text) else THINK_CLOSE


def find_shown(text: str, string: str, start: int, after: str) -> int:
    """Where the string first stands from `start` on, not in a thought nor in the white space after one; -1 nowhere.

    `after`: the mark that the text comes after, as `unshown` gives it.
    """
    at = text.find(string, start)
    while at >= 0 and unshown(after + text[:at]):
        at = text.find(string, at + 1)
    return at


def answer_cue(text: str, opening: str | None) -> str:
    """What makes a chain that ran out of turns or tokens state its answer: closes the thinking, opens the statement."""
    close = THOUGHT_CLOSING if is_thinking(text) else ""
    if opening is None:
        return close or ("" if text.endswith("\n") else BLANK_LINE)
    lead = close or ("" if not text or text.endswith(BLANK_LINE) else BLANK_LINE)
    return lead + opening
