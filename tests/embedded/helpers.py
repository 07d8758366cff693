"""Checks of arithmetic that share no code with the generator."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_TERM = r"\d+(?: [-+*/] \d+)*"
_STATEMENT = re.compile(rf"{_TERM}(?: = {_TERM})+")


def value_of(expression: str) -> float:
    """The value of an expression of whole numbers, brackets and + - * /."""

    def walk(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant)
        return node.value

    return walk(ast.parse(expression, mode="eval").body)


def statements(step: str) -> Iterator[list[str]]:
    """Every chain `a + b = c (= d ...)` in a step, as its sides; those with an unknown in them are left out."""
    known = re.sub(r"\d+ \* x[^.]*|x = \S+", "", step)
    for match in _STATEMENT.finditer(known):
        yield match.group().split(" = ")


def solved(question: str) -> int | None:
    """The answer to an expression, equation or remainder, worked out anew; None for a story."""
    if found := re.search(r"(\d+) (?:is )?divided by (\d+)|Divide (\d+) by (\d+)", question):
        n, m = (int(group) for group in found.groups() if group)
        return n % m
    if " x" in question and "=" in question:
        equation = re.search(r"((?:\d+ \+ )?\d+ \* x(?: [-+] \d+)?) = (\d+)", question)
        assert equation
        left = equation[1]
        return next(x for x in range(1000) if value_of(left.replace("x", str(x))) == int(equation[2]))
    expression = re.search(r"[(\d][\d\s()+*-]*[\d)]", question)
    if expression and re.search(r"[+*-]", expression.group()):
        return int(value_of(expression.group()))
    return None
