"""Problems with worked solutions, for training and testing the embedded pair.

A problem belongs to the test or to the training split by a hash of what it asks (its numbers and kind, not its
wording), so no seed of one split can ever produce a question of the other, not even in other words.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from a1agent.embedded import wording as w

Split = Literal["test", "train"]
_TEST_SHARE: Final = 8  # one in eight of all askable problems is held out
_RETRIES: Final = 200  # small families run out of unseen problems; after this many tries a repeat is allowed


@dataclass(frozen=True)
class Problem:
    """A question, its answer, the family it belongs to, and the steps of one right solution."""

    question: str
    answer: str
    family: str
    steps: tuple[str, ...]

    @property
    def solution(self) -> str:
        """The steps as one text, a blank line between them."""
        return "\n\n".join(self.steps)


@dataclass(frozen=True)
class _Sketch:
    """What a family function returns: `key` names the problem whatever its wording."""

    key: str
    question: str
    answer: int
    steps: list[str]


def problems(
    count: int, seed: int, families: Sequence[str] | None = None, *, split: Split = "test"
) -> Iterator[Problem]:
    """Yield `count` problems of a seed, families in turn at random; `split="test"` problems are never trained on.

    Raises ValueError for a family not in `FAMILIES`.
    """
    chosen = tuple(FAMILIES if families is None else families)
    unknown = [name for name in chosen if name not in _MAKERS]
    if unknown or not chosen:
        raise ValueError(f"no problem family named {unknown}; choose from {', '.join(FAMILIES)}")
    seen: set[str] = set()
    for index in range(count):
        yield _problem(random.Random(f"{split}:{seed}:{index}"), chosen, split, seen)


def split_of(key: str) -> Split:
    """The split that a problem belongs to, from a hash of its wording-free key."""
    digest = hashlib.blake2b(f"a1:{key}".encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest, "big") % _TEST_SHARE == 0 else "train"


def _problem(rng: random.Random, families: tuple[str, ...], split: Split, seen: set[str]) -> Problem:
    family = rng.choice(families)
    tries = 0
    while True:
        tries += 1
        sketch = _MAKERS[family](rng)
        if split_of(sketch.key) != split or (sketch.question in seen and tries < _RETRIES):
            continue
        if split == "test":
            seen.add(sketch.question)
        return Problem(sketch.question, str(sketch.answer), family, tuple(sketch.steps))


# ---------------------------------------------------------------- arithmetic in words


def _places(n: int) -> list[int]:
    """783 -> [700, 80, 3]; zero digits are left out."""
    digits = str(n)
    parts = [int(digit) * 10 ** (len(digits) - i - 1) for i, digit in enumerate(digits)]
    return [part for part in parts if part] or [0]


def _chain(rng: random.Random, start: int, sign: str, n: int) -> str:
    """`start` plus or minus `n`, one decimal place at a time: small enough for a tiny model to get right."""
    said: list[str] = []
    value = start
    for part in _places(n):
        after = value + part if sign == "+" else value - part
        said.append(f"{value} {sign} {part} = {after}")
        value = after
    return rng.choice(w.JOINERS).join(said)


def _add_or_subtract(rng: random.Random, value: int, sign: str, n: int, unit: str = "") -> tuple[str, int]:
    wording = rng.choice(w.ADD if sign == "+" else w.SUBTRACT)
    text = wording.format(n=n, c=_chain(rng, value, sign, n) + unit)
    return text, value + n if sign == "+" else value - n


def _by_digit(a: int, b: int) -> str:
    """`a * b` where b has one digit that is not zero: the places of a, each multiplied."""
    parts = [str(part * b) for part in _places(a)]
    inner = f" = {' + '.join(parts)}" if len(parts) > 1 else ""
    return f"{a} * {b}{inner} = {a * b}"


def _multiply(rng: random.Random, a: int, b: int, unit: str = "") -> list[str]:
    """Steps that work out `a * b` by the places of b."""
    parts = _places(b)
    steps: list[str] = []
    if len(parts) > 1:
        steps.append(rng.choice(w.SPLIT).format(n=b, p=" + ".join(map(str, parts))))
    steps += [rng.choice(w.MULTIPLY).format(c=_by_digit(a, part) + unit) for part in parts]
    if len(parts) > 1:
        value = a * parts[0]
        for part in parts[1:]:
            steps.append(rng.choice(w.JOIN).format(c=_chain(rng, value, "+", a * part) + unit))
            value += a * part
    return steps


def _divide(rng: random.Random, total: int, m: int, unit: str = "") -> str:
    """One step that divides `total` by `m`, which it is a multiple of, tens first."""
    tens, ones = total // m // 10 * 10, total // m % 10
    if tens and ones:
        said = f"{m} * {tens} = {m * tens}, {total} - {m * tens} = {m * ones}, {m} * {ones} = {m * ones}"
        chain = f"{said}, {tens} + {ones} = {tens + ones}"
    else:
        chain = f"{m} * {total // m} = {total}, {total} / {m} = {total // m}"
    return rng.choice(w.DIVIDE).format(m=m, c=chain + unit)


# ---------------------------------------------------------------- families


def _term(rng: random.Random) -> int:
    draw = rng.random()
    if draw < 0.2:
        return rng.randint(100, 999)
    return rng.randint(2, 9) if draw < 0.3 else rng.randint(10, 99)


def _expression(rng: random.Random, text: str) -> str:
    return rng.choice(w.EXPRESSION_QUESTIONS).format(e=text)


def _last(rng: random.Random, answer: int, wordings: tuple[str, ...] = w.LAST) -> str:
    return rng.choice(wordings).format(a=answer)


def _sums(rng: random.Random) -> _Sketch:
    """Three to five terms, added and subtracted from left to right, never below zero."""
    value = first = _term(rng)
    text, steps = str(first), list[str]()
    for _ in range(rng.choice((2, 2, 3, 3, 4))):
        n = _term(rng)
        sign = "-" if n <= value and rng.random() < 0.4 else "+"
        step, value = _add_or_subtract(rng, value, sign, n)
        text += f" {sign} {n}"
        steps.append(step)
    steps[0] = rng.choice(w.START).format(n=first, s=steps[0])
    return _Sketch(text, _expression(rng, text), value, [*steps, _last(rng, value)])


def _products(rng: random.Random) -> _Sketch:
    """Two digits by one or two, or three digits by one."""
    kind = rng.choice((1, 2, 2, 3))
    a = rng.randint(102, 999) if kind == 3 else rng.randint(11, 99)
    b = rng.randint(11, 99) if kind == 2 else rng.randint(2, 9)
    text = f"{a} * {b}"
    return _Sketch(text, _expression(rng, text), a * b, [*_multiply(rng, a, b), _last(rng, a * b)])


def _mixed(rng: random.Random) -> _Sketch:
    """A product and a sum or difference, in either order, or a sum in brackets multiplied."""
    return rng.choice((_product_then_sum, _product_then_sum, _sum_then_product, _bracket))(rng)


def _product_then_sum(rng: random.Random) -> _Sketch:
    a, b = rng.randint(11, 99), rng.randint(11, 99) if rng.random() < 0.6 else rng.randint(2, 9)
    n = rng.randint(10, 999)
    sign = "-" if n <= a * b and rng.random() < 0.4 else "+"
    step, value = _add_or_subtract(rng, a * b, sign, n)
    text = f"{a} * {b} {sign} {n}"
    return _Sketch(text, _expression(rng, text), value, [*_multiply(rng, a, b), step, _last(rng, value)])


def _sum_then_product(rng: random.Random) -> _Sketch:
    a, b, n = rng.randint(11, 99), rng.randint(2, 9), rng.randint(10, 999)
    sign = "-" if n >= a * b and rng.random() < 0.5 else "+"
    step, value = _add_or_subtract(rng, n, sign, a * b)
    text = f"{n} {sign} {a} * {b}"
    return _Sketch(text, _expression(rng, text), value, [*_multiply(rng, a, b), step, _last(rng, value)])


def _bracket(rng: random.Random) -> _Sketch:
    a, b, c = rng.randint(11, 60), rng.randint(2, 39), rng.randint(2, 9)
    sign = "-" if b < a and rng.random() < 0.4 else "+"
    step, value = _add_or_subtract(rng, a, sign, b)
    text = f"({a} {sign} {b}) * {c}"
    steps = [step, *_multiply(rng, value, c), _last(rng, value * c)]
    return _Sketch(text, _expression(rng, text), value * c, steps)


def _equations(rng: random.Random) -> _Sketch:
    """`m * x + n = total` and its relatives; x is positive and whole."""
    m, x, n = rng.randint(2, 9), rng.randint(2, 60), rng.randint(2, 99)
    sign = "+" if rng.random() < 0.5 or n >= m * x else "-"
    total = m * x + n if sign == "+" else m * x - n
    left = f"{m} * x {sign} {n}" if sign == "-" or rng.random() < 0.7 else f"{n} + {m} * x"
    step, _ = _add_or_subtract(rng, total, "-" if sign == "+" else "+", n)
    steps = [rng.choice(w.ISOLATE).format(s=step, e=f"{m} * x = {m * x}"), _divide(rng, m * x, m)]
    question = rng.choice(w.EQUATION_QUESTIONS).format(e=f"{left} = {total}")
    return _Sketch(f"{m}x{sign}{n}={total}", question, x, [*steps, _last(rng, x, w.LAST_X)])


def _remainders(rng: random.Random) -> _Sketch:
    """Up to three digits divided by one: tens of the quotient first, then ones."""
    m = rng.randint(3, 9)
    n = rng.randint(m + 1, 100 * m - 1)
    value, steps = n, list[str]()
    for q in _places(n // m):
        said = f"{m} * {q} = {m * q}, {value} - {m * q} = {value - m * q}"
        steps.append(rng.choice(w.REMAIN).format(m=m, q=q, c=said))
        value -= m * q
    question = rng.choice(w.REMAINDER_QUESTIONS).format(n=n, m=m)
    return _Sketch(f"{n} mod {m}", question, value, [*steps, _last(rng, value, w.LAST_REMAINDER)])


def _words(rng: random.Random) -> _Sketch:
    """A story of two to five steps."""
    story = rng.choice(w.STORIES)
    numbers = {name: rng.randint(*bounds) for name, bounds in story.ranges.items()}
    if story.total:  # b = c * q - a, so that a + b divides evenly
        name, factor, quotient = story.total
        numbers[name] = numbers[factor] * numbers[quotient] - numbers["a"]
        if numbers[name] < 2:
            return _words(rng)
    name, other = rng.sample(w.NAMES, 2)
    item = rng.choice(w.ITEMS)
    question = rng.choice(story.texts).format(name=name, other=other, item=item, **numbers)
    steps, answer = _tell(rng, story, numbers, " " + story.unit.format(item=item))
    return _Sketch(f"{story.name}:{sorted(numbers.items())}", question, answer, [*steps, _last(rng, answer)])


def _tell(rng: random.Random, story: w.Story, numbers: dict[str, int], unit: str) -> tuple[list[str], int]:
    """Run a story's program; `_` is the newest value, a digit the value of that line."""
    steps: list[str] = []
    values: list[int] = []

    def value_of(operand: str) -> int:
        if operand == "_":
            return values[-1]
        return values[int(operand) - 1] if operand.isdigit() else numbers[operand]

    for operation, left, right in story.program:
        a, b = value_of(left), value_of(right)
        if operation == "mul":
            steps += _multiply(rng, a, b, unit)
            values.append(a * b)
        elif operation == "div":
            steps.append(_divide(rng, a, b, unit))
            values.append(a // b)
        else:
            step, value = _add_or_subtract(rng, a, "+" if operation == "add" else "-", b, unit)
            steps.append(step)
            values.append(value)
    return steps, values[-1]


_MAKERS: Final[dict[str, Callable[[random.Random], _Sketch]]] = {
    "sums": _sums,
    "products": _products,
    "mixed": _mixed,
    "equations": _equations,
    "remainders": _remainders,
    "words": _words,
}
FAMILIES: Final = tuple(_MAKERS)
