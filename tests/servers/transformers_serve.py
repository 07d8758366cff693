"""`transformers serve`, in a process of its own, over a hub cache that holds one tiny model."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.backends import tiny
from tests.servers.process import RealServer, running

NAME = "tiny/random"
_COMMIT = "0" * 40


def hub_cache(root: Path, tokenizer: Path) -> Path:
    """A hub cache with a random model of the tiny byte-level vocabulary, whose files lie in `tokenizer`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = root / "models--tiny--random"
    snapshot = folder / "snapshots" / _COMMIT
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(_COMMIT)
    words = tiny.bpe_words()
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=len(words.tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        eos_token_id=words.eos,
        bos_token_id=words.bos,
        pad_token_id=words.bos,
    )
    transformers.LlamaForCausalLM(shape).save_pretrained(snapshot)
    for file in tokenizer.iterdir():
        shutil.copy(file, snapshot / file.name)
    config = json.loads((snapshot / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(config))
    return root


@contextmanager
def transformers_serve(cache: Path) -> Iterator[RealServer]:
    """The server; skips the test where a package is missing."""
    for package in ("uvicorn", "fastapi", "torch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"transformers serve needs {package}")
    code = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with running([*command, "--log-level", "info"], environment) as url:
        yield RealServer(url, NAME)
