"""llama.cpp's own server, in this process, through the `xllamacpp` package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.process import RealServer


@contextmanager
def llama_server(path: Path, *, context: int = 1024, slots: int = 4) -> Iterator[RealServer]:
    """The server of a GGUF file; skips the test where the package is missing."""
    library: Any = pytest.importorskip("xllamacpp", reason="llama.cpp's own server needs xllamacpp")
    params = library.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"tiny"}
    params.n_ctx, params.n_parallel, params.port = context * slots, slots, 0
    params.n_gpu_layers = 0
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.verbosity = 0
    server = library.Server(params)
    yield RealServer(server.listening_address, "tiny")
    del server
