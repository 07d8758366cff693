"""`python -m a1agent` as a real process: streams, signals, terminals."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.process import interruptible

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


def test_without_a_command_the_help_is_shown_as_it_is() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: a1 ") and "\n  ask " in done.stderr


@POSIX
@pytest.mark.parametrize("command", ["ask", "chat"])
def test_a_process_without_stdin_is_one_that_is_told_nothing(command: str) -> None:
    words = ["sh", "-c", 'exec "$@" <&-', "sh", *A1, command, *FAST]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    expected = (2, "error: the question is empty\nhint: ask something\n") if command == "ask" else (0, "")
    assert (done.returncode, done.stderr, done.stdout) == (*expected, "")


@POSIX
def test_what_goes_to_a_closed_stream_goes_nowhere_else() -> None:
    def streams(closing: str) -> subprocess.CompletedProcess[str]:
        words = ["sh", "-c", f'exec "$@" {closing}', "sh", *A1, "ask", "1 + 2 + 3", *FAST]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    mute, deaf = streams(">&-"), streams("2>&-")
    assert (mute.returncode, mute.stdout) == (0, "") and mute.stderr.count("answers 6") == 8
    assert deaf.returncode == 0 and deaf.stdout.endswith("\n\n6\n") and "chain" not in deaf.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_without_room_for_the_answer_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        words = [*A1, "ask", "1 + 2", "--quiet", *FAST]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: the system refused: No space left on device\nhint: --debug shows where\n"


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
def test_an_interrupt_while_the_models_load_ends_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"vllm:http://127.0.0.1:{server.getsockname()[1]}#m"  # it takes the call and never answers
        words = [*A1, "ask", "1 + 2", "--draft", address, "--target", "scripted:sums", "--calibration", "none"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible) as process:
            try:
                server.settimeout(60)
                caller, _ = server.accept()
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
            caller.close()
    assert process.returncode == 130
    assert errors == "error: interrupted before the models were loaded\n"


@POSIX
def test_an_interrupt_while_the_commands_load_is_no_traceback() -> None:
    code = (
        "import os, signal, sys\n"
        "class Interrupting:\n"  # stands in for whoever presses the keys then
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from a1agent.cli import main\n"
        "main()"
    )
    words = [sys.executable, "-c", code, "ask", "1 + 2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, preexec_fn=interruptible)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_little_is_imported_before_an_interrupt_is_minded() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import a1agent.cli; print({{'typing'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


@pytest.mark.parametrize(("encoding", "form"), [("utf-8", "--json"), ("ascii", "--json"), ("cp1252", "--events")])
def test_json_keeps_every_character_whatever_the_encoding_of_stdout(encoding: str, form: str) -> None:
    words = ["ask", "Ça va? 你好 🙂", "--raw", "--draft", "scripted:obedient", "--target", "scripted:obedient", form]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "A1_CALIBRATION": "none", "A1_ANSWER": "text"}
    done = subprocess.run([*A1, *words], capture_output=True, env=environment, timeout=60)
    last = json.loads(done.stdout.decode(encoding).splitlines()[-1])
    assert "Ça va? 你好 🙂" in last.get("result", last)["text"]


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
    text = without_escapes(shown)
    assert "8 of 8 chains finished" in text and "answers 15" in text
    assert text.index("votes 15") < text.index("answer  15") < text.index("rejection rate")
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80


@POSIX
@pytest.mark.parametrize("form", [[], ["--quiet"]], ids=["plainly", "quiet"])
def test_what_a_model_writes_never_drives_a_terminal(form: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    pair = ["--draft", "scripted:obedient", "--target", "scripted:obedient", "--calibration", "none"]
    _, shown = in_terminal([*A1, "ask", "go \x1b]0;away\x07", "--raw", "--answer", "text", *pair, *form], columns=80)
    assert "]0;away" in shown and "\x1b" not in shown and "\x07" not in shown


@POSIX
def test_an_interrupt_of_the_live_view_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    with Terminal([*A1, "ask", " + ".join(["1"] * 500), "--chains", "64", *SLOW]) as terminal:
        terminal.wait_for("steps verified, ")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    after = without_escapes(terminal.shown).rpartition("interrupted; so far:")[2]
    assert "rejection rate" in after and "speed-up ceiling" in after
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind("\x1b[?25l") >= 0  # the cursor is there again
    assert "Traceback" not in terminal.shown


@POSIX
def test_an_interrupt_in_a_chat_stops_the_answer_and_not_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with Terminal([*A1, "chat", "--chains", "64", *SLOW]) as chat:
        chat.wait_for("Ctrl-D ends")
        chat.type(" + ".join(["1"] * 400))  # minutes, if let be
        chat.wait_for("steps verified, ")
        chat.process.send_signal(signal.SIGINT)
        chat.wait_for("stopped; /stats tells what was done")
        chat.type("/stats")
        chat.wait_for("rejection rate")
        chat.type("/quit")
        assert chat.end() == 0
    assert "Traceback" not in chat.shown


def without_escapes(shown: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)


def in_terminal(words: list[str], columns: int) -> tuple[int, str]:
    """Exit code and all that a program writes to a terminal of its own."""
    with Terminal(words, columns) as terminal:
        return terminal.end(), terminal.shown


class Terminal:
    """A program in a terminal of its own. `shown`: all that it wrote there so far."""

    def __init__(self, words: list[str], columns: int = 80) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=interruptible)
        os.close(theirs)
        self.shown = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def wait_for(self, text: str) -> None:
        """Reads on until this was written after what was waited for before."""
        while text not in without_escapes(self.shown[self._seen :]):
            assert self._read(), f"{text!r} never came: {self.shown}"
        self._seen = len(self.shown)

    def end(self) -> int:
        """Reads all there is; the exit code."""
        while self._read():
            pass
        return self.process.wait(timeout=60)

    _seen = 0

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], 60)
        assert ready, f"nothing more came within a minute: {self.shown}"
        try:
            piece = os.read(self._ours, 65536)
        except OSError:  # Linux: the other side was closed
            return False
        self.shown += piece.decode(errors="replace")
        return bool(piece)
