"""Spellings of one answer have one key, and the judge is asked only what keys cannot tell."""

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1agent.engine.canonical import canonical_key, form_of, number_of, same_key
from a1agent.engine.equivalence import Equivalence
from a1agent.engine.math_worker import MathWorker


class FakeJudge:
    """Says what it was told to, and remembers what it was asked."""

    def __init__(self, verdict: bool | None = False, *, equal: tuple[tuple[str, str], ...] = ()) -> None:
        self.verdict = verdict
        self.pairs = {frozenset(pair) for pair in equal}
        self.asked: list[tuple[str, str]] = []
        self.closed = False

    async def equal(self, a: str, b: str) -> bool | None:
        await asyncio.sleep(0)
        self.asked.append((a, b))
        return True if frozenset((a, b)) in self.pairs else self.verdict

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    "spellings",
    [
        ["1/2", "0.5", ".50", "$\\frac12$", "\\dfrac{1}{2}", "2/4", "\\tfrac{ 1 }{2}", "\\(1/2\\)", "1/2."],
        ["1234", "1,234", "1{,}234", "1\\,234", "1 234", "1,234.00", "\\$1,234", "1,\\!234", "x = 1234"],
        ["-5", "\u22125", "- 5", "(-5)", "$-5$", "-\\frac{10}{2}", "\\frac{-5}{1}", "x_1=-5"],
        ["5", "+5", "5 cm", "5\\text{ cm}", "5\\ \\mathrm{cm}^2", "5 square units", "5 apples", "$5", "5 dollars"],
        ["90", "90^\\circ", "90^{\\circ}", "90\u00b0", "90 degrees", "90\u00b0C"],
        ["60", "60 km/h", "60 miles per hour", "60\\text{ m/s}", "60\\text{ m}^2", "60 \\mathrm{g}"],
        ["50", "50%", "50\\%", "50 percent", "50.0 \\%"],
        ["3/2", "1 1/2", "1\\frac{1}{2}", "1\\frac12", "1.5", "\\left(1.5\\right)"],
        ["-3/2", "-1\\frac12", "-1.50"],
        ["1500", "1.5e3", "1.5 \\times 10^{3}", "1.5\\cdot10^3", "15 * 10^2", "1.5 x 10^3", "1.5 thousand"],
        ["5000000", "5 million", "\\$5\\text{ million}", "5 million dollars", "5,000,000 \u20ac"],
        ["5:00 pm", "5 p.m.", "05:00 PM", "5\\text{ pm}"],
        ["1/100", "10^{-2}", "1E-2"],
        ["B", "(B)", "B.", "B)", "\\text{(B)}", "option B", "(b)", "**B**"],
        ["Yes", "yes", "\\text{Yes}", "YES."],
        ["(1, 2)", "(1,2)", "\\left( 1, 2.0 \\right)", "$(2/2,2)$"],
        ["\\{1, 2\\}", "\\{2,1\\}", "\\left\\{ 1, 2, 2 \\right\\}"],
        ["(-\\infty, 5]", "\\left(-\\infty,5\\right]", "(-\u221e, 5]"],
        ["x^2+1", "x^{2} + 1", "$x^2+1$", "x\u00b2 + 1"],
        ["2\\sqrt{3}", "2\\sqrt3", "2 \\sqrt{3}"],
        ['{"a": 1, "b": "x"}', '{"b":"x","a":1.0}'],
    ],
    ids=lambda spellings: spellings[0],
)
def test_spellings_of_one_answer_have_one_key(spellings: list[str]) -> None:
    assert {canonical_key(spelling) for spelling in spellings} == {canonical_key(spellings[0])}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1/2", "1/3"),
        ("1, 234", "1,234"),
        ("f'", "f"),
        ("5'", "5"),
        ("(1,234)", "1234"),
        ("0.333...", "0.333"),
        ("5!", "5"),
        ("5 million", "5"),
        ("12 am", "12 pm"),
        ("3 eighths", "3"),
        ("5 degrees below zero", "5 degrees"),
        ("3x", "3"),
        ("3\\mathrm{i}", "3"),
        ("2\\frac{3}{2}", "7/2"),
        ("1 2", "12"),
        ("[1, 2]", "(1, 2)"),
        ("2 \\pi", "2"),
        ("AB", "ab"),
        ("1/0", "0"),
        ("5 mod 7", "5"),
        ("1010_2", "1010"),
    ],
)
def test_different_answers_have_different_keys(a: str, b: str) -> None:
    assert not same_key(a, b)


@pytest.mark.parametrize(
    "text", ["1e999999999", "10^{99999}", "9" * 5000, "1/" + "0" * 10, "(" * 3000, "\\text{" * 500]
)
def test_numbers_too_large_to_expand_are_left_as_written(text: str) -> None:
    assert form_of(canonical_key(text)) == "expression"


SYMBOLS = r"1 23 1,234 . , - + / % $ \$ \% ^ _ { } ( ) [ ] \{ \} * \frac \dfrac \sqrt \text{ \left \right \, \!"
PIECES = re.findall(r"\S+", SYMBOLS)
PIECES += [
    " ",
    "\\times",
    "10^",
    "e3",
    "x",
    "B",
    "cm",
    "=",
    "apples",
    "\\circ",
    "\u00b0",
    "\u00b2",
    "Yes",
    '"',
    ":",
    "!",
    "..",
    "\\mathrm{m}",
    " million",
    " pm",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_a_key_is_its_own_key(text: str) -> None:
    assert canonical_key(canonical_key(text)) == canonical_key(text)


@given(st.text(max_size=60))
def test_any_text_has_a_key_that_is_its_own(text: str) -> None:
    assert canonical_key(canonical_key(text)) == canonical_key(text)


def _mixed(value: Fraction) -> str:
    sign, (whole, rest) = "-" if value < 0 else "", divmod(abs(value), 1)
    return f"{sign}{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}"


@given(
    st.fractions(max_denominator=10**6),
    st.sampled_from(
        [
            lambda v: f"{v.numerator}/{v.denominator}",
            lambda v: f"$\\frac{{{v.numerator}}}{{{v.denominator}}}$",
            lambda v: f"{'-' if v < 0 else ''}\\dfrac{{{abs(v.numerator)}}}{{{v.denominator}}}",
            lambda v: f"x = {v.numerator * 3} / {v.denominator * 3}",
            _mixed,
        ]
    ),
)
def test_fractions_keep_their_value(value: Fraction, spell: Callable[[Fraction], str]) -> None:
    assert number_of(canonical_key(spell(value))) == value


@given(
    st.integers(-(10**18), 10**18),
    st.sampled_from(["{:d}", "{:,d}", "{:d}.00", "\\${:,d}", "{:d} cm", "{:,d}\\text{{ apples}}", "({:d})", "{:d}e0"]),
)
def test_integers_keep_their_value(value: int, spelling: str) -> None:
    assert number_of(canonical_key(spelling.format(value))) == Fraction(value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6), st.booleans())
def test_decimals_keep_their_value(value: object, percent: bool) -> None:
    text = f"{value:f}"
    assert number_of(canonical_key(text + ("\\%" if percent else ""))) == Fraction(text)


async def _same(judge: FakeJudge, a: str, b: str) -> bool:
    equivalence = Equivalence(judge)
    forward, backward = await equivalence.same(a, b), await equivalence.same(b, a)
    assert forward == backward
    return forward


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("0.5", "\\frac12", True),
        ("5", "6", False),
        ("1/3", "0.333333", False),
        ("50%", "50", True),
        ("50\\%", "1/2", False),
        ("50%", "5", False),
        ("5 am", "5 pm", False),
        ("5\\text{ million}", "5\\text{ billion}", False),
        ("A", "B", False),
        ("yes", "no", False),
        ("Paris", "B", False),
        ("7", "seven", False),
        ('{"a": "1"}', '{"a": "2"}', False),
    ],
)
async def test_plain_answers_never_reach_the_judge(a: str, b: str, same: bool) -> None:
    judge = FakeJudge(verdict=not same)
    assert await _same(judge, a, b) is same
    assert judge.asked == []


@pytest.mark.anyio
async def test_judge_decides_on_expressions_once_per_pair() -> None:
    judge = FakeJudge(equal=(("x+1", "1+x"),))
    equivalence = Equivalence(judge)
    assert [await equivalence.same(*pair) for pair in (("x+1", "1+x"), ("1 + x", "x + 1"), ("x+1", "x+2"))] == [
        True,
        True,
        False,
    ]
    assert len(judge.asked) == 2


@pytest.mark.anyio
async def test_once_closed_nothing_is_judged_and_no_judge_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeJudge] = []
    monkeypatch.setattr("a1agent.engine.equivalence._math_worker", lambda: made.append(FakeJudge(True)) or made[-1])
    used, unused = Equivalence(), Equivalence()
    assert await used.same("x+1", "1+x")
    for equivalence in (used, unused):
        await equivalence.aclose()
        assert not await equivalence.same("x+2", "2+x")
        assert await equivalence.same("0.5", "1/2")
    assert [judge.closed for judge in made] == [True]
    assert len(made[0].asked) == 1


@pytest.mark.anyio
async def test_oldest_verdict_is_forgotten_when_the_cache_is_full() -> None:
    judge = FakeJudge()
    equivalence = Equivalence(judge, cached_pairs=2)
    for other in ("y", "z", "y", "w", "y", "z"):
        await equivalence.same("x+1", other)
    assert len(judge.asked) == 4  # z was forgotten for w, y was used in between


@pytest.mark.anyio
async def test_answer_that_cannot_be_judged_is_given_up_after_two_tries() -> None:
    judge = FakeJudge(verdict=None)
    equivalence = Equivalence(judge)
    assert not any([await equivalence.same("\\bad", f"x^{n}") for n in range(2, 9)])
    assert len(judge.asked) == 2


@pytest.mark.anyio
async def test_answers_that_cannot_be_judged_are_remembered_within_bounds() -> None:
    judge = FakeJudge(verdict=None)
    equivalence = Equivalence(judge, cached_pairs=4)
    given_up = [("\\bad", "x^2"), ("\\bad", "x^3"), ("\\bad", "x^4")]
    for pair in (*given_up, ("y+1", "y^5"), ("z+1", "z^5"), ("\\bad", "x^6")):
        await equivalence.same(*pair)
    assert len(judge.asked) == 5  # the third was not asked about; by the last one the first were forgotten


class LeavingWhileLookedFor(OrderedDict[tuple[str, str], bool]):
    """Verdicts of which one is forgotten by another thread in the moment in which it was found, if that is let."""

    forget: threading.Thread

    def __contains__(self, pair: object) -> bool:
        found = super().__contains__(pair)
        if found:
            self.forget.start()
            self.forget.join(0.1)
        return found


def test_threads_share_what_was_judged() -> None:
    equivalence = Equivalence(FakeJudge(), cached_pairs=1)
    asyncio.run(equivalence.same("x+1", "y"))
    verdicts = equivalence._verdicts = LeavingWhileLookedFor(equivalence._verdicts)
    verdicts.forget = threading.Thread(target=lambda: asyncio.run(equivalence.same("x+2", "y")))
    assert equivalence.known("x+1", "y") is False
    verdicts.forget.join()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "spoken"),
    [
        ("f''(x)+y'", "f_{prime2}(x)+y_{prime1}"),
        ("\\sin'(x)", "\\sin'(x)"),
        ("12\\pi\\text{ cm}^2", "12\\pi"),
        ("5\\pi\\text{ m}/\\text{s}.", "5\\pi"),
        ("3\\mathrm{i}", "3 i"),
    ],
)
async def test_judge_is_shown_keys_with_primes_that_it_can_read(answer: str, spoken: str) -> None:
    judge = FakeJudge()
    await Equivalence(judge).same("\\alpha", answer)
    assert {" ".join(text.split()) for text in judge.asked[0]} == {"\\alpha", spoken}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        "2\\text{ hours }30\\text{ minutes}",
        "3\\mathrm{~ft}~2\\mathrm{~in}",
        "x\\text{ dozen}",
        "40^\\circ\\text{ South}",
    ],
)
async def test_prose_is_not_shown_to_the_judge_which_would_take_it_for_products(answer: str) -> None:
    judge = FakeJudge(verdict=True)
    assert not await _same(judge, "\\alpha", answer)
    assert judge.asked == []


PAIRS = Path(__file__).parent.parent / "data" / "answer_pairs.txt"


def _pairs(*, algebra: bool) -> list[tuple[str, str, bool]]:
    """The pairs of the table: what keys tell of them, or with algebra, what they are."""
    rows: list[tuple[str, str, bool]] = []
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            a, sign, b, *note = re.split("  +", line)
            rows.append((a, b, sign == "==" and (algebra or not note)))
    return rows


class NoJudge:
    """What there is without the `math` extra."""

    async def equal(self, a: str, b: str) -> bool | None:
        return None

    async def aclose(self) -> None:
        pass


async def _mistaken(judge: NoJudge | MathWorker, rows: list[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    equivalence = Equivalence(judge)
    try:
        return [(a, b) for a, b, same in rows if {await equivalence.same(a, b), await equivalence.same(b, a)} != {same}]
    finally:
        await equivalence.aclose()


@pytest.mark.anyio
async def test_pairs_of_answers_are_told_apart_by_their_keys() -> None:
    assert await _mistaken(NoJudge(), _pairs(algebra=False)) == []


@pytest.mark.anyio
async def test_pairs_of_answers_are_told_apart_by_algebra() -> None:
    pytest.importorskip("latex2sympy2_extended")
    assert await _mistaken(MathWorker(deadline_s=60.0), _pairs(algebra=True)) == []


@given(
    st.lists(st.sampled_from([text for a, b, _ in _pairs(algebra=False) for text in (a, b)]), min_size=3, max_size=3)
)
def test_what_keys_tell_is_an_equivalence_relation(answers: list[str]) -> None:
    a, b, c = answers
    known = Equivalence(NoJudge()).known
    assert known(a, a) is True
    assert known(a, b) == known(b, a)
    if known(a, b) and known(b, c):
        assert known(a, c) is True
    if known(a, b):
        assert known(a, c) == known(b, c)


@given(st.text(alphabet="\\\\{}()[],;:+-^_ .=<>xAi0123%'/|", max_size=40))
def test_lists_within_lists_are_compared_whatever_they_hold(text: str) -> None:
    known = Equivalence(NoJudge()).known
    for other in ("(1, (1, (1, (1, x))))", "\\{\\{1\\},x\\}", "1, x", text[::-1]):
        assert known(text, other) == known(other, text)


@pytest.mark.parametrize("left", ["(", "\\{", "[", "\\{(1,", "\\langle 1,"])
def test_deep_lists_do_not_end_the_comparison(left: str) -> None:
    deep = left * (1900 // len(left)) + "x"
    right = {"(": ")", "[": "]"}.get(left[-1:], "\\}")
    for a in (deep, deep + right * 900, left + "1," + deep):
        assert Equivalence(NoJudge()).known(a, a + "y") in (None, False)
