"""Every mistake ends in one or two lines on stderr and the right exit code."""

from pathlib import Path

import pytest

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
    "an unknown choice": (["ask", "q", "--vote", "best-of"], "--vote"),
    "impossible together": (["ask", "q", "--coverage", "conditional", "--calibrator", "static"], "adaptive"),
    "an unknown command": (["aks"], "'ask'"),
    "an unknown scheme": (["ask", "q", "--draft", "lama-cpp:m.gguf"], "llama-cpp"),
    "an address without a scheme": (["ask", "q", "--draft", "m.gguf"], "llama-cpp:m.gguf"),
    "an unknown option of an address": (["ask", "q", "--draft", "scripted:sums?acuracy=1"], "accuracy"),
    "a bad value in an address": (["ask", "q", "--draft", "scripted:sums?accuracy=x"], "float"),
    "no problems": (["problems", "--count", "0"], "--count"),
    "an unknown family": (["problems", "--family", "sum"], "'sums'"),
    "a replay at an impossible rate": (["replay", "t.csv", "--rejection-rate", "2"], "--rejection-rate"),
    "a replay with an unknown calibrator": (["replay", "t.csv", "--calibrator", "magic"], "adaptive"),
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
    "a folder that is not there": (["ask", "q", "--target", "hf:./nowhere/at/all"], "nowhere"),
    "a missing trace": (["replay", "nowhere.csv"], "nowhere.csv"),
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


@pytest.mark.parametrize("content", [b"", b"GGUF\x03\x00\x00\x00", b"hello, I am a text"], ids=["empty", "cut", "text"])
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
        ("question,chain,turn,attempt,perplexity\n", "no steps"),
    ],
    ids=["empty", "columns", "value", "no rows"],
)
def test_a_trace_that_does_not_fit_exits_1(a1, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(content, encoding="utf-8")
    done = a1("replay", str(file))
    assert done.exit_code == 1
    _is_short(done, said)


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
