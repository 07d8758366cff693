"""`a1 serve` as a real process: it says where it is, ends in order, and keeps what it learned."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from a1agent.cli.app import build
from a1agent.conformal.store import CalibrationStore

ROOT = Path(__file__).parents[2]
SERVE = [sys.executable, "-m", "a1agent", "serve", "--draft", "scripted:sums?accuracy=0.6", "--target", "scripted:sums"]
ASKED = {"model": "a1", "messages": [{"role": "user", "content": "1 + 2 + 3"}]}
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@contextmanager
def served(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with subprocess.Popen(
        [*SERVE, "--port", "0", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[2], process
        finally:
            process.kill()


def failed(*words: str, **environment: str) -> tuple[int, str]:
    """What is refused before anything runs, in process."""
    done = CliRunner().invoke(build(), [*SERVE[3:], *words], env=environment)
    return done.exit_code, done.stderr


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_the_calibration_is_kept(number: int, tmp_path: Path) -> None:
    store = tmp_path / "calibration.sqlite3"
    with served("--calibration", str(store)) as (url, process):
        assert httpx2.post(f"{url}/v1/chat/completions", json=ASKED).status_code == 200
        process.send_signal(number)
        assert process.wait(60) == 0
        log = events(process)
    assert [line["event"] for line in log if line["event"] in ("request", "draining")] == ["request", "draining"]
    with CalibrationStore(store) as kept:
        assert len(kept.summary()) == 1


SLOW = ("--calibration", "none", "--draft", "scripted:sums?accuracy=0.6&jitter={jitter}")


def slow(jitter: int) -> tuple[str, ...]:
    """A draft that lets others go first, up to so many times a call."""
    return tuple(word.format(jitter=jitter) for word in SLOW)


def events(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The log, once it has ended."""
    assert process.stderr is not None
    return [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]


@POSIX
def test_a_stream_that_runs_when_the_signal_comes_is_finished() -> None:
    asked = ASKED | {"stream": True, "a1": {"chains": 1, "min_step_tokens": 0, "turns": 40}}
    asked["messages"] = [{"role": "user", "content": " + ".join(["1"] * 30)}]
    with served(*slow(20_000), "--grace", "60") as (url, process):
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=60) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if "reasoning_content" in line)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line.startswith("data: ")]
        assert process.wait(60) == 0
        log = events(process)
    assert rest[-1] == "data: [DONE]" and json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "stop"
    assert [(e["event"], e.get("running"), e.get("status")) for e in log if e["event"] in ("request", "draining")] == [
        ("draining", 1, None),
        ("request", None, 200),
    ]


@POSIX
def test_a_stream_that_does_not_end_is_cut_at_the_limit_and_told_so() -> None:
    with served(*slow(10**9), "--grace", "0") as (url, process):
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=ASKED | {"stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if line.startswith("data: "))
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line.startswith("data: ")]  # raises where the body does not end
        assert process.wait(60) == 0
        log = events(process)
    assert json.loads(rest[-1][6:])["error"]["code"] == "shutting_down"
    request = next(e for e in log if e["event"] == "request")
    assert (request["status"], request["code"]) == (200, "shutting_down")


@POSIX
def test_a_second_signal_ends_the_grace_period_in_order() -> None:
    with served(*slow(10**9), "--grace", "600") as (url, process):
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=ASKED | {"stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if line.startswith("data: "))
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            next(line for line in process.stderr if '"draining"' in line)
            process.send_signal(signal.SIGINT)
            rest = [line for line in lines if line.startswith("data: ")]
        assert process.wait(60) == 0
        log = events(process)
    assert json.loads(rest[-1][6:])["error"]["code"] == "shutting_down"
    assert "Application shutdown complete." in [line["event"] for line in log]
    assert not [line for line in log if line["level"] == "error"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a machine has one such address")
def test_it_listens_to_this_machine_alone_unless_told_otherwise() -> None:
    with served("--calibration", "none") as (url, _):
        host, port = url.removeprefix("http://").split(":")
        assert host == "127.0.0.1"
        with pytest.raises(OSError):  # no other address of it answers
            socket.create_connection(("127.0.0.2", int(port)), timeout=10)


def test_a_port_in_use_is_one_error_and_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, error = failed("--port", str(taken.getsockname()[1]))
    assert code == 2
    assert error.startswith("error: cannot listen on 127.0.0.1:") and "hint: choose another --port" in error


def test_an_address_that_others_reach_needs_a_key() -> None:
    code, error = failed("--host", "0.0.0.0", "--port", "0")
    assert code == 2 and "API key" in error and "A1_API_KEYS" in error


def test_a_weak_key_is_refused_before_anything_is_loaded() -> None:
    code, error = failed("--port", "0", A1_API_KEYS="ann=short")
    assert code == 2 and "fewer than 16" in error and "loading" not in error


@POSIX
def test_while_a_model_server_does_not_answer_it_is_alive_not_ready_and_ends_when_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = ["--target", f"vllm:http://127.0.0.1:{silent.getsockname()[1]}", "--port", str(port)]
        with subprocess.Popen([*SERVE, *words], stderr=subprocess.DEVNULL) as process:
            try:
                with silent.accept()[0]:  # it has begun to load
                    answers = [answered(f"http://127.0.0.1:{port}{path}") for path in ("/healthz", "/readyz")]
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(60) == 0
            finally:
                process.kill()
    assert answers == [(200, "ok"), (503, "loading the models")]


def answered(url: str) -> tuple[int, str]:
    answer = httpx2.get(url, timeout=60)
    return answer.status_code, answer.json()["status"]
