"""llama-cpp-python's own server, in a process of its own: text in, text out, and no log-probabilities."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.llama_server import RealServer


@contextmanager
def llama_cpp_python_server(path: Path) -> Iterator[RealServer]:
    """The server of a GGUF file; skips the test where a package is missing."""
    why = "llama-cpp-python's server needs llama-cpp-python[server]"
    for package in ("uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings"):
        pytest.importorskip(package, reason=why)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": path, "model_alias": "tiny", "n_ctx": 512, "n_threads": 1, "host": "127.0.0.1", "port": port}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "llama_cpp.server", *flags, "--logits_all", "False", "--verbose", "False"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if "running on" in line:
                    break
            else:
                pytest.fail("".join(lines[-5:]))
            rest = threading.Thread(target=process.stderr.read)  # a full pipe would stop it
            rest.start()
            yield RealServer(f"http://127.0.0.1:{port}", "tiny")
        finally:
            process.terminate()
            process.wait(30)
        rest.join()
