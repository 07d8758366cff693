"""SGLang: the contract, with a server that tells raw log-probabilities and one that does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from a1agent.backends import sglang
from tests.backends.contract import BackendFactory, Capabilities, Contract
from tests.backends.remotes import factory
from tests.servers.flavors import Sglang


@pytest.fixture(scope="module")
def tempered(models: Path) -> Iterator[Sglang]:
    server = Sglang(models / "bpe.gguf")
    yield server
    server.close()


@pytest.fixture(scope="module")
def original(models: Path) -> Iterator[Sglang]:
    server = Sglang(models / "spm.gguf", original=True, incremental=True)
    yield server
    server.close()


class TestTempered(Contract):
    """As it is started by default: what was written is scored once more; it names its tokenizer."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, tempered: Sglang) -> BackendFactory:
        return factory(sglang.load, tempered)


class TestOriginal(Contract):
    """With raw log-probabilities, streaming only what is new, and a tokenizer that is given."""

    capabilities = Capabilities(control="</s>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, original: Sglang, models: Path) -> BackendFactory:
        return factory(sglang.load, original, tokenizer=str(models / "spm.gguf"))
