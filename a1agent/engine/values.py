r"""The exact value of a number, however it is written: `1,234`, `\frac12`, `4 2/3`, `0.\overline{3}`, `1.5\times10^3`.

Values are `Fraction`, never floats. Units, currency signs, degrees and percent signs are dropped, because chains that
answer the same question differ in whether they name the unit and hardly ever in which. So 50% is 50, as MATH's own
grader has it, and not 1/2: if it were both, 50 would be 1/2.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["decimal_or_fraction", "is_boxed_unit", "is_unit", "number_in"]

_MAX_NUMBER_CHARS = 400
_MAX_EXPONENT = 400
"""Decimal exponents beyond are not expanded: 1e999999999 has a billion digits."""

_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]{1,3}(?: [0-9]{3})+"
_EUROPEAN = r"[1-9][0-9]{0,2}(?:(?:\.[0-9]{3}){2,}(?:,[0-9]+)?|(?:\.[0-9]{3}|(?: [0-9]{3})+),[0-9]{2})"
_DIGITS = rf"(?:{_EUROPEAN}|{_GROUPED}|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"[+-]? ?{_DIGITS}"
_PLAIN = re.compile(_SIGNED)
_IS_EUROPEAN = re.compile(rf"[+-]? ?(?:{_EUROPEAN})")
_RATIO = re.compile(rf"([+-]?) ?(?:({_SIGNED}) ?/ ?({_SIGNED})|\\frac ?\{{ ?({_SIGNED}) ?\}} ?\{{ ?({_SIGNED}) ?\}})")
_MIXED = re.compile(r"([+-]?) ?([0-9]+) ?(?:(?<= )([0-9]+) ?/ ?([0-9]+)|\\frac ?\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\})")
_REPEATING = re.compile(
    r"([+-]?) ?([0-9]*)\.([0-9]*)"
    r"(?:\\(?:overline|bar) ?(?:\{ ?([0-9]+) ?\}|([0-9]))|\\dot ?\{? ?([0-9]) ?\}?|\(([0-9]+)\))"
)
_SCIENTIFIC = re.compile(rf"({_SIGNED})(?:[eE]| ?[*xX] ?10 ?\^)(?:([+-]?[0-9]{{1,4}})|\{{ ?([+-]?[0-9]{{1,4}}) ?\}})")
_POWER_OF_TEN = re.compile(r"([+-]?) ?10 ?\^ ?(?:([+-]?[0-9]{1,4})|\{ ?([+-]?[0-9]{1,4}) ?\})")
_PREFIXED = re.compile(r"[+-]?0(?:[xX][0-9A-Fa-f]+|[oO][0-7]+|[bB][01]+)")
_CURRENCY = re.compile(
    r"([+-]? ?)(?:(?:US ?)?\\?\$|[\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd]|(?:USD|EUR|GBP|INR|Rs\.?) ) ?"
)
_CURRENCY_AFTER = re.compile(r" ?[\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd]$")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(rf"(.*[0-9.}}]) ?({'|'.join(_SCALES)})(?: ([A-Za-z].*))?", re.IGNORECASE)
_PERCENT = re.compile(r" ?(?:%|per ?cents?)", re.IGNORECASE)
_DEGREES = re.compile(r" ?\u00b0 ?[CF]?")
_EXPONENT = r"(?: ?\^ ?(?:-?[123]|\{ ?-?[123] ?\}))?"
_UNIT = re.compile(rf"[A-Za-z][A-Za-z. -]*{_EXPONENT}(?: ?/ ?[A-Za-z]+{_EXPONENT})?")
_MARK = rf"[%\u00b0A-Za-z][%\u00b0A-Za-z./ -]*{_EXPONENT}(?: ?/ ?[A-Za-z]+{_EXPONENT})?"
_MARKED = re.compile(rf"(.*?[0-9.}})])( ?)({_MARK})")
_BOXED_LETTER = re.compile(
    r"(?:[mgshLNJWVKC]|[kMmn][JVAWNT]|[kMG]B|Pa|nm)(?:\^[23])?(?: ?/ ?(?:[mgshL]|kg)(?:\^\{?-?[23]\}?)?)?"
)
"""A unit of one letter is told from a variable by its box: 5\\text{ m} is a length, 5m a product."""
_PRODUCT = re.compile(r"(?:[A-Za-z]{3}|abcde?|pqrst?|[uv]?wxyz)(?![A-Za-z])")
_SHORT_UNIT_WORDS = """
    mm cm dm km in ft yd mi ha ml cl dl gal mg kg lb oz ms hr hrs min sec mph kph rad deg sq cu hz ev kwh
    usd eur gbp inr
"""
_SHORT_UNITS = frozenset(_SHORT_UNIT_WORDS.split())
_VALUE_WORDS = """
    thousand hundred million billion trillion dozen half halves third thirds quarter quarters fifth fifths sixth sixths
    seventh sevenths eighth eighths ninth ninths tenth tenths twelfth twelfths hundredth hundredths thousandth
    thousandths millionth millionths below negative and mod modulo times plus minus over sqrt root squared cubed log sin
    cos tan cot sec csc exp div base infinity inf choose factorial less more than with remainder not off equals frac
    cdot the noon midnight odd even above north south east west choice option score
    january february march april may june july august september october november december
    matrix matrices rectangle order respectively respective
    loss deficit decrease younger down downward downwards clockwise counterclockwise anticlockwise
    jan feb mar apr jun jul aug sep sept oct nov dec
"""
_NOT_UNITS = frozenset(_VALUE_WORDS.split())


def number_in(text: str) -> Fraction | None:
    """A number with all that may stand around it: a currency sign, a percent sign or a unit. None: it is no number."""
    if not text or len(text) > _MAX_NUMBER_CHARS:
        return None
    if currency := _CURRENCY.match(text):
        text = currency[1] + text[currency.end() :]
    text = _CURRENCY_AFTER.sub("", text)
    if text.startswith("(") and text.endswith(")") and "," not in text:  # (1,234) is a pair
        text = text[1:-1].strip()
    value = decimal_or_fraction(text)
    if value is not None:
        return value
    scaled = _scaled(text)
    return _with_unit(text) if scaled is None else scaled


def _scaled(text: str) -> Fraction | None:
    """A number of thousands or millions, of whatever unit."""
    split = _SCALED.fullmatch(text)
    value = decimal_or_fraction(split[1]) if split and (not split[3] or is_unit(split[3])) else None
    return None if split is None or value is None else value * _SCALES[split[2].lower()]


def _with_unit(text: str) -> Fraction | None:
    split = _MARKED.fullmatch(text)
    if split is None:
        return None
    _, space, mark = split.groups()
    if not space and _is_product(mark):
        return None
    if not (_PERCENT.fullmatch(mark) or _DEGREES.fullmatch(mark) or is_unit(mark)):
        return None
    return decimal_or_fraction(split[1])


def _is_product(mark: str) -> bool:
    """Whether what stands right behind a digit may be several variables: 3xyz, 6abcd^2."""
    word = _PRODUCT.match(mark)
    return word is not None and word[0].lower() not in _SHORT_UNITS


def is_unit(tail: str) -> bool:
    """Whether these words behind a number name what it counts, and do not change its value."""
    if _UNIT.fullmatch(tail) is None:
        return False
    words = [word.lower() for word in re.findall(r"(?<!/)(?<!/ )\b[A-Za-z]+|[A-Za-z]{2,}", tail)]
    # One letter may be a variable. Of longer words, those that change the value are known.
    return all(word in _SHORT_UNITS or (len(word) > 2 and word not in _NOT_UNITS) for word in words)


def is_boxed_unit(words: str) -> bool:
    r"""As `is_unit`, of words in a `\text{}`."""
    return _BOXED_LETTER.fullmatch(words) is not None or is_unit(words)


def decimal_or_fraction(text: str) -> Fraction | None:
    """The exact value of a bare number, fraction, mixed number, repeating decimal or power of ten; of 0xFF, too."""
    if _PLAIN.fullmatch(text):
        return _decimal(text)
    if _PREFIXED.fullmatch(text):
        return Fraction(int(text, 0))
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
    repeating = _REPEATING.fullmatch(text)
    return _power(text) if repeating is None else _repeating(*repeating.groups(""))


def _repeating(sign: str, whole: str, once: str, *again: str) -> Fraction:
    """0.1666... as (16 - 1) / 90: the digits up to the end of the first period, less those before it."""
    period = "".join(again)
    value = Fraction(int(whole + once + period) - int("0" + whole + once), 10 ** len(once) * (10 ** len(period) - 1))
    return -value if sign == "-" else value


def _power(text: str) -> Fraction | None:
    if match := _SCIENTIFIC.fullmatch(text):
        factor, exponent = _decimal(match[1]), int(match[2] or match[3])
    elif match := _POWER_OF_TEN.fullmatch(text):
        factor, exponent = Fraction(-1 if match[1] == "-" else 1), int(match[2] or match[3])
    else:
        return None
    return factor * Fraction(10) ** exponent if abs(exponent) <= _MAX_EXPONENT else None


def _decimal(digits: str) -> Fraction:
    if _IS_EUROPEAN.fullmatch(digits):
        digits = digits.replace(".", "").replace(",", ".")
    return Fraction(digits.replace(",", "").replace(" ", ""))
