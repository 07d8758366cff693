r"""One spelling for equal answers: `\dfrac{1}{2}`, `0.50`, `2/4` and `$\frac12$` all have the key `1/2`.

Keys are what answers are grouped by, and all that the judge of algebra is shown: what two answers are to each other
depends on their keys alone, not on the spelling that came first.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from a1agent.engine.extract import canonical_json
from a1agent.engine.lists import Parts, bracketed, key_of_parts, several, unnamed
from a1agent.engine.values import is_boxed_unit, is_unit, number_in

__all__ = ["Form", "canonical_key", "form_of", "number_of", "parts_of", "same_key", "spoken"]

Form = Literal["number", "time", "choice", "words", "json", "list", "phrase", "expression"]

_MAX_CHARS = 2000
"""Longer answers are prose: only their whitespace is normalized."""
_MAX_DEPTH = 8
_MAX_ROUNDS = 8


def same_key(a: str, b: str) -> bool:
    """Whether two answers are spellings of the same one."""
    return canonical_key(a) == canonical_key(b)


@lru_cache(maxsize=1024)
def canonical_key(text: str) -> str:
    """The canonical spelling of an answer; a key is its own key."""
    for _ in range(_MAX_ROUNDS):  # one rewriting can make room for another; two rounds nearly always do
        key = _spell(text, _MAX_DEPTH)
        if key == text:
            break
        text = key
    return text


@lru_cache(maxsize=1024)
def form_of(key: str) -> Form:
    """What a key is. Of two different keys only an expression, or a list that holds one, may yet equal another."""
    if number_of(key) is not None:
        return "number"
    if _time_key(key) is not None:
        return "time"
    if _CHOICE_KEY.fullmatch(key):
        return "choice"
    if _json_key(key) is not None:
        return "json"
    if _words_key(key) is not None:
        return "words"
    if parts_of(key) is not None:
        return "list"
    return "phrase" if _is_phrase(key) else "expression"


def parts_of(key: str) -> Parts | None:
    """What a key that is a list is made of; None: it is none, or one of names and values."""
    if len(key) > _MAX_CHARS:
        return None
    parts = bracketed(key) or several(key)
    return None if parts is None or parts.names else parts


def _spell(text: str, depth: int) -> str:
    if len(text) > _MAX_CHARS or depth == 0:
        return " ".join(text.split())
    if (json_key := _json_key(text)) is not None:
        return json_key
    plain = _clean(text)
    value = unnamed(plain)
    if (number := number_of(value)) is not None:
        return str(number)
    key = _time_key(value) or _choice_key(plain) or _words_key(plain)
    if key is not None:
        return key
    parts = bracketed(value) or several(plain)
    if parts is not None:
        keys = [_spell(part, depth - 1) for part in parts.texts]
        return key_of_parts(parts, keys, nested=depth < _MAX_DEPTH)
    return _expression_key(plain if _LETTER.search(value) else value)


# --- cleaning: one way to write each symbol ---

_UNICODE = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63", "-"),
        **dict.fromkeys("\u00d7\u00b7\u22c5\u2217", "*"),
        **dict.fromkeys("\u2215\u2044\u00f7", "/"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007", " "),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        "\u00b2": "^2",
        "\u00b3": "^3",
        "\u03c0": "\\pi ",
        "\u221e": "\\infty ",
        "\u2264": "\\leq ",
        "\u2265": "\\geq ",
        "\u2260": "\\neq ",
        "\u00b1": "\\pm ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2208": "\\in ",
        "\u2205": "\\emptyset ",
        "\u211d": "\\mathbb{R}",
    }
)
_FUNCTION = r"(?<![\\A-Za-z_{])(sin|cos|tan|cot|csc|exp|ln|log|arcsin|arccos|arctan)(?= ?[\\(0-9A-Za-z{])"
_VECTOR = r"\\(?:vec|hat|mathbf|boldsymbol|overrightarrow)(?![A-Za-z])"
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\(?:left|right|displaystyle|textstyle|limits|[Bb]igg?[lr]?)(?![A-Za-z])", ""),
        (r"\\!", ""),
        (r"(?<![\\$])\$(?=[^\s$])([^$]*[^\s$\\,;])\$(?![0-9$])", r" \1 "),
        (r"^(?:\\approx(?![A-Za-z])|\u2248|\b(?:approx(?:imately|\.)?|about|roughly)(?![A-Za-z]))\s*(?=\S)", ""),
        (r"\{([,:])\}|\\text\s*\{(,)\}", r"\1\2"),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{ ?([^{}]*?) ?\\over(?![A-Za-z]) ?([^{}]*?) ?\}", r"\\frac{\1}{\2}"),
        (r"\\(begin|end)\s*\{[bB]matrix\}", r"\\\1{pmatrix}"),
        (rf"(\\nabla ?)\\times(?![A-Za-z])|\\times(?= ?{_VECTOR})", r"\1\\cross "),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\*\*", "^"),
        (r"\\%", "%"),
        (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(le|ge|ne)(?![A-Za-z])", r"\\\1q"),
        (r"(?<![\\A-Za-z])sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (_FUNCTION, r"\\\1"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", "\u00b0"),
        (r"\\frac\s*([0-9A-Za-z])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])", r"\1{\2}"),
        (r"\\frac\{-([0-9]+)\}\{-([0-9]+)\}", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"\^ ?-([0-9]+|[A-Za-z])(?![0-9A-Za-z(\\{])", r"^{-\1}"),
        (r"([\^_])\s*\{\s*([0-9A-Za-z])\s*\}(?! ?[0-9])", r"\1\2"),
    )
)
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("'", "'"))
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_TEXT_BOX = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\*?\s*\{([^{}]*)\}"
)
_BOXED_WORDS = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_UNIT_TAIL = re.compile(
    rf"(?:(?<=[0-9}})])|(?<=pi))\s*(?:{_BOXED_WORDS.pattern}(?:\^\{{?-?[123]\}}?)?(?:[ /*]|\\cdot)*)+[\s$.]*$"
)


def _clean(text: str) -> str:
    text = _unwrap(text.translate(_UNICODE))
    if box := _BOX.fullmatch(text):
        text = _unwrap(box[1])
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = _TEXT_BOX.sub(r" \1 ", _without_boxed_unit(text))
    return _unwrap(re.sub(r"\s+", " ", text))


def _without_boxed_unit(text: str) -> str:
    tail = _UNIT_TAIL.search(text)
    if tail is None or not all(is_boxed_unit(box[1].strip()) for box in _BOXED_WORDS.finditer(tail[0])):
        return text
    return text[: tail.start()]


def _unwrap(text: str) -> str:
    """Without math delimiters, emphasis and quotes around it, and punctuation after it."""
    previous = None
    while text != previous:
        previous = text
        text = text.strip(' \t\r\n*`"\u201c\u201d')
        if not text.endswith(".."):  # 0.333... is not 0.333
            text = text.rstrip(".,;:")
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            if inner and text.startswith(left) and text.endswith(right) and right not in inner:
                text = inner
    return text


# --- numbers and times ---

_COLON = re.compile(r"([0-9]+) ?: ?([0-9]+)")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]) ?: ?([0-5][0-9])")
_TIME = re.compile(r"([0-9]{1,2})(?::([0-5][0-9]))? ?([ap])\.? ?m", re.IGNORECASE)
_TWELVE = re.compile(r"(?:12(?::00)? ?)?(noon|midnight)", re.IGNORECASE)


def number_of(text: str) -> Fraction | None:
    """The exact value of a number, or of a ratio such as 3:2 that is no time of day; None: it is neither."""
    ratio = _COLON.fullmatch(text)
    if ratio is None:
        return number_in(text)
    if _CLOCK.fullmatch(text) or int(ratio[2]) == 0:
        return None
    return Fraction(int(ratio[1]), int(ratio[2]))


def _time_key(text: str) -> str | None:
    """A time of day by the clock of twelve hours; without am or pm where it does not tell which half of the day."""
    if match := _TIME.fullmatch(text):
        return f"{int(match[1])}:{match[2] or '00'} {match[3].lower()}m"
    if match := _TWELVE.fullmatch(text):
        return "12:00 pm" if match[1].lower() == "noon" else "12:00 am"
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hour = int(match[1])
    half = " pm" if hour > 12 else " am" if match[1] == "00" else ""
    return f"{(hour % 12 or 12) if half else hour}:{match[2]}{half}"


# --- choices, words, JSON, phrases ---

_CHOICE_KEY = re.compile(r"[A-Z]")
_CHOICE = re.compile(r"\( ?([A-Za-z]) ?\)[.:]?|\[([A-Z])\]|([A-Z])[).:]?|(?:[Oo]ption|[Cc]hoice) ?\(?([A-Z])\)?")
_CHOICES = re.compile(r"[A-Z](?:(?:,| and |, and ) ?[A-Z])+")
_WORDS = re.compile(r"[^\W\d_][^\W\d_]*(?:[ ,.'-]+[^\W\d_]+)*")
_PROSE = re.compile(
    r"(?<![\\A-Za-z{_])(?:[A-Za-z]{4,}|not|for|all|any|are|odd|the|day|mod|one|two|six|ten|per|if|is|to|by|of|at|vs)(?![A-Za-z])"
    r"|(?<=[0-9}]) ?(?:mm|cm|dm|km|in|ft|yd|mi|ml|mg|kg|lb|oz|hr|min|sec)(?![A-Za-z])"
    r"|(?<![\^0-9])[0-9]+_|\b[0-9]+[A-F]+_|[0-9] ?[:']|, ?0[0-9]|^[IVX]{2,}$"
)
"""What algebra would take for products: words, units between numbers, digits with a base or in groups, ratios, feet,
and Roman numbers."""


def _choice_key(text: str) -> str | None:
    match = _CHOICE.fullmatch(text)
    return next(letter for letter in match.groups() if letter).upper() if match else None


def _words_key(text: str) -> str | None:
    if _CHOICES.fullmatch(text):
        return ", ".join(re.findall(r"\b[A-Z]\b", text))
    if not _WORDS.fullmatch(text):
        return None
    # Two letters may be a product (AB is not ab); three are a word.
    if len(max(re.split(r"[ ,.'-]+", text), key=len)) < 3 and text.lower() != "no":
        return None
    return text.casefold()


def _json_key(text: str) -> str | None:
    text = text.strip()
    return canonical_json(text) if text[:1] in ("{", "[") and '"' in text else None


def _is_phrase(key: str) -> bool:
    return _PROSE.search(key) is not None


# --- everything else ---

_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z,]) | (?![0-9A-Za-z])")
_COMMA = re.compile(r",(?! )")
_PLAIN_UNIT = re.compile(r"(?<=[0-9})])(?: ?%| ([A-Za-z][A-Za-z. ^/0-9-]*))$")
_PRIMES = re.compile(r"(?<![A-Za-z\\])([A-Za-z])('+)")


def _expression_key(text: str) -> str:
    """Without a unit, and the spaces that mean nothing; a comma keeps one, so that 1, 234 never reads as 1,234."""
    tail = _PLAIN_UNIT.search(text)
    if tail and (tail[1] is None or (is_unit(tail[1]) and not _is_phrase(text[: tail.start()]))):
        text = text[: tail.start()]
    return _COMMA.sub(", ", _LOOSE_SPACE.sub("", text)).strip().removeprefix("+")


def spoken(key: str) -> str:
    """A key as the judge is to read it, which drops primes: f' would be f."""
    return _PRIMES.sub(lambda primed: f"{primed[1]}_{{prime{len(primed[2])}}}", key)
