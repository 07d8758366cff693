"""Servers of other makers, most of them in processes of their own."""

import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

__all__ = ["RealServer", "free_port", "interruptible", "running"]


@dataclass(frozen=True, slots=True)
class RealServer:
    """Where it listens, and the name of its model."""

    url: str
    name: str


def free_port() -> int:
    """A port that nobody listens on. Others may take it first: for servers that do not say which one they took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def interruptible() -> None:
    """What a shell starts in the background ignores interrupts, and so would its children: for `preexec_fn`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server, from the moment that it says where it runs; told port 0 it takes one that is free.

    Fails the test with its last words where it never says so.
    """
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if address := re.search(r"running on (http://\S+)", line):
                    break
            else:
                pytest.fail("".join(lines[-5:]))
            rest = threading.Thread(target=process.stderr.read)  # a full pipe would stop it
            rest.start()
            yield address[1]
        finally:
            process.terminate()
            process.wait(30)
        rest.join()
