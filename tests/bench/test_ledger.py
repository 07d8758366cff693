"""A run's folder: nothing is lost, nothing half-read, nothing of another run overwritten."""

import subprocess
import sys
from pathlib import Path

import pytest

from a1agent.bench.ledger import Ledger, Record
from a1agent.errors import UsageError

RUN = {"draft": "a", "target": "b", "ways": ["a1 0.3"]}


def record(problem: int) -> Record:
    return Record(problem=problem, way="a1 0.3", expected="1", wall_s=1.5)


def test_what_was_added_is_there_when_the_run_resumes(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "run", RUN, resume=False)
    first.add(record(0))
    first.add(record(3))
    again = Ledger(tmp_path / "run", RUN, resume=True)
    assert again.records == [record(0), record(3)]
    assert again.done == {(0, "a1 0.3"), (3, "a1 0.3")}


def test_an_answer_may_hold_any_line_end(tmp_path: Path) -> None:
    answer = "1\u2028\u2029\x85\x0b\r\n2"
    written = record(0).model_copy(update={"answer": answer})
    Ledger(tmp_path / "run", RUN, resume=False).add(written)
    assert Ledger(tmp_path / "run", RUN, resume=True).records == [written]


def test_a_line_cut_short_by_a_kill_is_dropped_and_asked_again(tmp_path: Path) -> None:
    Ledger(tmp_path / "run", RUN, resume=False).add(record(0))
    results = tmp_path / "run" / "results.jsonl"
    results.write_bytes(results.read_bytes() + results.read_bytes()[:40])
    again = Ledger(tmp_path / "run", RUN, resume=True)
    again.add(record(1))
    assert [r.problem for r in Ledger(tmp_path / "run", RUN, resume=True).records] == [0, 1]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    Ledger(tmp_path / "run", RUN, resume=False).add(record(0))
    with (tmp_path / "run" / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"problem": "x"}\n')
    with pytest.raises(UsageError, match=r"line 2 of .*results\.jsonl is damaged"):
        Ledger(tmp_path / "run", RUN, resume=True)


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    Ledger(tmp_path, RUN, resume=False).add(record(0))
    with pytest.raises(UsageError, match="--resume"):
        Ledger(tmp_path, RUN, resume=False)
    with pytest.raises(UsageError, match="its target is 'b', not 'c'"):
        Ledger(tmp_path, RUN | {"target": "c"}, resume=True)
    assert Ledger(tmp_path, RUN, resume=True).records == [record(0)]


@pytest.mark.parametrize("manifest", ["", "[1]", "{", "\xff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, manifest: str) -> None:
    Ledger(tmp_path, RUN, resume=False).add(record(0))
    (tmp_path / "run.json").write_bytes(manifest.encode("latin-1"))
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        Ledger(tmp_path, RUN, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_failed_before_its_first_answer_leaves_its_folder_to_another(tmp_path: Path, resume: bool) -> None:
    Ledger(tmp_path, RUN | {"draft": "mistyped"}, resume=False)
    Ledger(tmp_path, RUN, resume=resume).add(record(0))
    assert Ledger(tmp_path, RUN, resume=True).records == [record(0)]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="something else"):
        Ledger(tmp_path, RUN, resume=False)
    with pytest.raises(UsageError, match="something else"):
        Ledger(tmp_path / "thesis.tex", RUN, resume=False)


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        Ledger(tmp_path, RUN, resume=True)


FILL = """
import resource, sys
from pathlib import Path
from a1agent.bench.ledger import Ledger
from a1agent.errors import A1Error
from tests.bench.test_ledger import RUN, record
ledger = Ledger(Path(sys.argv[1]), RUN, resume=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    for problem in range(1000):
        ledger.add(record(problem))
except A1Error as error:
    print(error)
    print(len(ledger.records))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_stops_cleanly_and_what_is_written_stays_readable(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True)
    message, count = done.stdout.splitlines()
    assert "cannot be written" in message and f"{count} answers are safe" in message and "--resume" in message
    again = Ledger(tmp_path, RUN, resume=True)
    assert [r.problem for r in again.records] == list(range(int(count))) and int(count) > 0
