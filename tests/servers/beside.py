"""Servers and routers that `make servers` installs beside the project, each in a process of its own."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.servers.llama_server import RealServer
from tests.servers.process import free_port

__all__ = ["BLOCK", "python_of_servers", "ready", "vllm_serve"]

_SITE = Path(__file__).with_name("vllm_site")
_START_S = 180
BLOCK = 32
"""Tokens that the prefix cache keeps together; vLLM takes 16 on GPUs, and more on processors."""
_COMPACT = '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""Else a random model may write blanks between the parts of an object until its tokens are used up."""


def python_of_servers() -> str:
    """The Python of the environment that `make servers` makes; skips the test where there is none."""
    python = os.environ.get("A1_TEST_SERVERS")
    if not python:
        pytest.skip("servers of other makers are not installed beside the project: make servers")
    return python


@contextmanager
def ready(command: list[str], url: str, path: str, log: Path, **environment: str) -> Iterator[None]:
    """A process, from the moment that it answers a path with status 200."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        end = time.monotonic() + _START_S
        while not _answers(url + path):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"it did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.3)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


@contextmanager
def vllm_serve(model: Path, log: Path, *, steps: bool, context: int = 1024) -> Iterator[RealServer]:
    """The server of a checkpoint. `steps`: with the newer model runner and its scoring endpoint. It is written in
    Triton, which is interpreted here: right, and slow.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        python_of_servers(),
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        str(model),
        "--served-model-name",
        "tiny",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(context), "--dtype", "float32"]
    command += ["--enforce-eager", "--enable-prompt-tokens-details", *(["--enable-scale-out"] if steps else [])]
    command += ["--structured-outputs-config", _COMPACT, "--block-size", str(BLOCK)]
    runner = {"VLLM_USE_V2_MODEL_RUNNER": str(int(steps)), "TRITON_INTERPRET": str(int(steps))}
    places = {"PYTHONPATH": str(_SITE), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    size = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with ready(command, url, "/health", log, **runner, **places, **size):
        yield RealServer(url, "tiny")


@contextmanager
def router(module: str, urls: list[str], policy: str, log: Path) -> Iterator[str]:
    """The URL of a router over some servers, `sglang_router` or `vllm_router`."""
    port, metrics = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [python_of_servers(), "-m", f"{module}.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-port", str(metrics), "--policy", policy, "--worker-urls", *urls]
    with ready(command, url, "/readiness", log):
        yield url
