r"""Reads the answer out of what a chain wrote: `\boxed{}`, "answer is", a choice letter, JSON, or the text itself.

Every extractor is linear in the text, whatever a model writes. A new kind of answer is one function and one entry in
`EXTRACTORS` (and in `AUTO_ORDER` if `auto` should look for it).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "AUTO_ORDER",
    "EXTRACTORS",
    "Answer",
    "Kind",
    "canonical_json",
    "extract_answer",
    "holds_box",
    "json_texts",
    "may_answer",
]

Kind = Literal["auto", "boxed", "phrase", "choice", "json", "text"]

_MAX_STATED = 1000
"""Characters. A longer "answer" after a phrase is the reasoning going on, not an answer."""
_MAX_TRIES = 16
"""Phrases and lines looked at from the end. More would let a repetitive text cost quadratic time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a chain states, as written (`text`), and where it was found (`kind`, never "auto").

    `key`: answers with equal keys are equal; None: the canonical form of the text is the key.
    """

    text: str
    kind: str
    key: str | None = None


def extract_answer(text: str, kind: Kind = "auto") -> Answer | None:
    """The last answer of this kind in a text; `auto` tries `AUTO_ORDER`. None: it states none."""
    if kind != "auto":
        return EXTRACTORS[kind](text)
    return next((found for name in AUTO_ORDER if (found := EXTRACTORS[name](text)) is not None), None)


def may_answer(text: str, since: int) -> bool:
    """Whether a text may state an answer that its first `since` characters do not state.

    A quick look at what is new, and at what it may complete: a growing text is not read anew at every turn. False is
    certain for the kinds `auto` and `boxed`.
    """
    new, near = text[since:], text[max(0, since - 2 * _MAX_STATED) :]
    if "}" in new or "]" in new or ("`" in text and "```" in text):  # a lone character is found many times sooner
        return True
    if ("#" in near and "####" in near) or "answer" in near.casefold():
        return True
    return _closing_choice(near) is not None


# --- boxed ---


def holds_box(text: str) -> bool:
    """Whether a text states an answer in a box."""
    return _boxed(text) is not None


_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_WHOLE_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_PLACEHOLDER = re.compile(r"[.\u2026?_\s]*|\\[lc]?dots")


def _boxed(text: str) -> Answer | None:
    r"""The last balanced `\boxed{}` or `\fbox{}` that is filled; of nested ones the outer, without the inner box."""
    begin = min((at for name in ("\\boxed", "\\fbox") if (at := text.find(name)) >= 0), default=-1)
    if begin < 0:
        return None
    found = ""
    opens: list[int] = []  # where the content of each open brace begins; negative: it is not a box
    for token in _BOX_TOKEN.finditer(text, begin):
        mark = token[0]
        if mark == "}":
            start = opens.pop() if opens else -1
            # A box cannot hold a paragraph: one that does was never closed, and a later brace closed it.
            if start >= 0 and token.start() - start <= _MAX_STATED and "\n\n" not in text[start : token.start()]:
                inside = text[start : token.start()].strip()
                found = found if _PLACEHOLDER.fullmatch(inside) else inside
        elif mark[-1] == "{" and mark != "\\{":
            opens.append(token.end() if len(mark) > 1 else -1)
    while (inner := _WHOLE_BOX.fullmatch(found)) is not None:
        found = inner[1].strip()
    return Answer(found, "boxed") if found else None


# --- "the answer is" ---

# What must or would be is an answer only where a value follows: "the answer must be positive" states none.
_PHRASE = re.compile(
    r"\banswers?\b(?:[ \t]+to[ \t][^.\n]{1,60}?)?[*_]{0,3}[ \t]{0,4}"
    r"(?:\b(?:is|was|are|equals)\b|[:=\uff1a\u2248]"
    r"|\b(?:must|would|should|will|has to) be\b(?=[*_ \t]{1,4}(?:[^\w\s]|\d|[A-J]\b)))"
    r"[*_:\uff1a \t]{0,8}"
    r"|^\#{4}[ \t]{0,4}",
    re.IGNORECASE | re.MULTILINE,
)
_FILLER = re.compile(
    r"(?:(?:therefore|thus|then|hence|simply|just|clearly|equal to|given by"
    r"|exactly|approx(?:\.|imately)?|about|roughly)(?!\w)[,:]?\s*){1,4}",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z][a-z])(?<!\b[A-Z])[.!?;](?=\s)")
_DISPLAY = re.compile(r"\s*(?:\$\$|\\\[|```\w*)\s*\n")
_NO_ANSWER = re.compile(r"(?:not\b|unknown\b|\\(?:boxed|fbox)\b)", re.IGNORECASE)
_LETTERED = re.compile(r"\(?([A-J])(?:[).:]\s.*|\)?|\)?,? (?:because|since|as)\b.*)", re.DOTALL)


def _phrase(text: str) -> Answer | None:
    """What follows the last "answer is", "Answer:" or "####", up to the end of its sentence or line."""
    for end in reversed(_phrase_ends(text)[-_MAX_TRIES:]):
        stated = _stated(text[end : end + _MAX_STATED + 1])
        if stated and not _NO_ANSWER.match(stated):
            letter = _LETTERED.fullmatch(stated)
            return Answer(letter[1], "choice") if letter else Answer(stated, "phrase")
    return None


def _phrase_ends(text: str) -> list[int]:
    """Where the phrases that introduce an answer end, in order; looks only where the words they begin with stand."""
    folded = text.casefold()
    if len(folded) != len(text):  # some letters fold into two: places in one are not places in the other
        return [match.end() for match in _PHRASE.finditer(text)]
    places = sorted((*_places(folded, "answer"), *_places(folded, "####")))
    return [match.end() for at in places if (match := _PHRASE.match(text, at))]


def _places(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + len(word))


def _stated(rest: str) -> str:
    """The answer at the head of a text; empty when there is none or it runs on too long."""
    if display := _DISPLAY.match(rest):
        rest = rest[display.end() :]
    line, newline, _ = rest.lstrip().partition("\n")
    if filler := _FILLER.match(line):
        line = line[filler.end() :]
    if end := _SENTENCE_END.search(line):
        line = line[: end.start()]
    elif not newline and len(rest) > _MAX_STATED:
        return ""
    return _bare(line)


def _bare(text: str) -> str:
    """Without markdown emphasis, math delimiters, quotes around it, and punctuation after it."""
    previous = None
    while text != previous:  # each pass shortens a text of at most _MAX_STATED characters
        previous = text
        text = text.strip().rstrip(".,;:!").strip("*_`\"'\u201c\u201d ")
        for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner and right not in inner:
                text = inner
    return text


# --- multiple choice ---

_OPTION = re.compile(r"(?<![\w\\({])\(([A-J])\)(?!\w)|\b(?i:option|choice)[ \t]+[*(]{0,3}([A-J])\b")
_BRACKETED = re.compile(r"\([A-J]\)")
_LONE_LETTER = re.compile(r"[*_(\s]{0,4}([A-J])[*_).\s]{0,4}")


def _choice(text: str) -> Answer | None:
    """The letter a text settles on: boxed, after "answer is", or the only option that its closing lines name."""
    for found in (_boxed(text), _phrase(text)):
        letter = _LETTERED.fullmatch(_untext(found.text)) if found else None
        if letter:
            return Answer(letter[1], "choice")
    lines = [line for line in text[-_MAX_TRIES * _MAX_STATED :].split("\n") if line.strip()]
    return next((found for line in reversed(lines[-_MAX_TRIES:]) if (found := _choice_in(line))), None)


def _closing_choice(text: str) -> Answer | None:
    """What `auto` takes for a choice: the last line must name exactly one option."""
    return _choice_in(text.rstrip()[-_MAX_STATED:].rsplit("\n", 1)[-1])


def _choice_in(line: str) -> Answer | None:
    lone = _LONE_LETTER.fullmatch(line)
    letters = {lone[1]} if lone else _options(line)
    return Answer(letters.pop(), "choice") if len(letters) == 1 else None


def _options(line: str) -> set[str]:
    """The options that a line names. Most lines name none, which is seen faster than by looking for all at once."""
    folded = line.casefold()
    if "option" not in folded and "choice" not in folded and not _BRACKETED.search(line):
        return set()
    return {a or b for a, b in _OPTION.findall(line)}


def _untext(text: str) -> str:
    match = re.fullmatch(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", text)
    return (match[1] if match else text).strip()


# --- JSON ---

_JSON_TOKEN = re.compile(r"\\.|[\"{}\[\]\n]", re.DOTALL)
_CLOSERS = {"}": "{", "]": "["}
_VALUE, _ARRAY = re.compile(r"[{\[]"), re.compile(r"\[")
_OBJECT = re.compile(r"\{\s*\"")
"""An object that holds something: in LaTeX empty braces stand for nothing."""
_AFTER_JSON = " \t\r\n.`*"


def canonical_json(text: str) -> str | None:
    """A JSON text in one form: sorted keys, no spaces, 2.0 as 2. None: it is not (standard) JSON."""
    try:
        value = json.loads(text, parse_float=_number, parse_constant=_refuse)
        form = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        form.encode()
    except (ValueError, RecursionError):  # also of a lone surrogate, which JSON can escape but UTF-8 cannot write
        return None
    return form


def _number(digits: str) -> float | int:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(digits)
    # Above 2**53 a float no longer tells neighbouring integers apart.
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def json_texts(text: str) -> Iterator[str]:
    """What may be JSON in a text, as written, last first: all of it, fenced blocks, balanced objects and arrays."""
    yield text.strip()
    for block in reversed(text.split("```")[1::2]):
        yield block.removeprefix("json").strip()
    for start, end in reversed(_balanced_spans(text)):
        yield text[start:end]


def _json(text: str) -> Answer | None:
    """The last fenced block that is JSON, or the last balanced object or array."""
    return _fenced_json(text) or _spanned_json(text, _VALUE)


def _closing_json(text: str) -> Answer | None:
    """What `auto` takes for JSON: a fenced block, any filled object, or an array at the end (others are intervals)."""
    found = _fenced_json(text)
    if found is None and _OBJECT.search(text):
        found = _spanned_json(text, _OBJECT)
    if found is None and text.rstrip(_AFTER_JSON).endswith("]"):
        found = _spanned_json(text, _ARRAY, at_end=True)
    return found


def _fenced_json(text: str) -> Answer | None:
    for block in reversed(text.split("```")[1::2]):
        body = block.removeprefix("json").strip()
        form = canonical_json(body) if body[:1] in ("{", "[") or block.startswith("json") else None
        if form is not None:
            return Answer(form, "json")
    return None


def _spanned_json(text: str, begins: re.Pattern[str], *, at_end: bool = False) -> Answer | None:
    """The last maximal balanced span that begins so and parses. Spans are disjoint: parsing them all stays linear."""
    for start, end in reversed(_balanced_spans(text)):
        if at_end and text[end:].strip(_AFTER_JSON):
            return None
        if begins.match(text, start) and (form := canonical_json(text[start:end])) is not None:
            return Answer(form, "json")
    return None


def _balanced_spans(text: str) -> list[tuple[int, int]]:
    """Maximal bracketed spans in order, brackets inside JSON strings not counted; one pass."""
    spans: list[tuple[int, int]] = []
    opens: list[int] = []
    depth = {"{": 0, "[": 0}
    quoted = False
    for token in _JSON_TOKEN.finditer(text):
        mark = token[0]
        if mark == "\n":
            quoted = False  # JSON strings do not span lines: that quote was prose
        elif mark == '"':
            quoted = bool(opens) and not quoted
        elif quoted or len(mark) > 1:
            continue
        elif mark in depth:
            opens.append(token.start())
            depth[mark] += 1
        elif depth[_CLOSERS[mark]]:
            start = _unwind(text, opens, depth, _CLOSERS[mark])
            del spans[bisect_left(spans, (start, 0)) :]
            spans.append((start, token.end()))
    return spans


def _unwind(text: str, opens: list[int], depth: dict[str, int], opener: str) -> int:
    """Drops stray openers down to the one that matches, and returns where that stands."""
    while True:
        start = opens.pop()
        depth[text[start]] -= 1
        if text[start] == opener:
            return start


# --- the text itself ---


def _text(text: str) -> Answer | None:
    """All of it; only when asked for."""
    stripped = text.strip()
    return Answer(stripped, "text") if stripped else None


EXTRACTORS: dict[str, Callable[[str], Answer | None]] = {
    "boxed": _boxed,
    "phrase": _phrase,
    "choice": _choice,
    "json": _json,
    "text": _text,
    "closing choice": _closing_choice,
    "closing json": _closing_json,
}
AUTO_ORDER: tuple[str, ...] = ("boxed", "phrase", "closing choice", "closing json")
