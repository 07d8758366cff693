"""`python -m a1agent` as a real process: streams, signals, terminals."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

A1 = [sys.executable, "-W", "error", "-m", "a1agent"]
SLOW = ["--draft", "scripted:sums?jitter=5000", "--target", "scripted:sums", "--calibration", "none", "--turns", "999"]
FAST = ["--draft", "scripted:sums", "--target", "scripted:sums", "--calibration", "none"]
ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX terminals and signals")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(*words: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*A1, *words], capture_output=True, text=True, encoding="utf-8", timeout=60, **more)


def test_a_process_answers_on_stdout_and_exits_0() -> None:
    done = run("ask", "1 + 2 + 3", *FAST)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "6"
    assert "\x1b" not in done.stdout + done.stderr


def test_help_imports_no_model_library_and_no_plotting() -> None:
    code = (
        "import sys; from a1agent.cli.app import build\n"
        "try: build()(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'llama_cpp', 'transformers', 'matplotlib', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules) - {'sqlite3'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_errors_are_lines_on_stderr() -> None:
    done = run("ask", "", *FAST)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the question is empty\nhint: ask something\n"


def test_debug_prints_the_traceback() -> None:
    done = run("--debug", "ask", "", *FAST)
    assert done.returncode == 1 and "Traceback" in done.stderr


@POSIX
def test_a_reader_that_leaves_is_no_error() -> None:
    words = [*A1, "problems", "--count", "20000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert errors == b""


def interruptible() -> None:
    """What a shell starts in the background ignores interrupts, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@POSIX
def test_an_interrupt_stops_at_once_and_prints_the_statistics_so_far() -> None:
    words = [*A1, "ask", " + ".join(["1"] * 500), "--chains", "64", *SLOW, "--events"]  # minutes, if let be
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,
    ) as process:
        try:
            assert process.stdout
            process.stdout.readline()  # the models hold the prompt
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted; so far:" in errors and "rejection rate" in errors
    assert "Traceback" not in errors


@POSIX
@pytest.mark.parametrize("colour", [True, False], ids=["colour", "NO_COLOR"])
def test_a_terminal_shows_the_chains_then_the_answer(colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    code, shown = in_terminal([*A1, "ask", "1 + 2 + 3 + 4 + 5", *FAST], columns=80)
    assert code == 0
    assert bool(re.search(r"\x1b\[[\d;]*3[1-7]m", shown)) is colour
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    assert "8 of 8 chains finished" in text and "answers 15" in text
    assert text.index("votes 15") < text.index("answer  15") < text.index("rejection rate")
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80


def in_terminal(words: list[str], columns: int) -> tuple[int, str]:
    """Exit code and all that a program writes to a terminal of its own."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux: the other side was closed
        pass
    finally:
        os.close(ours)
    return process.wait(timeout=60), shown.decode()
