"""How questions and steps of the embedded pair's problems are worded.

Every kind of sentence has several wordings, so that a scored step differs in more than its numbers. The lexicon is kept
small on purpose: the pair's tokenizer has 512 tokens in all, and a word outside it costs a token per letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Operation = Literal["add", "sub", "mul", "div"]

EXPRESSION_QUESTIONS: Final = (
    "What is {e}?",
    "Compute {e}.",
    "Calculate {e}.",
    "Find the value of {e}.",
    "Work out {e}.",
)
EQUATION_QUESTIONS: Final = (
    "Solve {e} for x.",
    "If {e}, what is x?",
    "Find x if {e}.",
    "What is the value of x if {e}?",
)
REMAINDER_QUESTIONS: Final = (
    "What is the remainder when {n} is divided by {m}?",
    "Find the remainder of {n} divided by {m}.",
    "What is left when {n} is divided by {m}?",
    "Divide {n} by {m}. What is the remainder?",
)

ADD: Final = ("Add {n}: {c}.", "Next, add {n}: {c}.", "Now add {n}. {c}.", "Plus {n}: {c}.", "{c}.")
SUBTRACT: Final = (
    "Subtract {n}: {c}.",
    "Next, subtract {n}: {c}.",
    "Now take away {n}. {c}.",
    "Minus {n}: {c}.",
    "{c}.",
)
START: Final = ("Start with {n}. {s}", "We start with {n}. {s}", "Begin at {n}. {s}", "{s}", "{s}")
SPLIT: Final = ("Split {n} into {p}.", "Write {n} as {p}.", "First, {n} is {p}.", "Multiply by parts: {n} is {p}.")
MULTIPLY: Final = ("{c}.", "So {c}.", "Next, {c}.", "Then {c}.", "We get {c}.")
JOIN: Final = ("Add the parts: {c}.", "Together: {c}.", "Sum of the parts: {c}.", "Now add them: {c}.")
ISOLATE: Final = ("{s} So {e}.", "{s} This gives {e}.", "{s} Now {e}.", "{s} Then {e}.")
DIVIDE: Final = ("Divide by {m}: {c}.", "Now divide by {m}: {c}.", "Next, divide by {m}. {c}.", "{c}.")
REMAIN: Final = ("{c}.", "Take away {m} times {q}: {c}.", "Use {m} times {q}: {c}.", "Next, {c}.")
LAST: Final = (
    "The answer is \\boxed{{{a}}}",
    "So the answer is \\boxed{{{a}}}",
    "The result is \\boxed{{{a}}}",
    "We get \\boxed{{{a}}}",
)
LAST_X: Final = ("So x = \\boxed{{{a}}}", "The answer is \\boxed{{{a}}}", "The value of x is \\boxed{{{a}}}")
LAST_REMAINDER: Final = (
    "So the remainder is \\boxed{{{a}}}",
    "The answer is \\boxed{{{a}}}",
    "What is left is \\boxed{{{a}}}",
)
JOINERS: Final = (", ", ", then ", " and ")

NAMES: Final = ("Anna", "Ben", "Tom", "Mia", "Sam", "Lea")
ITEMS: Final = ("pens", "apples", "books", "eggs", "cards", "coins")


@dataclass(frozen=True)
class Story:
    """A word problem: texts with numbers to fill in, their inclusive ranges, and the operations that answer it.

    `program` runs on a stack of values, each line an operation and its operands: a name is a number of the story, `_`
    the newest value. A `total` is a product of two others, so that divisions come out even.
    """

    name: str
    texts: tuple[str, ...]
    ranges: dict[str, tuple[int, int]]
    program: tuple[tuple[Operation, str, str], ...]
    unit: str = "{item}"
    total: tuple[str, str, str] | None = None


STORIES: Final = (
    Story(
        "boxes",
        (
            "{name} has {a} boxes of {b} {item} and gets {c} more {item}. How many {item} are there?",
            "There are {a} boxes with {b} {item} each. {name} adds {c} {item}. How many {item} is that?",
        ),
        {"a": (3, 9), "b": (4, 60), "c": (11, 99)},
        (("mul", "b", "a"), ("add", "_", "c")),
    ),
    Story(
        "gifts",
        (
            "{name} buys {a} bags of {b} {item}, finds {c} more and gives away {d}. How many {item} are left?",
            "{name} has {a} bags with {b} {item} each. {name} finds {c} {item} and then loses {d}. "
            "How many {item} are left?",
        ),
        {"a": (4, 9), "b": (12, 50), "c": (11, 60), "d": (11, 55)},
        (("mul", "b", "a"), ("add", "_", "c"), ("sub", "_", "d")),
    ),
    Story(
        "change",
        (
            "One book costs {a} dollars. {name} buys {b} books and pays with {c} dollars. How many dollars are left?",
            "{name} has {c} dollars and buys {b} books for {a} dollars each. How many dollars are left?",
        ),
        {"a": (5, 29), "b": (2, 9), "c": (270, 500)},
        (("mul", "a", "b"), ("sub", "c", "_")),
        "dollars",
    ),
    Story(
        "savings",
        (
            "{name} saves {a} dollars a week for {b} weeks and then pays {c} dollars for a coat. "
            "How many dollars are left?",
            "Every week {name} saves {a} dollars. After {b} weeks {name} pays {c} dollars. How many dollars are left?",
        ),
        {"a": (11, 60), "b": (4, 9), "c": (11, 44)},
        (("mul", "a", "b"), ("sub", "_", "c")),
        "dollars",
    ),
    Story(
        "bus",
        (
            "A train starts with {a} people. First {b} get on, then {c} get off, and then {d} get on. "
            "How many people are on the train?",
            "There are {a} people on a train. At the first stop {b} get on and {c} get off. At the next stop {d} "
            "get on. How many people are on the train?",
        ),
        {"a": (40, 200), "b": (11, 60), "c": (11, 50), "d": (11, 60)},
        (("add", "a", "b"), ("sub", "_", "c"), ("add", "_", "d")),
        "people",
    ),
    Story(
        "shelves",
        (
            "{name} has {a} boxes of {b} {item} and {c} bags of {d} {item}. How many {item} is that?",
            "There are {b} {item} in each of {a} boxes and {d} {item} in each of {c} bags. How many {item} are there?",
        ),
        {"a": (3, 9), "b": (11, 40), "c": (3, 9), "d": (11, 40)},
        (("mul", "b", "a"), ("mul", "d", "c"), ("add", "1", "2")),
    ),
    Story(
        "times",
        (
            "{name} has {a} {item}. {other} has {b} times as many. How many {item} do they have together?",
            "{other} has {b} times as many {item} as {name}. {name} has {a}. How many {item} do both have together?",
        ),
        {"a": (11, 60), "b": (2, 9)},
        (("mul", "a", "b"), ("add", "_", "a")),
    ),
    Story(
        "sharing",
        (
            "{name} has {a} {item} and gets {b} more. All are put in {c} equal bags. How many {item} are in each bag?",
            "{name} finds {a} {item} and {other} finds {b}. They put all in {c} equal boxes. "
            "How many {item} are in each box?",
        ),
        {"c": (3, 9), "q": (11, 40), "a": (11, 30)},
        (("add", "a", "b"), ("div", "_", "c")),
        total=("b", "c", "q"),
    ),
    Story(
        "packing",
        (
            "{name} has {a} boxes of {b} {item}, gets {c} more, then loses {d}, and sells {e}. "
            "How many {item} are left?",
            "{name} starts with {a} boxes of {b} {item}. Then {name} gets {c} more, gives away {d} and sells {e}. "
            "How many {item} are left?",
        ),
        {"a": (4, 9), "b": (20, 60), "c": (11, 60), "d": (11, 35), "e": (11, 35)},
        (("mul", "b", "a"), ("add", "_", "c"), ("sub", "_", "d"), ("sub", "_", "e")),
    ),
)
