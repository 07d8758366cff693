r"""One spelling for equal answers: `\dfrac{1}{2}`, `0.50`, `2/4` and `$\frac12$` all have the key `1/2`.

Numbers are exact (`Fraction`), never floats. Units, currency signs and degrees are dropped, because chains that answer
the same question differ in whether they name the unit and hardly ever in which; a percent sign is kept.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from a1agent.engine.extract import canonical_json

__all__ = ["Form", "canonical_key", "form_of", "number_of", "same_key", "spoken"]

Form = Literal["number", "time", "choice", "words", "json", "expression"]

_MAX_CHARS = 2000
"""Longer answers are prose: only their whitespace is normalized."""
_MAX_NUMBER_CHARS = 400
_MAX_EXPONENT = 400
"""Decimal exponents beyond are not expanded: 1e999999999 has a billion digits."""
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
    """What a key is. Two different keys neither of which is an expression are different answers."""
    if _parse_number(key) is not None:
        return "number"
    if _time_key(key) is not None:
        return "time"
    if _CHOICE_KEY.fullmatch(key):
        return "choice"
    if _json_key(key) is not None:
        return "json"
    return "words" if _words_key(key) is not None else "expression"


def number_of(key: str) -> tuple[Fraction, bool] | None:
    """A numeric key as its exact value and whether it is a percentage (50% is 50, True)."""
    return _parse_number(key)


def _spell(text: str, depth: int) -> str:
    if len(text) > _MAX_CHARS or depth == 0:
        return " ".join(text.split())
    if (json_key := _json_key(text)) is not None:
        return json_key
    plain = _clean(text)
    for form in (_number_key, _time_key, _choice_key, _words_key):
        if (key := form(plain)) is not None:
            return key
    return _list_key(plain, depth) or _expression_key(plain)


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
        "\u2019": "'",
    }
)
_TEXT_BOX = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\*?\s*\{([^{}]*)\}"
# A unit of one letter is told from a variable by its box: 5\text{ m} is a length, 5m a product.
_LETTER_UNIT = r"(?<=[0-9}])\s*\\(?:text|textrm|mathrm|mbox)\s*\{\s*[mgshLNJWV](?:/[mgsh])?\s*\}(?:\^\{?[23]\}?)?\s*$"
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\(?:left|right|displaystyle|textstyle|limits|[Bb]igg?[lr]?)(?![A-Za-z])", ""),
        (r"\\!", ""),
        (r"\{,\}", ","),
        (r"\\[,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\*\*", "^"),
        (r"\\%", "%"),
        (r"\\(le|ge|ne)(?![A-Za-z])", r"\\\1q"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degree(?![A-Za-z])", "\u00b0"),
        (_LETTER_UNIT, ""),
        (_TEXT_BOX, r" \1 "),
        (r"\\frac\s*([0-9A-Za-z])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"([\^_])\s*\{\s*([0-9A-Za-z])\s*\}", r"\1\2"),
        (r"\s+", " "),
    )
)
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("'", "'"))


def _clean(text: str) -> str:
    text = _unwrap(text.translate(_UNICODE))
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    return _unwrap(text)


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


# --- numbers ---

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"[+-]? ?{_DIGITS}"
_PLAIN = re.compile(_SIGNED)
_RATIO = re.compile(rf"([+-]?) ?(?:({_SIGNED}) ?/ ?({_SIGNED})|\\frac ?\{{ ?({_SIGNED}) ?\}} ?\{{ ?({_SIGNED}) ?\}})")
_MIXED = re.compile(r"([+-]?) ?([0-9]+) ?(?:(?<= )([0-9]+) ?/ ?([0-9]+)|\\frac ?\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\})")
_SCIENTIFIC = re.compile(rf"({_SIGNED})(?:[eE]| ?[*xX] ?10 ?\^)(?:([+-]?[0-9]{{1,4}})|\{{ ?([+-]?[0-9]{{1,4}}) ?\}})")
_POWER_OF_TEN = re.compile(r"([+-]?) ?10 ?\^ ?(?:([+-]?[0-9]{1,4})|\{ ?([+-]?[0-9]{1,4}) ?\})")
_ASSIGNED = re.compile(r"[A-Za-z](?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\}))? ?= ?")
_CURRENCY = re.compile(r"([+-]? ?)(?:\\?\$|\u20ac|\u00a3|\u00a5) ?")
_CURRENCY_AFTER = re.compile(r" ?[\u20ac\u00a3\u00a5]$")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(rf"(.*[0-9.}}]) ?({'|'.join(_SCALES)})(?: ([A-Za-z].*))?", re.IGNORECASE)
_PERCENT = re.compile(r" ?(?:%|per ?cents?)", re.IGNORECASE)
_DEGREES = re.compile(r" ?\u00b0 ?[CF]?")
_EXPONENT = r"(?: ?\^ ?(?:-?[123]|\{ ?-?[123] ?\}))?"
_UNIT = re.compile(rf"[A-Za-z][A-Za-z. -]*{_EXPONENT}(?: ?/ ?[A-Za-z]+{_EXPONENT})?")
_MARKED = re.compile(rf"(.*?[0-9.}}]) ?([%\u00b0A-Za-z][%\u00b0A-Za-z./ -]*{_EXPONENT}(?: ?/ ?[A-Za-z]+{_EXPONENT})?)")
_WORDS_IN = r"\\(?:text|textbf|textit|textrm|mbox)\s*\{([^{}]*)\}|\\mathrm\s*\{([^{}]{2,})\}"
_WORD_BOX = re.compile(_WORDS_IN)
_UNIT_TAIL = re.compile(rf"(?:(?:{_WORDS_IN})(?:\^\{{?-?[123]\}}?)?[ /]*)+[\s$.]*$")
_PRIMES = re.compile(r"(?<![A-Za-z\\])([A-Za-z])('+)")
_LETTER = re.compile(r"[mgshLNJWV]")
_SHORT_UNITS = frozenset(
    re.findall(r"\w+", "mm cm dm km in ft yd mi ha ml cl dl mg kg lb oz ms hr hrs min sec mph kph rad deg sq cu")
)
_VALUE_WORDS = """
    thousand hundred million billion trillion dozen half halves third thirds quarter quarters fifth fifths sixth sixths
    seventh sevenths eighth eighths ninth ninths tenth tenths twelfth twelfths hundredth hundredths thousandth
    thousandths millionth millionths below negative and mod modulo times plus minus over sqrt root squared cubed log sin
    cos tan cot sec csc exp div base infinity inf choose factorial less more than with remainder not off equals frac
    cdot the noon midnight
"""
_NOT_UNITS = frozenset(re.findall(r"\w+", _VALUE_WORDS))


def _number_key(text: str) -> str | None:
    found = _parse_number(text)
    if found is None:
        return None
    value, percent = found
    return f"{value}%" if percent else str(value)


def _parse_number(text: str) -> tuple[Fraction, bool] | None:
    """A number with all that may stand around it: a name before it, a currency sign, a percent sign or a unit."""
    if not text or len(text) > _MAX_NUMBER_CHARS:
        return None
    if assigned := _ASSIGNED.match(text):
        text = text[assigned.end() :]
    if currency := _CURRENCY.match(text):
        text = currency[1] + text[currency.end() :]
    text = _CURRENCY_AFTER.sub("", text)
    if text.startswith("(") and text.endswith(")") and "," not in text:  # (1,234) is a pair
        text = text[1:-1].strip()
    value = _value(text)
    if value is not None:
        return value, False
    return _scaled(text) or _with_unit(text)


def _scaled(text: str) -> tuple[Fraction, bool] | None:
    """A number of thousands or millions, of whatever unit."""
    split = _SCALED.fullmatch(text)
    value = _value(split[1]) if split and (not split[3] or _is_unit(split[3])) else None
    return None if split is None or value is None else (value * _SCALES[split[2].lower()], False)


def _with_unit(text: str) -> tuple[Fraction, bool] | None:
    split = _MARKED.fullmatch(text)
    if split is None:
        return None
    percent = _PERCENT.fullmatch(split[2]) is not None
    if not (percent or _DEGREES.fullmatch(split[2]) or _is_unit(split[2])):
        return None
    value = _value(split[1])
    return None if value is None else (value, percent)


def spoken(text: str) -> str:
    r"""An answer as the judge is to read it, which drops primes and what `\text{}` holds: a unit at the end stays.

    Otherwise 2 hours 30 minutes would be 2 hours 45 minutes, 5 million 5, and f' f.
    """
    tail = _UNIT_TAIL.search(text)
    units = [_first(box) for box in _WORD_BOX.finditer(tail[0])] if tail else []
    end = tail.start() if tail and all(map(_is_boxed_unit, units)) else len(text)
    words = _WORD_BOX.sub(lambda box: f" {_first(box)} ", text[:end]) + text[end:]
    return _PRIMES.sub(lambda primed: f"{primed[1]}_{{prime{len(primed[2])}}}", words)


def _first(box: re.Match[str]) -> str:
    return next(words for words in box.groups() if words is not None).strip(" ~")


def _is_boxed_unit(words: str) -> bool:
    return _LETTER.fullmatch(words) is not None or _is_unit(words)


def _is_unit(tail: str) -> bool:
    if _UNIT.fullmatch(tail) is None:
        return False
    words = [word.lower() for word in re.findall(r"(?<!/)(?<!/ )\b[A-Za-z]+|[A-Za-z]{2,}", tail)]
    # One letter may be a variable. Of longer words, those that change the value are known.
    return all(word in _SHORT_UNITS or (len(word) > 2 and word not in _NOT_UNITS) for word in words)


def _value(text: str) -> Fraction | None:
    """The exact value of a bare number, fraction, mixed number or power of ten."""
    if _PLAIN.fullmatch(text):
        return _decimal(text)
    if mixed := _MIXED.fullmatch(text):
        sign, whole, *parts = mixed.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        if top < bottom:  # otherwise it is a product, as in 2\frac{3}{2}
            value = int(whole) + Fraction(top, bottom)
            return -value if sign == "-" else value
        return None
    if ratio := _RATIO.fullmatch(text):
        sign, *parts = ratio.groups()
        top, bottom = (_decimal(part) for part in parts if part is not None)
        if bottom == 0:
            return None
        return -top / bottom if sign == "-" else top / bottom
    return _power(text)


def _power(text: str) -> Fraction | None:
    if match := _SCIENTIFIC.fullmatch(text):
        factor, exponent = _decimal(match[1]), int(match[2] or match[3])
    elif match := _POWER_OF_TEN.fullmatch(text):
        factor, exponent = Fraction(-1 if match[1] == "-" else 1), int(match[2] or match[3])
    else:
        return None
    return factor * Fraction(10) ** exponent if abs(exponent) <= _MAX_EXPONENT else None


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


# --- times, choices, words, JSON ---

_TIME = re.compile(r"([0-9]{1,2})(?::([0-5][0-9]))? ?([ap])\.? ?m", re.IGNORECASE)
_CHOICE_KEY = re.compile(r"[A-Z]")
_CHOICE = re.compile(r"\( ?([A-Za-z]) ?\)[.:]?|\[([A-Z])\]|([A-Z])[).:]?|(?:[Oo]ption|[Cc]hoice) ?\(?([A-Z])\)?")
_WORDS = re.compile(r"[^\W\d_][^\W\d_]*(?:[ ,.'-]+[^\W\d_]+)*")


def _time_key(text: str) -> str | None:
    match = _TIME.fullmatch(text)
    return f"{int(match[1])}:{match[2] or '00'} {match[3].lower()}m" if match else None


def _choice_key(text: str) -> str | None:
    match = _CHOICE.fullmatch(text)
    return next(letter for letter in match.groups() if letter).upper() if match else None


def _words_key(text: str) -> str | None:
    if not _WORDS.fullmatch(text):
        return None
    # Two letters may be a product (AB is not ab); three are a word.
    if len(max(re.split(r"[ ,.'-]+", text), key=len)) < 3 and text.lower() != "no":
        return None
    return text.casefold()


def _json_key(text: str) -> str | None:
    text = text.strip()
    return canonical_json(text) if text[:1] in ("{", "[") and '"' in text else None


# --- tuples, intervals, sets; everything else ---

_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}
_BRACKET = re.compile(r"\\[{}]|[()\[\]{}]|,")


def _list_key(text: str, depth: int) -> str | None:
    """A bracketed list with each part spelled canonically; the parts of a set in order. None: it is no such list."""
    opener = "\\{" if text.startswith("\\{") else text[:1]
    closer = "\\}" if text.endswith("\\}") else text[-1:]
    if opener not in _BRACKETS or closer not in _BRACKETS.values():
        return None
    if (opener in ("{", "\\{")) != (closer in ("}", "\\}")):  # intervals may close with the other bracket, sets not
        return None
    parts = _split(text[len(opener) : -len(closer)])
    if parts is None:
        return None
    keys = [_spell(part, depth - 1) for part in parts]
    if opener in ("{", "\\{"):
        return "\\{" + ", ".join(sorted(set(keys))) + "\\}"
    return opener + ", ".join(keys) + closer


def _split(inner: str) -> list[str] | None:
    """The parts between top-level commas; None for fewer than two, an empty one, or brackets that do not match."""
    parts: list[str] = []
    start = level = 0
    for token in _BRACKET.finditer(inner):
        if token[0] == ",":
            if level == 0:
                parts.append(inner[start : token.start()])
                start = token.end()
            continue
        level += 1 if token[0] in _BRACKETS else -1
        if level < 0:
            return None
    parts.append(inner[start:])
    return parts if level == 0 and len(parts) > 1 and all(part.strip() for part in parts) else None


_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z,]) | (?![0-9A-Za-z])")
_COMMA = re.compile(r",(?! )")


def _expression_key(text: str) -> str:
    """Without the spaces that mean nothing; a comma keeps one, so that the list 1, 234 never reads as 1,234."""
    return _COMMA.sub(", ", _LOOSE_SPACE.sub("", text)).strip()
