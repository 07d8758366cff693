"""Servers and routers that `make servers` installs beside the project, each in a process of its own."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.servers.process import RealServer, free_port

__all__ = ["BLOCK", "python_of", "ready", "router", "sglang_serve", "vllm_serve"]

_SITES = Path(__file__).parent
_START_S = 180
BLOCK = 32
"""Tokens that the prefix cache keeps together; vLLM takes 16 on GPUs, and more on processors."""
_COMPACT = '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""Else a random model may write blanks between the parts of an object until its tokens are used up."""
_PENALTIES = '"repetition_penalty": 1.3, "presence_penalty": 1.5, "frequency_penalty": 0.5'
_OWN_SETTINGS = f'{{{_PENALTIES}, "temperature": 0.3, "top_k": 5, "top_p": 0.5, "min_p": 0.1}}'
"""What requests get that leave these out: A1's must not."""


def python_of(server: str) -> str:
    """The Python of an environment that `make servers` makes; skips the test where there is none."""
    folder = os.environ.get("A1_TEST_SERVERS")
    if not folder:
        pytest.skip("servers of other makers are not installed beside the project: make servers")
    return str(Path(folder, server, "bin", "python"))


@contextmanager
def ready(command: list[str], path: str, log: Path, **environment: str) -> Iterator[str]:
    """The URL of a server that takes `--host` and `--port`, from the moment that it answers a path with status 200.

    What it leaves behind (vLLM its sockets) goes with its folder for such files; the names of sockets must be short.
    """
    left = tempfile.TemporaryDirectory(prefix="a1-", ignore_cleanup_errors=True)
    with left as folder, _started(command, path, log, {**os.environ, **environment, "TMPDIR": folder}) as url:
        yield url


@contextmanager
def _started(command: list[str], path: str, log: Path, environment: dict[str, str]) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        end = time.monotonic() + _START_S
        while not _answers(url + path):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"it did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
            time.sleep(0.3)
        yield url
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
    command = [python_of("vllm"), "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    command += ["--served-model-name", "tiny", "--max-model-len", str(context), "--dtype", "float32"]
    command += ["--enforce-eager", "--enable-prompt-tokens-details", *(["--enable-scale-out"] if steps else [])]
    command += ["--structured-outputs-config", _COMPACT, "--block-size", str(BLOCK)]
    command += ["--override-generation-config", _OWN_SETTINGS]
    runner = {"VLLM_USE_V2_MODEL_RUNNER": str(int(steps)), "TRITON_INTERPRET": str(int(steps))}
    places = {"PYTHONPATH": str(_SITES / "vllm_site"), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    size = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with ready(command, "/health", log, **runner, **places, **size) as url:
        yield RealServer(url, "tiny")


@contextmanager
def sglang_serve(model: Path, log: Path, *, original: bool, context: int = 1024) -> Iterator[RealServer]:
    """The server of a checkpoint. `original`: it tells log-probabilities before temperature, and all of a stream so far
    with each event; else as the docstring of the backend has it.
    """
    command = [python_of("sglang"), "-m", "sglang.launch_server", "--model-path", str(model)]
    command += ["--served-model-name", "tiny", "--context-length", str(context), "--dtype", "float32"]
    command += ["--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
    command += ["--disable-cuda-graph", "--disable-overlap-schedule", "--max-total-tokens", "40000", "--enable-metrics"]
    command += ["--constrained-json-disable-any-whitespace", *([] if original else ["--incremental-streaming-output"])]
    command += ["--preferred-sampling-params", _OWN_SETTINGS]
    places = {"PYTHONPATH": str(_SITES / "sglang_site"), "HF_HUB_OFFLINE": "1"}
    build = {"SGLANG_USE_CPU_ENGINE": "1", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    told = {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1"} if original else {}
    with ready(command, "/health", log, **places, **build, **told) as url:
        yield RealServer(url, "tiny")


@contextmanager
def router(module: str, urls: list[str], policy: str, log: Path) -> Iterator[str]:
    """The URL of a router over some servers, `sglang_router` or `vllm_router`."""
    command = [python_of("vllm"), "-m", f"{module}.launch_router", "--prometheus-port", str(free_port())]
    command += ["--policy", policy, "--worker-urls", *urls]
    with ready(command, "/readiness", log) as url:
        yield url
