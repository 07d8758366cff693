"""llama-cpp-python's own server, in a process of its own: text in, text out, and no log-probabilities."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.process import RealServer, running


@contextmanager
def llama_cpp_python_server(path: Path) -> Iterator[RealServer]:
    """The server of a GGUF file; skips the test where a package is missing."""
    why = "llama-cpp-python's server needs llama-cpp-python[server]"
    for package in ("uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings"):
        pytest.importorskip(package, reason=why)
    options = {"model": path, "model_alias": "tiny", "n_ctx": 512, "n_threads": 1, "host": "127.0.0.1", "port": 0}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "llama_cpp.server", *flags, "--logits_all", "False", "--verbose", "False"]
    with running(command) as url:
        yield RealServer(url, "tiny")
