"""Tiny models, written once a session."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends import tiny
from tests.backends.remotes import Serve, Served
from tests.servers.flavors import Flavor


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bpe.gguf`, `spm.gguf`, `other.gguf` (bpe, other weights), `quantized.gguf` (bpe, 8 bits a weight),
    `plain.gguf` (no chat template), `window.gguf` (sliding-window attention) and `recurrent.gguf` (cannot rewind).
    """
    pytest.importorskip("llama_cpp")
    folder = tmp_path_factory.mktemp("models")
    tiny.write_random(folder / "bpe.gguf", tiny.bpe_words())
    tiny.write_random(folder / "other.gguf", tiny.bpe_words(), seed=1)
    tiny.write_random(folder / "quantized.gguf", tiny.bpe_words(), quantized=True)
    tiny.write_random(folder / "plain.gguf", tiny.bpe_words(None))
    tiny.write_random(folder / "spm.gguf", tiny.spm_words())
    tiny.write_random(folder / "window.gguf", tiny.spm_words(), window=32)
    tiny.write_recurrent(folder / "recurrent.gguf", tiny.bpe_words())
    return folder


@pytest.fixture
def serve(models: Path) -> Iterator[Serve]:
    """Starts servers of a kind over `bpe.gguf`."""
    started: list[Flavor] = []

    async def start(kind: type[Served], **options: Any) -> Served:
        server = await asyncio.to_thread(kind, models / "bpe.gguf", **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()
