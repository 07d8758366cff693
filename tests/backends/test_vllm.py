"""vLLM: the contract over both ways of scoring, through the server's tokenizer and a local one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from a1agent.backends import vllm
from tests.backends.contract import BackendFactory, Capabilities, Contract
from tests.backends.remotes import factory
from tests.servers.flavors import Vllm


@pytest.fixture(scope="module")
def old(models: Path) -> Iterator[Vllm]:
    server = Vllm(models / "bpe.gguf")
    yield server
    server.close()


@pytest.fixture(scope="module")
def new(models: Path) -> Iterator[Vllm]:
    server = Vllm(models / "spm.gguf", step_scoring=True, old_ids=True)
    yield server
    server.close()


class TestOldScoring(Contract):
    """`prompt_logprobs`, and everything asked of the server."""

    capabilities = Capabilities(control="<|im_end|>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, old: Vllm) -> BackendFactory:
        return factory(vllm.load, old)


class TestStepScoring(Contract):
    """The newer endpoint, and a local tokenizer of the SentencePiece kind."""

    capabilities = Capabilities(control="</s>", counts=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, new: Vllm, models: Path) -> BackendFactory:
        return factory(vllm.load, new, tokenizer=str(models / "spm.gguf"))
