r"""The program that `MathWorker` runs: tells whether two answers in LaTeX are equal. It loads nothing of a1agent.

LaTeX is read by math-verify's parser, but compared here: its own comparison rounds, takes sets for tuples, and folds
upper and lower case. Two expressions are equal if their values agree to 30 digits wherever symbols are given values
that are not special (the same for one symbol in every answer), which is an equivalence relation, is quick, and does not
depend on what sympy can prove. Sets, tuples, intervals, matrices and relations are compared by their parts.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from queue import SimpleQueue
from typing import IO, Any

sympy: Any = None
with contextlib.suppress(ImportError):
    sympy = importlib.import_module("sympy")

_DIGITS = 50
_AGREEING = 30
_POINTS = 12
"""So many that whatever the signs of several symbols decide, |xy| or xy, some point tells."""
_WHOLE_POINTS = 8
"""Where a step function leaps, which no other point shows."""
_TINY = 1e-60
_TRIG = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?[0-9]+\}?)?) ?[({]?([0-9.]+)\u00b0[)}]?")
_MIXED = re.compile(r"(?<![0-9A-Za-z.^_}])([0-9]+) ?\\frac\{([0-9]+)\}\{([0-9]+)\}")
_FIGURE = re.compile(r"\\(angle|measuredangle|triangle) ?([A-Z]+)(?![A-Za-z_])")
_NAMED_I = re.compile(r"(?<![\\a-z_])(?<!_\{)I(?![a-z])(?:_(?:([0-9A-Za-z])|\{([^{}]*)\}))?")
"""A current or an identity: only i is the imaginary unit."""
_LOST = re.compile(
    r"\\[gl]c[dm](?![a-z])|\^\{?(?:T|\\top)(?![a-z])|\\(?:ldots|cdots|dots)(?![a-z])|\.\.\."
    r"|\\(?:cross|nabla)(?![A-Za-z])|!!|[A-Z]\["
    r"|[A-Z]\^\{-1\} ?[A-Z]|[A-Z] ?[A-Z]\^\{-1\}"
    r"|\\frac\{(?:d|\\partial)[^{}]*[A-Za-z]\}\{(?:d|\\partial ?)[A-Za-z](?:\^[0-9])?\}"
    r"|\\(?:sum|prod)_\{ ?([a-z]) ?=.*_\{?[^{}^=]*\1"
)
"""What the parser reads over or takes for something else: a greatest common divisor is 1 to it, a transposed matrix the
matrix, a cross product a product, 3!! (3!)!, E[X] E times X, BAB^{-1} A, dy/dx 0, and a sum of a_k over k n a_k."""


def load_judge() -> Callable[[str, str], bool] | None:
    """A function of two texts: whether they are equal, as far as they can be read. None: nothing can read them."""
    try:
        parse = _load_parser()
    except ImportError:
        return None
    logging.disable(logging.CRITICAL)

    def judge(a: str, b: str) -> bool:
        left, right = parse(a), parse(b)
        return left is not None and right is not None and equal(left, right)

    return judge


def _load_parser() -> Callable[[str], Any]:
    library: Any = importlib.import_module("latex2sympy2_extended.latex2sympy2")
    reading = library.NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    symbols = library.ConversionConfig(lowercase_symbols=False)

    @lru_cache(maxsize=256)
    def parse(text: str) -> Any:
        if _LOST.search(text):
            return None
        try:
            latex = library.normalize_latex(_prepared(text), reading)
            value = library.latex2sympy(latex, is_real=True, normalization_config=None, conversion_config=symbols)
        except MemoryError:
            raise
        except Exception:  # its grammar knows a part of LaTeX only, and it raises nearly anything on the rest
            return None
        return None if value is None else _plain(value, union=re.search(r"\bor\b", text) is not None)

    return parse


def _prepared(text: str) -> str:
    text = _MIXED.sub(_sum, text)
    text = _FIGURE.sub(lambda figure: f"v_{{{figure[1]}{figure[2].lower()}}}", text)
    text = _NAMED_I.sub(r"v_{I\1\2}", text)
    text = _TRIG.sub(r"\1(\\frac{\2\\pi}{180})", text).replace("\u00b0", "")
    return text.replace("\\langle", "(").replace("\\rangle", ")").replace("*", "\\cdot ")


def _sum(mixed: re.Match[str]) -> str:
    r"""The sum that a mixed number before a symbol is, 1\frac{1}{2}x; with more than a whole it is a product."""
    whole, top, bottom = mixed.groups()
    return rf"({whole}+\frac{{{top}}}{{{bottom}}})" if int(top) < int(bottom) else mixed[0]


# --- one form of each kind ---


def _plain(value: Any, *, union: bool) -> Any:
    """Exact, evaluated, with i for the imaginary unit, without the name of a value, and sets for conditions on it."""
    value = value.xreplace({number: sympy.Rational(str(number)) for number in value.atoms(sympy.Float)})
    value = value.subs(sympy.Symbol("i", real=True), sympy.I) if value.has(sympy.Symbol("i", real=True)) else value
    value = _unnamed(value)
    if isinstance(value, sympy.FiniteSet) and union and all(_is_condition(part) for part in value):
        return sympy.Union(*(part.as_set() for part in value)) if len(value.free_symbols) == 1 else value
    if _is_condition(value) and len(value.free_symbols) == 1:
        return value.as_set()
    return value.doit() if isinstance(value, sympy.Expr | sympy.MatrixBase | sympy.Set) else value


def _is_condition(value: Any) -> bool:
    if isinstance(value, sympy.And):
        return all(_is_condition(part) for part in value.args)
    return isinstance(value, sympy.core.relational.Relational) and not isinstance(value, sympy.Eq)


def _unnamed(value: Any) -> Any:
    """Without the name of a function or a point; a chain of equations, a = b = 3, as its two ends."""
    if isinstance(value, sympy.And) and all(isinstance(part, sympy.Eq) for part in value.args):
        parts = getattr(value, "_unsorted_args", value.args)
        value = sympy.Eq(parts[0].lhs, parts[-1].rhs, evaluate=False)
    named = isinstance(value, sympy.Eq) and isinstance(value.lhs, sympy.core.function.AppliedUndef | sympy.Tuple)
    return value.rhs if named else value


def _value_of(value: Any) -> Any:
    """The right side of y = 2x or m + n = 7, which may stand for the whole."""
    if not isinstance(value, sympy.Eq):
        return value
    constant = not getattr(value.rhs, "free_symbols", ())
    named = value.lhs.is_polynomial() and all(leaf.is_Symbol for leaf in _leaves(value.lhs))
    names = value.lhs.is_Symbol or (constant and named)
    return value.rhs if names else value


def _leaves(value: Any) -> list[Any]:
    return [value] if not value.args else [leaf for part in value.args for leaf in _leaves(part)]


# --- comparison ---


def equal(a: Any, b: Any) -> bool:
    """Whether two parsed answers are the same; those of different kinds are not, but for an equation that names one."""
    if a == b:
        return True
    if isinstance(a, sympy.Eq) != isinstance(b, sympy.Eq):
        a, b = _value_of(a), _value_of(b)
    for kind, compare in _kinds():
        if isinstance(a, kind) and isinstance(b, kind):
            return compare(a, b)
    if isinstance(a, sympy.Tuple | sympy.Interval) and isinstance(b, sympy.Tuple | sympy.Interval):
        return _same_parts(_pair(a), _pair(b))
    return False


def _kinds() -> tuple[tuple[Any, Callable[[Any, Any], bool]], ...]:
    return (
        (sympy.core.relational.Relational, _same_relation),
        (sympy.MatrixBase, lambda a, b: a.shape == b.shape and _same_parts(a.flat(), b.flat())),
        (sympy.Tuple, _same_parts),
        (sympy.Interval, _same_interval),
        (sympy.FiniteSet, _same_members),
        (sympy.And, _same_members),
        (sympy.Set, lambda a, b: bool(a.symmetric_difference(b).is_empty)),
        (sympy.Expr, _same_value),
    )


def _pair(value: Any) -> tuple[Any, ...]:
    """The parser takes a pair in increasing order for an open interval."""
    if isinstance(value, sympy.Interval):
        return (value.start, value.end) if value.is_open else ()
    return tuple(value)


def _same_parts(a: Any, b: Any) -> bool:
    return len(a) == len(b) > 0 and all(map(equal, a, b))


def _same_members(a: Any, b: Any) -> bool:
    return _all_among(a.args, b.args) and _all_among(b.args, a.args)


def _all_among(some: Any, others: Any) -> bool:
    return all(any(equal(x, y) for y in others) for x in some)


def _same_interval(a: Any, b: Any) -> bool:
    return (
        (a.left_open, a.right_open) == (b.left_open, b.right_open) and equal(a.start, b.start) and equal(a.end, b.end)
    )


def _same_relation(a: Any, b: Any) -> bool:
    """Whether one is the other times a constant, which has to be above 0 in an inequality."""
    (kind, mine), (other, yours) = _gap(a), _gap(b)
    if kind is not other or mine.free_symbols != yours.free_symbols:
        return False
    ratios = [_ratio(mine, yours, point) for point in range(_POINTS)]
    if any(ratio is None or not _close(ratio, ratios[0]) for ratio in ratios):
        return False
    return kind in (sympy.Eq, sympy.Ne) or bool(ratios[0] > 0)


def _gap(relation: Any) -> tuple[Any, Any]:
    """What is compared with 0, and how: equal, not equal, above or not below."""
    if isinstance(relation, sympy.StrictLessThan | sympy.LessThan):
        relation = relation.reversed
    gap = (relation.lhs - relation.rhs).doit()
    return relation.func, sympy.fraction(sympy.together(gap))[0] if isinstance(relation, sympy.Eq | sympy.Ne) else gap


def _ratio(mine: Any, yours: Any, point: int) -> Any:
    top, bottom = _at(mine, point), _at(yours, point)
    return None if top is None or bottom is None or not top or not bottom else top / bottom


def _same_value(a: Any, b: Any) -> bool:
    if a.is_infinite or b.is_infinite:
        return False
    whole = _WHOLE_POINTS if any(value.has(sympy.floor, sympy.ceiling, sympy.Mod) for value in (a, b)) else 0
    both_real = all(not value.has(sympy.I) and getattr(_at(value, 0), "is_real", False) for value in (a, b))
    for point in range(-whole, _POINTS):
        mine, yours = _at(a, point), _at(b, point)
        if mine is None or yours is None:
            return bool(sympy.simplify(a - b) == 0)
        if both_real and not (mine.is_real or yours.is_real):
            continue  # the root of what is negative here: neither has a value
        if not _close(mine, yours):
            return False
    return True


@lru_cache(maxsize=4096)
def _at(value: Any, point: int) -> Any:
    """The value where symbols, and functions without a definition, have those of this point; None: there is none."""
    unknown = value.atoms(sympy.core.function.AppliedUndef)
    value = value.xreplace({function: sympy.Symbol(str(function)) for function in unknown})
    found = value.evalf(_DIGITS, subs={symbol: _number_for(symbol.name, point) for symbol in value.free_symbols})
    return found if found.is_number and found.is_finite and not found.has(sympy.Sum, sympy.Integral) else None


def _number_for(name: str, point: int) -> Any:
    """The same in every answer: up to 1.5, at points above 0 of either sign, and a whole number at those below."""
    drawn = int.from_bytes(hashlib.sha256(f"{point} {name}".encode()).digest()[:8])
    if point < 0:
        return sympy.Integer(2 + drawn % 30)
    size = sympy.Rational(drawn, 1 << 64) + sympy.Rational(1, 2)
    return sympy.Float(-size if point and drawn % 2 else size, _DIGITS)


def _close(a: Any, b: Any) -> bool:
    gap, scale = abs((a - b).evalf(_DIGITS)), max(abs(a), abs(b))
    return bool(gap <= scale / 10**_AGREEING or gap < _TINY)


# --- the worker itself ---


def main(arguments: list[str]) -> None:
    """Serves requests until stdin ends. Arguments: seconds a pair may take, bytes of memory."""
    deadline_s, memory_bytes = float(arguments[0]), int(arguments[1])
    _limit_memory(memory_bytes)
    _ignore_interrupts()
    out = _take_stdout()
    requests: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    judge = load_judge()
    _say(out, {"ready": judge is not None})
    while judge is not None:
        a, b = json.loads(requests.get())
        _say(out, {"equal": _within(deadline_s, judge, a, b)})


def _read(requests: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone or has closed us: whatever the main thread does, nobody waits for it


def _within(deadline_s: float, judge: Callable[[str, str], bool], a: str, b: str) -> bool | None:
    # Its watchdog needs no interpreter lock: it ends even a giant integer power whose parent died.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        faulthandler.dump_traceback_later(deadline_s, exit=True, file=nowhere)
        try:
            return judge(a, b)
        except MemoryError:
            os._exit(1)  # what was allocated may never be given back
        except Exception:  # sympy raises nearly anything on what it cannot read
            return None
        finally:
            faulthandler.cancel_dump_traceback_later()


def _limit_memory(memory_bytes: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such module, macOS not every limit
        import resource

        for limit, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _ignore_interrupts() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us


def _take_stdout() -> IO[str]:
    """The pipe to the parent; what libraries print goes nowhere."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return out


def _say(out: IO[str], reply: dict[str, bool | None]) -> None:
    out.write(json.dumps(reply) + "\n")
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
