"""Patterns of JSON schemas, as llama.cpp's grammars have them."""

import re

import pytest
import regex

from a1agent.backends.gbnf_pattern import json_pattern

UNESCAPED = "".join(chr(code) for code in range(0x20, 0x250) if chr(code) not in '"\\\x7f')
"""Characters that stand in JSON as they are."""


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", r"\.", r"\x41", r"\u00e9", "é", "-", "/", "'"),
        *(
            "[abc]",
            "[^abc]",
            "[a-f0-9_]",
            "[ -~]",
            r"[\w.%+-]",
            r"[^\s/]",
            r"[^\W\d]",
            r"[\D5]",
            r"[\]\-a]",
            "[a-]",
            "[^-]",
            r"[\x41-\x45]",
        ),
    ],
)
def test_classes_hold_the_same_characters(pattern: str) -> None:
    made, _ = json_pattern(f"^{pattern}$")
    for character in UNESCAPED:
        allowed = re.search(made, character) is not None
        matches = re.search(f"^{pattern}$", character) is not None
        assert allowed <= matches
        assert allowed == matches or not character.isascii()


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (r"^\d{3}-\d{2}$", ["123-45", "123-4", "1234-5"]),
        (r"^(?:ab|c)+?d*$", ["abc", "abd", "d", "cabdd"]),
        (r"^(?<year>\d{4})(?P<rest>-\d\d){0,2}$", ["2024", "2024-01-02", "24"]),
        ("a|b", ["xxay", "b", "c", ""]),
        ("^a", ["ab", "ba"]),
        ("a$", ["ab", "ba"]),
        ("^a|b$|^cc$", ["ax", "xa", "xb", "bx", "cc", "xcc", "ccx"]),
        (r"^a\$", ["a$b", "a"]),
        ("^$", ["", "a"]),
        ("", ["", "a"]),
        ("^(a|)$", ["", "a", "b"]),
    ],
)
def test_texts_match_both_or_none(pattern: str, texts: list[str]) -> None:
    made, _ = json_pattern(pattern)
    assert made.startswith("^")
    assert made.endswith("$")
    for text in texts:
        assert (re.search(made, text) is None) == (regex.search(pattern, text) is None)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "^(?=a)b$",
            "(?<!a)b",
            r"(a)\1",
            r"\bword\b",
            r"^\p{L}$",
            "^a++$",
            "(^a$)",
            "[[:alpha:]]",
            '^"$',
            r"^\\$",
        ),
        *("^[a-z]{1,100000}$", "^([a-z]{1,40}){1,40}$", "^a{1" + "0" * 5000 + "}$", "(" * 40 + ")" * 40),
        *("^(a?){2}$", "^(a|b{0,2}){2}$", "^(){3}$", "(a", "a)", "[a", "a{", "a{}", "*", "^\\"),
    ],
)
def test_what_a_grammar_cannot_say_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError):
        json_pattern(pattern)


def test_repetitions_are_counted() -> None:
    assert json_pattern("^a{3}(b{2,5}c){2,}$")[1] == 10
