"""Data sets: questions with known answers, generated, from a file, or from the model hub by their public names."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from a1agent.errors import InvalidOption, MissingExtra, UsageError, nearest, unreadable

__all__ = ["DATASETS", "DataSet", "Problem", "from_file", "named"]

EMBEDDED_COUNT = 100
_MOST_EMBEDDED = 10_000
_SHOWN_LINES = 5
_SURROGATE = re.compile("[\ud800-\udfff]")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and the answer it should get; an empty answer is not known."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Problems, and what tells this set from others: a run that resumes must go on with the same."""

    name: str
    identity: str
    problems: tuple[Problem, ...]
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A data set of the hub: where it is, how a row becomes a problem (None: it does not), and which rows are taken."""

    path: str
    config: str | None = None
    split: str
    problem: Callable[[int, Row], Problem | None]
    pick: Callable[[list[Problem]], list[Problem]] = lambda problems: problems

    def problems(self, rows: Iterable[Row]) -> list[Problem]:
        """The chosen problems of all rows of the split."""
        made = (self.problem(index, row) for index, row in enumerate(rows))
        return self.pick([problem for problem in made if problem is not None])


def _first(count: int) -> Callable[[list[Problem]], list[Problem]]:
    return lambda problems: problems[:count]


def _sampled(count: int, seed: int) -> Callable[[list[Problem]], list[Problem]]:
    return lambda problems: [problems[i] for i in random.Random(seed).sample(range(len(problems)), count)]


def _stated(_: int, row: Row) -> Problem:
    return Problem(str(row["problem"]), _plain(row["answer"]))


def _grade_school(_: int, row: Row) -> Problem:
    return Problem(str(row["question"]), str(row["answer"]).rpartition("####")[2].strip().replace(",", ""))


def _olympiad(_: int, row: Row) -> Problem | None:
    if row["is_multiple_answer"] or row["answer_type"] != "Numerical":
        return None
    return Problem(str(row["question"]), _plain(row["final_answer"][0]).strip("$"))


def _choices(index: int, row: Row) -> Problem:
    """Four choices in an order of the question's own."""
    right = str(row["Correct Answer"]).strip()
    texts = [right, *(str(row[f"Incorrect Answer {i}"]).strip() for i in (1, 2, 3))]
    random.Random(f"gpqa:{index}").shuffle(texts)
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip("ABCD", texts, strict=True))
    question = f"{str(row['Question']).strip()}\n\n{listed}\n\nAnswer with the letter of the right choice."
    return Problem(question, "ABCD"[texts.index(right)])


def _plain(value: object) -> str:
    """A number that a table keeps as 25.0 is 25."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


# The splits and selections are those of the reference implementation of A1, so that figures can be held against its.
DATASETS: dict[str, Hub] = {
    "math500": Hub(path="HuggingFaceH4/MATH-500", split="test", problem=_stated, pick=_sampled(100, 42)),
    "aime24": Hub(path="simplescaling/aime24_nofigures", split="train", problem=_stated, pick=_first(15)),
    "aime25": Hub(path="simplescaling/aime25_nofigures", split="train", problem=_stated, pick=_first(15)),
    "amc23": Hub(path="AI-MO/aimo-validation-amc", split="train", problem=_stated, pick=_first(50)),
    "olympiad": Hub(
        path="Hothan/OlympiadBench",
        config="OE_TO_maths_en_COMP",
        split="train",
        problem=_olympiad,
        pick=_first(50),
    ),
    "gpqa": Hub(path="Idavidrein/gpqa", config="gpqa_diamond", split="train", problem=_choices, pick=_first(60)),
    "gsm8k": Hub(path="openai/gsm8k", config="main", split="test", problem=_grade_school),
}


def named(name: str, *, limit: int | None, seed: int) -> DataSet:
    """A data set by name: `embedded`, whose problems `seed` makes, or one of `DATASETS`.

    Raises `InvalidOption` for other names, `MissingExtra`, and `UsageError` when the hub cannot be reached.
    """
    if name == "embedded":
        if limit is not None and limit > _MOST_EMBEDDED:
            raise InvalidOption(f"--limit is {limit}", f"use {_MOST_EMBEDDED} or less")
        return _embedded(EMBEDDED_COUNT if limit is None else limit, seed)
    if name not in DATASETS:
        raise InvalidOption(f"there is no data set {name!r}", nearest(name, ["embedded", *DATASETS]))
    try:
        found = DATASETS[name].problems(_rows(DATASETS[name]))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        what = f"the rows of {DATASETS[name].path} are not as they were: {type(error).__name__}: {error}"
        raise UsageError(what, "pass a file of its problems: --data problems.jsonl") from error
    return DataSet(name=name, identity=_digest(found), problems=tuple(found[:limit]))


def _embedded(count: int, seed: int) -> DataSet:
    from a1agent.embedded.problems import problems

    found = tuple(Problem(p.question, p.answer) for p in problems(count, seed))
    return DataSet(name="embedded", identity=f"seed {seed}", problems=found)


def _rows(source: Hub) -> Iterable[Row]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtra(f"the data set {source.path}", "bench") from error
    try:
        return cast("Iterable[Row]", datasets.load_dataset(source.path, source.config, split=source.split))
    except Exception as error:  # the library raises what its many parts raise: one cause is as good as another here
        first = (str(error).splitlines() or [""])[0]
        file = 'pass a file: --data problems.jsonl, a line is {"question": ..., "answer": ...}'
        refused = type(error).__name__ == "DatasetNotFoundError"  # so are those whose terms are not accepted
        hint = (
            "accept its terms on its page, if it has some, then `hf auth login`; or" if refused else "without a network"
        )
        what = f"the data set {source.path} cannot be loaded: {type(error).__name__}: {first}"
        raise UsageError(what, f"{hint} {file}") from error


def from_file(path: Path, *, limit: int | None = None, skip_bad: bool = False, answers: bool = True) -> DataSet:
    """Problems from a file of JSON lines with `question` and `answer`; without `answers` the questions are enough.

    Raises `UsageError` when it cannot be read, holds nothing, or has broken lines (named by number), which `skip_bad`
    leaves out.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(unreadable(path, error), "a file of JSON lines, UTF-8") from None
    found: list[Problem] = []
    bad: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):  # other line ends may stand in a JSON text
        if line.strip():
            problem = _parse(line, answers)
            if isinstance(problem, Problem):
                found.append(problem)
            else:
                bad[number] = problem
    if bad and not skip_bad:
        raise UsageError(f"{path} has {len(bad)} broken lines: {_list(bad)}", "mend them, or leave out with --skip-bad")
    if not found:
        raise UsageError(f"{path} holds no problems", 'a line is {"question": ..., "answer": ...}')
    return DataSet(name=path.name, identity=_digest(found), problems=tuple(found[:limit]), skipped=tuple(bad))


def _parse(line: str, answers: bool) -> Problem | str:
    """The problem of a line, or what is wrong with it."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(value, dict):
        return "no object"
    row = cast("dict[str, Any]", value)
    question, answer = row.get("question"), row.get("answer", "")
    if not isinstance(question, str) or not question.strip():
        return "no question"
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return "the answer is no text or number"
    if isinstance(answer, float) and not math.isfinite(answer):
        return "the answer is no number"
    if answers and not str(answer).strip():
        return "no answer"
    if _SURROGATE.search(f"{question}{answer}"):
        return "half a character"
    return Problem(question, _plain(answer).strip())


def _list(bad: Mapping[int, str]) -> str:
    shown = ", ".join(f"line {number} ({what})" for number, what in list(bad.items())[:_SHOWN_LINES])
    return shown + (", ..." if len(bad) > _SHOWN_LINES else "")


def _digest(problems: Iterable[Problem]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for problem in problems:
        digest.update(repr((problem.question, problem.answer)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
