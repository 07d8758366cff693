"""Algebra in a worker process that can be killed: it may hang and fill memory.

The worker is `algebra.py` run as a program: one JSON request a line on stdin, one JSON reply a line on stdout. It sees
no environment variable that could hold a key, and ends when stdin closes, when a deadline passes (enforced on both
sides), or when it outgrows its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["PROGRAM", "MathWorker", "refusal"]

PROGRAM = str(Path(__file__).with_name("algebra.py"))

MAX_CHARS = 1000
"""Longest answer that is judged."""
MAX_EXPONENT = 1000
MAX_FACTORIAL = 1000
_MEMORY_BYTES = 1 << 30
_START_S = 60.0
"""Importing sympy takes a second on an idle machine, and much longer on a loaded one."""
_GRACE_S = 1.0
_LIBRARY_VARIABLES = "PYTHONHOME PYTHONPATH PYTHONUSERBASE VIRTUAL_ENV LD_LIBRARY_PATH DYLD_LIBRARY_PATH"
_SYSTEM_VARIABLES = "PATH SYSTEMROOT SYSTEMDRIVE WINDIR TEMP TMP TMPDIR LANG LC_ALL LC_CTYPE HOME USERPROFILE APPDATA"
_KEPT_VARIABLES = frozenset(f"{_LIBRARY_VARIABLES} {_SYSTEM_VARIABLES}".split())


class MathWorker:
    """Judges by algebra whether two answers are equal, one pair at a time, in a process that starts when needed.

    Bound to no event loop: calls may come from several loops, in turn or at once. `deadline_s` is for one pair, in
    seconds from when its turn comes; a pair that takes longer, or more than `memory_bytes` (where the system can limit
    it), costs the process, and the next pair starts a new one.
    """

    def __init__(self, *, deadline_s: float = 3.0, memory_bytes: int = _MEMORY_BYTES) -> None:
        self._deadline_s = deadline_s
        self._memory_bytes = memory_bytes
        self._line: _Line | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The worker process, None while there is none."""
        line = self._line
        return line.process.pid if line is not None and line.process is not None else None

    async def equal(self, a: str, b: str) -> bool | None:
        """Whether two answers (LaTeX or plain) are equal in either direction.

        False, too, of answers that cannot be read, or must not be (`refusal`): that costs nothing, and says nothing of
        the other one. None: not judged, because math-verify is not installed, or the deadline passed, or sympy failed.
        """
        if refusal(a) is not None or refusal(b) is not None:
            return False
        with self._lock:
            if self._line is None:
                self._line = _Line(self._deadline_s, self._memory_bytes)
            line = self._line
        if not line.usable:
            return None
        try:
            future = line.thread.submit(line.ask, json.dumps([a, b]))
        except RuntimeError:  # closed since
            return None
        return await asyncio.wrap_future(future)

    async def aclose(self) -> None:
        """Ends the process, in the middle of a pair if need be; it and those in line are not judged.

        A later pair starts anew.
        """
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            await line.aclose()


class _Line:
    """The process and the one thread that waits for it, which makes pairs queue and works under any event loop."""

    def __init__(self, deadline_s: float, memory_bytes: int) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="a1-math")
        self.process: _Process | None = None
        self.usable = True
        self._deadline_s = deadline_s
        self._arguments = (str(deadline_s + _GRACE_S), str(memory_bytes))
        self._closing = False

    def ask(self, request: str) -> bool | None:
        process = None if self._closing else self.process or self._start()
        if process is None:
            return None
        reply = process.ask(request, self._deadline_s)
        if reply is None:
            self._drop()
            return None
        return reply.get("equal")

    async def aclose(self) -> None:
        self._closing = True
        self.thread.shutdown(wait=False)
        if self.process is not None:
            self.process.kill()
        waiter = ThreadPoolExecutor(1)
        try:
            await asyncio.wrap_future(waiter.submit(self._finish))
        finally:
            waiter.shutdown(wait=False)

    def _finish(self) -> None:
        self.thread.shutdown(wait=True)
        self._drop()

    def _start(self) -> _Process | None:
        # A frozen program would start itself.
        if not self.usable or not sys.executable or getattr(sys, "frozen", False) or not _is_installed():
            self.usable = False
            return None
        try:
            self.process = process = _Process(self._arguments)
        except OSError:
            self.usable = False
            return None
        if self._closing:  # set before the process could be seen there
            process.kill()
        greeting = process.ask(None, _START_S)
        if greeting is None or not greeting.get("ready"):
            # A worker that cannot start, tried anew for each pair, would cost every vote its start-up time.
            self.usable = False
            self._drop()
            return None
        return process

    def _drop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.close()


def _is_installed() -> bool:
    return importlib.util.find_spec("latex2sympy2_extended") is not None


class _Process:
    """The worker seen from outside: blocking, used by one thread; only `kill` may be called from others."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        environment = {name: value for name, value in os.environ.items() if name.upper() in _KEPT_VARIABLES}
        # By path and with -P: neither a1agent nor the current folder has to be importable there.
        self._popen = subprocess.Popen(
            [sys.executable, "-P", PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.pid = self._popen.pid
        self.kill = self._popen.kill
        self.close = weakref.finalize(self, _reap, self._popen)

    def ask(self, request: str | None, deadline_s: float) -> dict[str, bool | None] | None:
        """Sends a line, if any, and reads one. None: the process died, the deadline killed it, or it spoke no JSON."""
        assert self._popen.stdin is not None and self._popen.stdout is not None
        timer = threading.Timer(deadline_s, self.kill)
        timer.daemon = True
        timer.start()
        try:
            if request is not None:
                self._popen.stdin.write(request.encode() + b"\n")
                self._popen.stdin.flush()
            return json.loads(self._popen.stdout.readline())
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()


def _reap(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # flushing to a process that is gone
                pipe.close()
    popen.wait()


# --- what is never judged ---

_NUMERIC = re.compile(r"(?:\\(?:frac|cdot|times|left|right)(?![A-Za-z])|[^A-Za-z\\])*")
_SMALL = re.compile(r"[+-]?(?:\d{1,4}(?:\.\d+)?|\.\d+|\d{1,4}/\d{1,4}|\\frac\{\d{1,4}\}\{\d{1,4}\})")
_LONG_DIGITS = re.compile(r"\d{5,}")
_FACTORIAL = re.compile(r"(\d+)!|[)\]}]!")
_EXPONENT_NOTATION = re.compile(r"\d[eE][+-]?\d{4,}")
_CLOSING = {"{": "}", "(": ")"}


def refusal(text: str) -> str | None:
    """Why an answer must not reach sympy, which evaluates numeric powers exactly: 9^{9^9} has 370 million digits.

    None when it may. Refused are numeric exponents other than plain numbers and fractions up to `MAX_EXPONENT`
    (towers, products), large factorials, exponents of 4 digits in scientific notation, and texts over `MAX_CHARS`.
    """
    if len(text) > MAX_CHARS:
        return "too long"
    compact = re.sub(r"\s|\\left(?![A-Za-z])|\\right(?![A-Za-z])", "", text).replace("**", "^")
    if any(_is_giant(_exponent_at(compact, at.end())) for at in re.finditer(r"\^", compact)):
        return "giant exponent"
    if _EXPONENT_NOTATION.search(compact):
        return "giant exponent"
    for factorial in _FACTORIAL.finditer(compact):
        digits = factorial[1]
        if len(digits) > 4 or int(digits) > MAX_FACTORIAL if digits else "^" in compact or _LONG_DIGITS.search(compact):
            return "giant factorial"
    return None


def _exponent_at(compact: str, start: int) -> str:
    """The exponent that begins here: a group, or up to the next operator that binds less."""
    opener = compact[start : start + 1]
    if opener not in _CLOSING:
        token = re.compile(r"[+-]?(?:\\[A-Za-z]+|[0-9.]+|[A-Za-z])?(?:\{[^{}]*\}){0,2}(?:\^.*)?").match(compact, start)
        return token[0] if token else ""
    level = 0
    for at in range(start, len(compact)):
        level += (compact[at] == opener) - (compact[at] == _CLOSING[opener])
        if level == 0:
            tail = compact[at + 1 : at + 2]
            return compact[start + 1 : at] + (compact[at + 1 :] if tail == "^" else "")
    return compact[start + 1 :]


def _is_giant(exponent: str) -> bool:
    if _SMALL.fullmatch(exponent):
        return max(int(digits) for digits in re.findall(r"\d+", "0" + exponent.split(".")[0])) > MAX_EXPONENT
    if _NUMERIC.fullmatch(exponent):
        return any(character.isdigit() for character in exponent)
    return _LONG_DIGITS.search(exponent) is not None
