"""vLLM: the contract over both ways of scoring, through the server's tokenizer and a local one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from a1agent.backends import vllm
from tests.backends.contract import BackendFactory, Capabilities, Contract, loaded
from tests.backends.remotes import factory
from tests.servers.flavors import Vllm


@pytest.fixture(scope="module")
def old(models: Path) -> Iterator[Vllm]:
    server = Vllm(models / "bpe.gguf")
    yield server
    server.close()


@pytest.fixture(scope="module")
def new(models: Path) -> Iterator[Vllm]:
    server = Vllm(models / "spm.gguf", step_scoring=True, old_ids=True, version="0.9.2")
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


@pytest.fixture(params=[("0.11.1", True), ("v0.12.0rc1", False), ("1.0", False), ("dev", False)])
def of_a_version(request: pytest.FixtureRequest, models: Path) -> Iterator[tuple[Vllm, bool]]:
    version, by_name = request.param
    server = Vllm(models / "bpe.gguf", version=version)
    yield server, by_name
    server.close()


@pytest.mark.anyio
async def test_versions_that_no_longer_know_a_field_are_not_sent_it(of_a_version: tuple[Vllm, bool]) -> None:
    server, by_name = of_a_version
    async with loaded(factory(vllm.load, server)) as backend:
        assert backend.engine.wire.guides_by_name is by_name  # type: ignore[attr-defined]
