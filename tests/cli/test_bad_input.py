"""Every mistake ends in one or two lines on stderr and the right exit code."""

import json
import sqlite3
import struct
from pathlib import Path

import pytest

from a1agent import models
from a1agent.conformal import store

USAGE = {
    "an empty question": (["ask", ""], "empty"),
    "a blank question": (["ask", "  \n "], "empty"),
    "an empty pipe": (["ask", "-"], "empty"),
    "a rate above 1": (["ask", "q", "--rejection-rate", "1.5"], "--rejection-rate"),
    "a rate below 0": (["ask", "q", "--rejection-rate", "-0.1"], "--rejection-rate"),
    "a rate that is no number": (["ask", "q", "--rejection-rate", "half"], "--rejection-rate"),
    "a rate that is not finite": (["ask", "q", "--rejection-rate", "nan"], "--rejection-rate"),
    "no chains": (["ask", "q", "--chains", "0"], "--chains"),
    "no turns": (["ask", "q", "--turns", "0"], "--turns"),
    "an unknown flag": (["ask", "q", "--rejectionrate", "1"], "--rejection-rate"),
    "a stop text that is found everywhere": (["ask", "q", "--stop", ""], "--stop"),
    "a system message in another encoding": (["ask", "q", "--system", "caf\udce9"], "locale"),
    "a question in another encoding": (["ask", "caf\udce9 1 + 1"], "locale"),
    "an unknown choice": (["ask", "q", "--vote", "best-of"], "--vote"),
    "impossible together": (["ask", "q", "--coverage", "conditional", "--calibrator", "static"], "adaptive"),
    "an unknown command": (["aks"], "'ask'"),
    "an unknown scheme": (["ask", "q", "--draft", "lama-cpp:m.gguf"], "llama-cpp"),
    "an address without a scheme": (["ask", "q", "--draft", "m.gguf"], "llama-cpp:m.gguf"),
    "a name of the hub without a scheme": (["ask", "q", "--draft", "ORG/NAME"], "hf:ORG/NAME"),
    "an unknown option of an address": (["ask", "q", "--draft", "scripted:sums?acuracy=1"], "accuracy"),
    "a bad value in an address": (["ask", "q", "--draft", "scripted:sums?accuracy=x"], "a number"),
    "a flag without its value": (["replay", "t.csv", "--seed"], "a1 replay --help"),
    "no problems": (["problems", "--count", "0"], "--count"),
    "an unknown family": (["problems", "--family", "sum"], "'sums'"),
    "a replay at an impossible rate": (["replay", "t.csv", "--rejection-rate", "2"], "--rejection-rate"),
    "a replay with an unknown calibrator": (["replay", "t.csv", "--calibrator", "magic"], "adaptive"),
    "a missing trace": (["replay", "nowhere.csv"], "nowhere.csv"),
    "a folder for a trace": (["replay", "."], "folder"),
    "statistics of no store": (["stats", "--calibration", "none"], "none"),
    "statistics of a missing file": (["stats", "--calibration", "nowhere.sqlite3"], "nowhere.sqlite3"),
}
FAILURES = {
    "a target that cannot score": (["ask", "q", "--target", "scripted:sums?can_score=false"], "cannot score"),
    "a target that cannot rewind": (["ask", "q", "--target", "scripted:sums?can_rewind=false"], "continue"),
    "a question longer than the context": (["ask", "1 " * 90, "--draft", "scripted:sums?context_length=80"], "80"),
    "an unknown embedded model": (["ask", "q", "--draft", "embedded:dratf"], "'draft'"),
    "a server that is not there": (["ask", "q", "--draft", "vllm:http://127.0.0.1:9#m"], "127.0.0.1:9"),
    "a target that only drafts": (["ask", "q", "--target", "openai:http://127.0.0.1:9#m"], "cannot"),
}


@pytest.mark.parametrize(("words", "said"), USAGE.values(), ids=USAGE)
def test_wrong_usage_exits_2(a1, words: list[str], said: str) -> None:
    done = a1(*words)
    assert done.exit_code == 2
    _is_short(done, said)


@pytest.mark.parametrize(("words", "said"), FAILURES.values(), ids=FAILURES)
def test_what_fails_exits_1(a1, words: list[str], said: str) -> None:
    done = a1(*words)
    assert done.exit_code == 1
    _is_short(done, said)


def test_a_folder_that_is_not_there_exits_1(a1) -> None:
    pytest.importorskip("transformers")
    done = a1("ask", "q", "--target", "hf:./nowhere/at/all")
    assert done.exit_code == 1
    _is_short(done, "nowhere")


# A list in a list in a list, and so on, of a name without letters.
NESTED = b"GGUF" + struct.pack("<IQQQI", 3, 0, 1, 0, 9) + struct.pack("<IQ", 9, 1) * 5000


@pytest.mark.parametrize(
    "content", [b"", b"GGUF\x03\x00\x00\x00", b"hello, I am a text", NESTED], ids=["empty", "cut", "text", "nested"]
)
def test_a_file_that_is_no_model_exits_1(a1, tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("llama_cpp")
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    done = a1("ask", "q", "--target", f"llama-cpp:{file}")
    assert done.exit_code == 1
    _is_short(done, "model.gguf")


@pytest.mark.parametrize("damage", [b"", b"\x10", b"\x02\x00\x00\x00\x00\x00\x00\x00{", b"\xff" * 64])
def test_weights_that_are_damaged_exit_1(a1, tmp_path: Path, damage: bytes) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    (tmp_path / "model.safetensors").write_bytes(damage)
    done = a1("ask", "q", "--target", f"hf:{tmp_path}")
    assert done.exit_code == 1
    _is_short(done, "model.safetensors")


def test_a_missing_model_file_exits_1(a1, tmp_path: Path) -> None:
    done = a1("ask", "q", "--target", f"llama-cpp:{tmp_path / 'none.gguf'}")
    assert done.exit_code in (1, 2)  # 2 where llama-cpp-python is not installed either
    _is_short(done, "none.gguf" if done.exit_code == 1 else "pip install 'a1agent[llama-cpp]'")


def test_a_missing_package_names_the_pip_command(a1, monkeypatch: pytest.MonkeyPatch) -> None:
    from a1agent.backends import scripted
    from a1agent.errors import MissingExtra

    def load(path: str, **options: object) -> None:
        raise MissingExtra("this model", "llama-cpp")

    monkeypatch.setattr(scripted, "load", load)
    done = a1("ask", "q")
    assert done.exit_code == 2
    _is_short(done, "pip install 'a1agent[llama-cpp]'")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("question,chain\n1,2\n", "turn"),
        ("question,chain,turn,attempt,perplexity\n1,0,0,0,x\n", "line 2"),
        ("question,chain,turn,attempt,perplexity\n1,0,0,0,-2\n", "not positive"),
        ("question,chain,turn,attempt,perplexity\n1,0,-1,0,2\n", "negative"),
        ("question,chain,turn,attempt,perplexity\n1,0\n", "'turn': is empty"),
        ("question,chain,turn,attempt,perplexity\n", "no steps"),
    ],
    ids=["empty", "columns", "value", "sign", "turn", "short row", "no rows"],
)
def test_a_trace_that_does_not_fit_exits_2(a1, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(content, encoding="utf-8")
    done = a1("replay", str(file))
    assert done.exit_code == 2
    _is_short(done, said)


def test_a_trace_with_scores_that_are_not_finite_is_replayed_and_its_report_is_json(a1, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"{n // 20},0,0,0,{'nan' if n % 50 == 0 else 'inf' if n % 50 == 1 else 1 + n % 7}" for n in range(400)]
    file.write_text("\n".join(["question,chain,turn,attempt,perplexity", *rows]), encoding="utf-8")
    report = json.loads(a1("replay", str(file), "--json").stdout, parse_constant=pytest.fail)
    assert report["steps"] == 400 and abs(report["overall_rate"] - 0.3) < 0.05


def test_a_calibration_of_another_pair_exits_1(a1, tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite3")
    assert a1("ask", "1 + 2", "--calibration", store).exit_code == 0
    other = ["--draft", "scripted:sums?accuracy=0.9"]
    done = a1("ask", "1 + 2", "--calibration", store, "--calibrator", "static", *other)
    assert done.exit_code == 1
    _is_short(done, "is of other models")


def test_a_pair_that_does_not_fit_exits_1_with_the_sum_and_what_to_lower(a1, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_cpp")
    monkeypatch.setattr(models, "available_memory", lambda: 2**20)
    done = a1("ask", "q", "--draft", "embedded:draft", "--target", "embedded:target")
    assert done.exit_code == 1
    _is_short(done, "GiB for embedded:draft + ")
    assert "lower n_ctx or kv_tokens" in done.stderr


def test_a_model_that_cannot_rewind_exits_1(a1, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    tiny = pytest.importorskip("tests.backends.tiny")
    file = tiny.write_recurrent(tmp_path / "mamba.gguf", tiny.bpe_words())
    done = a1("ask", "q", "--target", f"llama-cpp:{file}")
    assert done.exit_code == 1
    _is_short(done, "recurrent or hybrid")
    assert "--takeover" in done.stderr or 'takeover="continue"' in done.stderr


@pytest.mark.parametrize("kind", ["locked", "another program's", "a folder"])
def test_a_store_that_cannot_be_used_is_one_warning_and_the_question_is_answered(
    a1, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.CalibrationStore.__init__, "__kwdefaults__", {"window": 10, "timeout_s": 0.1})
    path = tmp_path / "store.sqlite3"
    if kind == "a folder":
        path.mkdir()
    if kind == "locked":
        store.CalibrationStore(path).close()
    holder = sqlite3.connect(":memory:" if kind == "a folder" else path, isolation_level=None)
    if kind == "locked":
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
    else:
        holder.execute("CREATE TABLE notes (text)")
    done = a1("ask", "1 + 2", "--quiet", "--calibration", str(path))
    holder.close()
    assert (done.exit_code, done.stdout) == (0, "3\n")
    assert done.stderr.startswith("warning: ") and len(done.stderr.splitlines()) == 1


def test_statistics_of_a_damaged_store_exit_1_and_leave_it_alone(a1, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("Dear diary, today I calibrated a model. " * 100, encoding="utf-8")
    done = a1("stats", "--calibration", str(file))
    assert done.exit_code == 1
    _is_short(done, "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_mistakes_of_a_bug_name_the_way_to_the_traceback(a1, monkeypatch: pytest.MonkeyPatch) -> None:
    from a1agent.backends import scripted

    monkeypatch.setattr(scripted, "load", lambda *_, **__: 1 / 0)
    done = a1("ask", "q")
    assert done.exit_code == 1
    _is_short(done, "--debug")


def test_debug_shows_the_traceback(a1) -> None:
    done = a1("ask", "", "--debug")
    assert isinstance(done.exception, ValueError)


def _is_short(done, said: str) -> None:
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:])
    assert said in done.stderr
    assert "Traceback" not in done.output and done.stdout == ""
