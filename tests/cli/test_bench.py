"""`a1 bench` and `a1 calibrate` as people call them."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHORT = ["--limit", "3", "--rates", "0.3", "--chains", "3", "--modes", "target,a1"]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    lines = [json.dumps({"question": f"{i} + 2 + 3 + 4", "answer": i + 9}) for i in range(1, 9)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_run_writes_report_results_and_plots(a1: Any, sums: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = a1("bench", "--data", str(sums), *SHORT, "--out", str(out))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == str(out / "report.md")
    assert (out / "report.md").read_text(encoding="utf-8").startswith("# scripted:sums and scripted:sums on sums.jsonl")
    assert len((out / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    pytest.importorskip("matplotlib")
    assert {p.suffix for p in out.glob("accuracy.*")} == {".png", ".svg"}


def test_the_barrier_is_left_out_of_a_run_that_scores_some_steps_only(a1: Any, sums: Path, tmp_path: Path) -> None:
    flags = ["bench", "--data", str(sums), "--limit", "2", "--chains", "2", "--rates", "0.3", "--verify-rate", "0.5"]
    done = a1(*flags, "--out", str(tmp_path / "run"))
    assert done.exit_code == 0 and "a1-sync is left out" in done.stderr
    lines = (tmp_path / "run" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["way"] for line in lines} == {"draft", "target", "a1 0.3", "a1-random 0.3"}
    asked = a1(*flags, "--modes", "a1,a1-sync", "--out", str(tmp_path / "other"))
    assert asked.exit_code == 2 and "ranking" in asked.stderr


def test_a_run_resumes_and_refuses_what_is_not_its_own(a1: Any, sums: Path, tmp_path: Path) -> None:
    flags = ["bench", "--data", str(sums), *SHORT, "--out", str(tmp_path / "run")]
    a1(*flags)
    assert "Peak memory" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    refused = a1(*flags)
    assert refused.exit_code == 2 and "--resume" in refused.stderr
    other = a1(*flags, "--resume", "--temperature", "0.5")
    assert other.exit_code == 2 and "temperature" in other.stderr
    assert a1(*flags, "--resume").exit_code == 0
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before
    assert "Peak memory" not in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")  # of the last process only


def test_a_disk_without_room_for_the_report_loses_no_answer(a1: Any, sums: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["bench", "--data", str(sums), *SHORT, "--out", str(out)]
    assert a1(*flags).exit_code == 0
    (out / "report.md").unlink()
    (out / "report.md").mkdir()  # refuses to be written, as a full disk does
    stopped = a1(*flags, "--resume")
    assert stopped.exit_code == 1 and "all 6 answers are safe" in stopped.stderr and "--resume" in stopped.stderr
    (out / "report.md").rmdir()
    assert a1(*flags, "--resume").exit_code == 0


def test_a_folder_that_cannot_be_made_is_named_before_anything_runs(a1: Any, sums: Path) -> None:
    refused = a1("bench", "--data", str(sums), *SHORT, "--out", str(sums / "run"))
    assert refused.exit_code == 2 and "--out" in refused.stderr and str(sums / "run") in refused.stderr


def test_defaults_stand_in_one_pair_of_brackets(a1: Any) -> None:
    shown = " ".join(a1("bench", "--help").stdout.split())
    assert "[default: 8]" in shown and "(8)" not in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rates", "0.3,1.5"], "1.5 in --rates"),
        (["--rates", "0.3,many"], "'many'"),
        (["--rates", ","], "--rates is empty"),
        (["--modes", "a1,a1-random,taget"], "'target'"),
        (["--more-chains", "0"], "--more-chains"),
        (["--more-chains", "2,x"], "'x' in --more-chains"),
        (["--more-chains", "100000"], "10000 or less"),
        (["--more-chains", "9" * 5000], "--more-chains"),
        (["--limit", "100000000000"], "10000 or less"),
        (["--dataset", "math50"], "'math500'"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--data", "nowhere.jsonl", "--dataset", "embedded"], "two data sets"),
        (["--resume"], "--out"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_bad_flags_are_named_before_anything_is_written(
    a1: Any, flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = a1("bench", *flags)
    assert done.exit_code == 2 and said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_broken_lines_stop_a_run_unless_they_may_be_left_out(a1: Any, sums: Path, tmp_path: Path) -> None:
    with sums.open("a", encoding="utf-8") as file:
        file.write("oops\n")
    flags = ["bench", "--data", str(sums), *SHORT, "--out", str(tmp_path / "run")]
    stopped = a1(*flags)
    assert stopped.exit_code == 2 and "line 9 (no JSON)" in stopped.stderr
    assert a1(*flags, "--skip-bad").exit_code == 0


def test_calibration_is_kept_for_calls_to_come(a1: Any, sums: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite3")
    static = ["--calibrator", "static", "--calibration", store, "--seed", "1"]
    done = a1("calibrate", "--data", str(sums), "--calibration", store, "--json")
    report = json.loads(done.stdout)
    assert report["questions"] == 8 and report["scores"] > 100 and report["failed"] == 0
    answered = json.loads(a1("ask", "1 + 2 + 3", "--json", *static).stdout)
    assert answered["stats"]["calibration_size"] == report["scores"]


def test_a_run_from_a_measured_calibration_keeps_its_controls(a1: Any, sums: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite3")
    assert a1("calibrate", "--data", str(sums), "--calibration", store).exit_code == 0
    flags = ["--data", str(sums), "--chains", "4", "--rates", "0.3", "--out", str(tmp_path / "run")]
    done = a1("bench", *flags, "--calibrator", "static", "--calibration", store)
    assert done.exit_code == 0, done.stderr
    lines = (tmp_path / "run" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rejected, verified = 0, 0
    for record in map(json.loads, lines):
        if record["way"] == "a1-random 0.3":
            rejected += record["stats"]["rejections"]
            verified += record["stats"]["verifications"]
    assert verified > 100 and abs(rejected / verified - 0.3) < 0.12


def test_calibrating_says_how_to_see_what_it_kept(a1: Any, sums: Path, tmp_path: Path) -> None:
    store = tmp_path / "my store.sqlite3"
    done = a1("calibrate", "--data", str(sums), "--calibration", str(store))
    assert f"a1 stats --calibration '{store}' shows it" in done.stdout
    done = a1("calibrate", "--data", str(sums), env={"A1_CALIBRATION": str(store)})
    assert "; a1 stats shows it" in done.stdout


def test_calibrating_takes_one_data_set(a1: Any, sums: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite3")
    done = a1("calibrate", "--data", str(sums), "--dataset", "embedded", "--calibration", store)
    assert done.exit_code == 2 and "two data sets" in done.stderr


def test_calibrating_needs_somewhere_to_keep_it(a1: Any, sums: Path) -> None:
    done = a1("calibrate", "--data", str(sums), "--calibration", "none")
    assert done.exit_code == 2 and "--calibration" in done.stderr


def test_what_was_measured_and_cannot_be_kept_is_an_error(
    a1: Any, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def without_room(path: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        if pages and path != ":memory:":
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    store = tmp_path / "store.sqlite3"
    a1("ask", "1 + 2", "--calibration", str(store), "--seed", "0")
    monkeypatch.setattr(sqlite3, "connect", without_room)
    done = a1("calibrate", "--data", str(sums), "--calibration", str(store))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "full" in done.stderr and "scores could not be kept in" in done.stderr


def test_a_store_that_cannot_be_written_is_told_before_anything_is_measured(
    a1: Any, sums: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = a1("calibrate", "--data", str(sums), "--calibration", str(tmp_path / "file" / "store.sqlite3"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nothing can be kept in" in done.stderr and "questions: " not in done.stderr


def test_a_calibrator_that_adds_nothing_measures_nothing(a1: Any, sums: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite3"
    done = a1("calibrate", "--data", str(sums), "--calibration", str(store), "--calibrator", "static")
    assert done.exit_code == 2 and "static" in done.stderr
    assert not store.exists()


def test_a_run_leaves_the_users_calibration_alone(a1: Any, sums: Path, tmp_path: Path, user_folders: Path) -> None:
    flags = ["bench", "--data", str(sums), *SHORT, "--out", str(tmp_path / "run")]
    assert a1(*flags, env={"A1_CALIBRATION": "default"}).exit_code == 0
    assert not list(user_folders.rglob("calibration.sqlite3"))


def test_a_killed_run_goes_on_without_asking_anything_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["bench", "--limit", "8", "--rates", "0.3", "--chains", "3", "--modes", "target,a1", "--out", str(out)]
    command = [sys.executable, "-m", "a1agent", *flags]
    environment = {**os.environ, "A1_CALIBRATION": "none"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("answers: "):
            break
    running.kill()
    running.communicate(timeout=60)
    kept = [line for line in (out / "results.jsonl").read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 0 < len(kept) < 16
    done = subprocess.run([*command, "--resume"], env=environment, timeout=200, capture_output=True, check=True)
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert lines[: len(kept)] == kept and len(lines) == 16
    pairs = {(json.loads(line)["problem"], json.loads(line)["way"]) for line in lines}
    assert len(pairs) == 16 and done.stdout.decode().strip().endswith("report.md")
