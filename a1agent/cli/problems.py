"""`a1 problems`: problems of the kind the embedded pair solves."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from a1agent.errors import InvalidOption, nearest

__all__ = ["problems"]


def problems(
    count: Annotated[int, typer.Option("--count", help="how many")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="the same seed gives the same problems")] = 0,
    family: Annotated[list[str] | None, typer.Option("--family", help="only this family; may be repeated")] = None,
) -> int:
    """Print problems as JSON lines: question, answer, family.

    They are of the kinds that the embedded pair solves, and none of them was in its training.
    """
    from a1agent.embedded.problems import FAMILIES
    from a1agent.embedded.problems import problems as generate

    if count < 1:
        raise InvalidOption(f"--count is {count}", "use 1 or more")
    for name in family or ():
        if name not in FAMILIES:
            raise InvalidOption(f"unknown family {name!r}", nearest(name, FAMILIES))
    for problem in generate(count, seed, family or None):
        line = {"question": problem.question, "answer": problem.answer, "family": problem.family}
        typer.echo(json.dumps(line, ensure_ascii=False))
    return 0
