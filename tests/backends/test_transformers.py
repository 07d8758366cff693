"""transformers: the contract on tiny models of several architectures, with slots and with a cache a lane."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from a1agent import embedded
from a1agent.backends import transformers as hf
from a1agent.backends.transformers import TransformersBackend
from tests.backends import tiny, tiny_hf
from tests.backends.contract import BackendFactory, Capabilities, Contract

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    bpe, spm = (tiny_hf.bpe(), tiny.bpe_words()), (tiny_hf.sentencepiece(), tiny.spm_words())
    tiny_hf.write(folder / "llama", "llama", *bpe)
    tiny_hf.write(folder / "qwen3", "qwen3", *bpe)
    tiny_hf.write(folder / "mistral", "mistral", *spm, sliding_window=20)
    layers = ["sliding_attention", "full_attention"]
    tiny_hf.write(folder / "gemma3", "gemma3_text", *spm, sliding_window=16, layer_types=layers)
    return folder


def factory(path: Path, **options: object) -> BackendFactory:
    def load(context: int | None) -> TransformersBackend:
        chosen: dict[str, object] = {"n_threads": 1, **options}
        if context is not None:
            chosen["n_ctx"] = context
        return hf.load(str(path), **chosen)

    return load


class TestByteLevelVocabulary(Contract):
    """BPE, no BOS, grouped heads."""

    capabilities = Capabilities(control="<|im_end|>", shares=False)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "llama")


class TestSlidingWindow(Contract):
    """Layers of two kinds, a vocabulary that adds spaces, BOS; tiny forwards, so that every call spans several."""

    capabilities = Capabilities(control="</s>", shares=False)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "gemma3", n_batch=16)


class TestFewCells(Contract):
    """A cache that cannot hold what the suite asks for: sequences wait, lose their cells, and decode them again."""

    capabilities = Capabilities(control="</s>", counts=False, shares=False)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "mistral", n_ctx=256, kv_tokens=256, max_sequences=5, n_batch=24)


class TestLanes(Contract):
    """One of the library's caches for each chain."""

    capabilities = Capabilities(control="<|im_end|>", shares=False)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "qwen3", cache="lanes")


class TestEmbeddedDraft(Contract):
    """A model that was trained, from its GGUF file."""

    capabilities = Capabilities(control="<|im_end|>", question="What is 1 + 2?", shares=False)

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        return factory(embedded.path("draft"))
