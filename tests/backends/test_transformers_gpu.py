"""transformers on a GPU: the contract in half precision, flash attention over the slots, decode steps from graphs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from a1agent.backends import transformers as hf
from a1agent.backends.base import Sampling, StepText
from a1agent.backends.hf_model import batched
from a1agent.backends.torch_cuda import can_use_varlen
from a1agent.backends.torch_packed import PackedModel, probe
from a1agent.backends.transformers import TransformersBackend
from a1agent.backends.transformers_options import TransformersOptions
from a1agent.errors import BackendError
from a1agent.types import Question
from tests.backends import tiny, tiny_hf
from tests.backends.contract import FREELY, GREEDY, STEP, BackendFactory, Capabilities, Contract, close_to, loaded
from tests.backends.test_torch_models import Compared, loud, model_of

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.gpu]
QUESTION = Question.of("the sum of 1 and 2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    return tiny_hf.write(folder, "qwen3", tiny_hf.bpe(), tiny.bpe_words())


def load(path: Path, context: int | None = None, **options: Any) -> TransformersBackend:
    chosen = {"device": "cuda", "dtype": "bfloat16", "n_ctx": context or 1024, "kv_tokens": 65536, **options}
    return hf.load(str(path), **chosen)


class TestGpu(Contract):
    """Half precision: what else is in a batch moves a score a little."""

    capabilities = Capabilities(control="<|im_end|>", shares=False, tolerance=0.1)

    @pytest.fixture
    def backend_factory(self, checkpoint: Path) -> BackendFactory:
        return lambda context: load(checkpoint, context)


class TestGpuInSinglePrecision(Contract):
    """No flash kernel there: scaled dot products with masks."""

    capabilities = Capabilities(control="<|im_end|>", shares=False)

    @pytest.fixture
    def backend_factory(self, checkpoint: Path) -> BackendFactory:
        return lambda context: load(checkpoint, context, dtype="float32")


def test_packed_forwards_in_single_precision_give_what_the_model_alone_gives() -> None:
    with torch.device("cuda"):
        texts = Compared(model_of("llama").to("cuda"), lambda model: PackedModel(model, probe(model), 8, 64))
        texts.run((1, 0, 12, False))
        texts.run((0, 0, 10, True), (1, 12, 13, True))
        texts.fork(1, 7, 10)
        texts.run((7, 10, 14, True), (0, 10, 11, True), (1, 13, 14, True))


async def test_graphs_and_plain_forwards_give_the_same_scores(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded(lambda context: load(checkpoint, context)) as backend:
        model: Any = backend.engine._runner._model
        root = await backend.open(QUESTION)
        forks = [root.fork() for _ in range(5)]
        replayed = await asyncio.gather(*(fork.generate(24, GREEDY, FREELY) for fork in forks))
        assert model._graphs._graphs
        model._graphs._usable = False
        plain = await asyncio.gather(*(root.fork().generate(24, GREEDY, FREELY) for _ in range(5)))
        for one, two in zip(replayed, plain, strict=True):
            assert one.logprobs[0] == pytest.approx(two.logprobs[0], abs=0.05)


async def test_the_gpu_scores_as_the_processor_does(checkpoint: Path) -> None:
    async with (
        loaded(lambda context: load(checkpoint, context)) as fast,
        loaded(lambda context: load(checkpoint, context, device="cpu", dtype="float32")) as exact,
    ):
        scores = [await (await backend.open(QUESTION)).score(STEP) for backend in (fast, exact)]
        assert sum(scores[0].logprobs) == pytest.approx(sum(scores[1].logprobs), abs=0.1 * len(scores[1].logprobs))


async def test_sampling_on_the_gpu_repeats_itself(checkpoint: Path) -> None:
    async with loaded(lambda context: load(checkpoint, context)) as backend:
        root = await backend.open(QUESTION)
        sampling = Sampling(seed=3, top_k=20, top_p=0.9, min_p=0.01)
        first, again = [(await root.fork().generate(12, sampling, FREELY)).step for _ in range(2)]
        assert first == again


@pytest.mark.parametrize(("dtype", "usable"), [(torch.bfloat16, True), (torch.float32, False)])
def test_the_flash_kernel_is_used_where_it_can_be(dtype: torch.dtype, usable: bool) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the flash kernel needs a newer GPU")
    model = model_of("llama").to("cuda", dtype)
    with torch.inference_mode():
        kinds = probe(model)
        assert can_use_varlen([kind.shape for kind in kinds], [kind.traits for kind in kinds]) == usable
        used = batched(model, "tiny", TransformersOptions(), 4, 64)
        assert isinstance(used, PackedModel)
        assert (used._graphs is not None) == usable


def test_rounding_of_large_logits_costs_neither_the_kernel_nor_the_graphs() -> None:
    model = loud(torch.bfloat16).to("cuda")
    with torch.inference_mode():
        used = batched(model, "tiny", TransformersOptions(), 4, 64)
    assert isinstance(used, PackedModel)
    assert (used._graphs is not None) == (torch.cuda.get_device_capability() >= (8, 0))


async def test_a_forward_without_memory_fails_its_call_and_the_next_one_works(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with loaded(lambda context: load(checkpoint, context)) as backend:
        root = await backend.open(QUESTION)
        expected = await root.fork().score(STEP)
        model: Any = backend.engine._runner._model
        more = 2 * torch.cuda.get_device_properties(0).total_memory
        with monkeypatch.context() as patch:
            patch.setattr(model, "forward", lambda _: torch.empty(more, dtype=torch.uint8, device="cuda"))
            with pytest.raises(BackendError, match="ran out of memory"):
                await root.fork().score(STEP)
        scores = await root.fork().score(STEP)
        assert close_to(scores.logprobs, expected.logprobs, 0.1)


async def test_without_a_bound_the_cache_leaves_room_for_the_largest_forward(checkpoint: Path) -> None:
    async with loaded(lambda context: load(checkpoint, context, kv_tokens=0)) as backend:
        root = await backend.open(QUESTION)
        long = StepText(text=STEP.text * 60)
        scores = await asyncio.gather(*(root.fork().score(long) for _ in range(8)))
        assert len({len(each.logprobs) for each in scores}) == 1


@pytest.mark.parametrize("options", [{"device": "cuda:1"}, {"device_map": "balanced"}])
async def test_a_second_gpu_scores_as_the_first(checkpoint: Path, options: dict[str, str]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    pytest.importorskip("accelerate")
    async with (
        loaded(lambda context: load(checkpoint, context)) as one,
        loaded(lambda context: load(checkpoint, context, **options)) as other,
    ):
        scores = [await (await backend.open(QUESTION)).score(STEP, end=True) for backend in (one, other)]
        assert close_to(scores[0].logprobs, scores[1].logprobs, 0.1)
        written = await (await other.open(QUESTION)).generate(12, Sampling(seed=3, top_p=0.9), FREELY)
        assert written.step.text
