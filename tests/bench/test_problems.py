"""Data sets: from files with broken lines, from rows of the hub, and without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from a1agent.bench.problems import DATASETS, Problem, from_file, named
from a1agent.errors import InvalidOption, UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    lines = [
        '{"question": "2 + 2?", "answer": 4}',
        "",
        '{"question": "no answer"}',
        "not json",
        '{"question": "half of one?", "answer": "1/2", "source": "by hand"}',
        '["a list"]',
        '{"question": "  ", "answer": "1"}',
        '{"question": "true?", "answer": true}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_broken_lines_are_named_by_number(file: Path) -> None:
    with pytest.raises(UsageError) as caught:
        from_file(file)
    for number, what in ((3, "no answer"), (4, "no JSON"), (6, "no object"), (7, "no question"), (8, "the answer")):
        assert f"line {number} ({what}" in caught.value.what
    assert "--skip-bad" in caught.value.hint


def test_broken_lines_are_left_out_on_request(file: Path) -> None:
    found = from_file(file, skip_bad=True)
    assert found.problems == (Problem("2 + 2?", "4"), Problem("half of one?", "1/2"))
    assert found.skipped == (3, 4, 6, 7, 8)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (r'{"question": "1 + 1 \ud83d?", "answer": "2"}', "half a character"),
        (r'{"question": "1 + 1?", "answer": "2\udc00"}', "half a character"),
        ('{"question": "1 + 1?", "answer": NaN}', "no number"),
        ('{"question": "1 + 1?", "answer": 1e999}', "no number"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_cannot_be_asked_or_judged_is_a_broken_line(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(f'{line}\n{{"question": "1 + 1 \\ud83d\\ude00?", "answer": "2"}}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=rf"1 broken lines: line 1 \(.*{what}"):
        from_file(path)
    assert from_file(path, skip_bad=True).problems == (Problem("1 + 1 \U0001f600?", "2"),)


def test_a_question_may_hold_any_line_end(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"1 +{end}1?", "answer": "2"} for end in ("\u2028", "\u2029", "\x85", "\n")]
    path.write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    assert [p.question for p in from_file(path).problems] == [row["question"] for row in rows]


def test_answers_are_not_needed_to_calibrate(file: Path) -> None:
    found = from_file(file, skip_bad=True, answers=False)
    assert [p.question for p in found.problems] == ["2 + 2?", "no answer", "half of one?"]


def test_a_limit_does_not_change_which_set_it_is(file: Path) -> None:
    one = from_file(file, skip_bad=True, limit=1)
    assert len(one.problems) == 1 and one.identity == from_file(file, skip_bad=True).identity


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xfa", None])
def test_a_file_without_problems_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "problems.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"problems\.jsonl"):
        from_file(path)


def test_the_embedded_problems_come_from_the_seed_and_a_longer_run_begins_alike() -> None:
    short, long = (named("embedded", limit=n, seed=3) for n in (4, 9))
    assert long.problems[:4] == short.problems and long.identity == short.identity
    assert named("embedded", limit=4, seed=4).identity != short.identity


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(InvalidOption, match="math500"):
        named("math-500", limit=None, seed=0)


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"problem": f"p{i}", "question": f"q{i}", "answer": str(i), **more} for i in range(count)]


def test_selections_are_those_of_the_reference() -> None:
    math = DATASETS["math500"].problems(rows(500))
    assert len(math) == 100 and [p.answer for p in math[:3]] == ["327", "57", "12"]  # random.seed(42), then sample
    assert [p.answer for p in DATASETS["aime24"].problems(rows(30))] == [str(i) for i in range(15)]
    assert len(DATASETS["amc23"].problems(rows(83))) == 50


def test_a_number_that_a_table_keeps_as_a_fraction_is_whole() -> None:
    assert DATASETS["amc23"].problems([{"problem": "p", "answer": 142.0}])[0].answer == "142"


def test_of_olympiad_problems_single_numbers_are_taken() -> None:
    row = {"question": "q", "final_answer": ["$2 \\sqrt{2}$"], "is_multiple_answer": False, "answer_type": "Numerical"}
    others = [row | {"is_multiple_answer": True}, row | {"answer_type": "Expression"}]
    assert DATASETS["olympiad"].problems([*others, row]) == [Problem("q", "2 \\sqrt{2}")]


def test_grade_school_answers_stand_after_the_work() -> None:
    assert DATASETS["gsm8k"].problems([{"question": "q", "answer": "3 * 400 = 1200\n#### 1,200"}])[0].answer == "1200"


def test_choices_are_shuffled_and_the_answer_is_the_letter_of_the_right_one() -> None:
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    found = DATASETS["gpqa"].problems([{"Question": f"q{i}", "Correct Answer": "right", **wrong} for i in range(70)])
    assert len(found) == 60
    assert all(f"{p.answer}) right\n" in p.question for p in found)
    assert {p.answer for p in found} == set("ABCD")


def test_without_a_network_the_error_says_how_to_pass_a_file() -> None:
    pytest.importorskip("datasets")
    code = "from a1agent.bench.problems import named; named('aime24', limit=1, seed=0)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    last = done.stderr.splitlines()[-1]
    assert "simplescaling/aime24_nofigures cannot be loaded" in last and "--data problems.jsonl" in last


def test_lines_of_the_file_are_what_a1_problems_prints(tmp_path: Path) -> None:
    path = tmp_path / "printed.jsonl"
    path.write_text(json.dumps({"question": "1 + 1?", "answer": "2", "family": "sums"}) + "\n", encoding="utf-8")
    assert from_file(path).problems == (Problem("1 + 1?", "2"),)
