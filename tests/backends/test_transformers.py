"""transformers: the contract on tiny models of several architectures, with slots and with a cache a lane."""

import asyncio
import gc
import json
import shutil
import struct
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load, save_file
from transformers import CONFIG_MAPPING

from a1agent import A1, embedded
from a1agent.backends import hf_model, llama_cpp
from a1agent.backends import transformers as hf
from a1agent.backends.base import Sampling
from a1agent.backends.hf_files import read_files
from a1agent.backends.registry import parse_address
from a1agent.backends.transformers import TransformersBackend
from a1agent.errors import A1Error, InvalidOption, MissingExtra, ModelLoadError, ModelNotFound, NotEnoughMemory
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.backends import tiny, tiny_hf
from tests.backends.contract import FREELY, GREEDY, STEP, BackendFactory, Capabilities, Contract, loaded, settle

pytestmark = pytest.mark.anyio
QUESTION = Question.of("the sum of 1 and 2")
of_old_names = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft and transformers do not agree on some


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    bpe, spm = (tiny_hf.bpe(), tiny.bpe_words()), (tiny_hf.sentencepiece(), tiny.spm_words())
    tiny_hf.write(folder / "llama", "llama", *bpe)
    tiny_hf.write(folder / "qwen3", "qwen3", *bpe)
    tiny_hf.write(folder / "mistral", "mistral", *spm, sliding_window=20)
    layers = ["sliding_attention", "full_attention"]
    tiny_hf.write(folder / "gemma3", "gemma3_text", *spm, sliding_window=16, layer_types=layers)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [1.5, 9.0] * 4}
    tiny_hf.write(folder / "phi3", "phi3", *bpe, rope_parameters=rope, original_max_position_embeddings=96)
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

    capabilities = Capabilities(control="<|im_end|>", shares=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "llama")


class TestSlidingWindow(Contract):
    """Layers of two kinds, a vocabulary that adds spaces, BOS; tiny forwards, so that every call spans several."""

    capabilities = Capabilities(control="</s>", shares=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "gemma3", n_batch=16)


class TestFewCells(Contract):
    """A cache that cannot hold what the suite asks for: sequences wait, lose their cells, and decode them again."""

    capabilities = Capabilities(control="</s>", counts=False, shares=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "mistral", n_ctx=256, kv_tokens=256, max_sequences=5, n_batch=24)


class TestLanes(Contract):
    """One of the library's caches for each chain."""

    capabilities = Capabilities(control="<|im_end|>", shares=False, constrain=True)

    @pytest.fixture
    def backend_factory(self, checkpoints: Path) -> BackendFactory:
        return factory(checkpoints / "qwen3", cache="lanes")


class TestEmbeddedDraft(Contract):
    """A model that was trained, from its GGUF file."""

    capabilities = Capabilities(control="<|im_end|>", question="What is 1 + 2?", shares=False, constrain=True)

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        return factory(embedded.path("draft"))


# Scores and counts


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def as_f32(source: Path, target: Path) -> Path:
    """The same GGUF file with every weight in single precision."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, inner = field.types[0], field.types[-1]
            writer.add_key_value(
                field.name, field.contents(), kind, inner if kind == gguf.GGUFValueType.ARRAY else None
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("name", ["draft", "target"])
async def test_the_embedded_pair_scores_as_it_does_in_llama_cpp(name: str, tmp_path: Path) -> None:
    path = as_f32(embedded.path(name), tmp_path / f"{name}.gguf")
    exact = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    question = Question.of("What is 47 * 28 + 783?")
    async with loaded(lambda _: llama_cpp.load(str(path), **exact)) as theirs, loaded(factory(path)) as ours:
        assert ours.info.tokenizer_fingerprint == theirs.info.tokenizer_fingerprint
        root = await theirs.open(question)
        calls = (root.fork().generate(60, Sampling(seed=i, temperature=1.0), FREELY) for i in range(6))
        steps = [generated.step for generated in await asyncio.gather(*calls)]
        here = await ours.open(question)
        assert here.length == root.length
        for step in steps:
            one, two = await root.fork().score(step, end=True), await here.fork().score(step, end=True)
            assert one.ids == two.ids
            assert abs(mean(one.logprobs) - mean(two.logprobs)) < 1e-3
            assert one.end == pytest.approx(two.end, abs=0.01)


async def test_chains_share_forwards_and_decode_nothing_twice(checkpoints: Path) -> None:
    async with loaded(factory(checkpoints / "llama")) as backend:
        root = await backend.open(QUESTION)
        before = backend.counters
        assert (before.decoded_tokens, before.forwards) == (root.length - 1, 1)
        forks = [root.fork() for _ in range(16)]
        generated = await asyncio.gather(*(fork.generate(12, GREEDY, FREELY) for fork in forks))
        written = backend.counters
        assert written.forwards - before.forwards == 12
        assert written.decoded_tokens - before.decoded_tokens == 16 * 12
        ends = [fork.mark() for fork in forks]
        await asyncio.gather(*(fork.score(g.step) for fork, g in zip(forks, generated, strict=True)))
        scored = backend.counters
        assert scored.forwards - written.forwards == 1
        for fork, end in zip(forks, ends, strict=True):
            fork.rewind(end)
        await asyncio.gather(*(fork.generate(1, GREEDY, FREELY) for fork in forks))
        assert backend.counters.decoded_tokens - scored.decoded_tokens == 16
        assert backend.counters.forwards - scored.forwards == 1


async def test_cells_in_use_are_what_the_chains_hold(checkpoints: Path) -> None:
    async with loaded(factory(checkpoints / "llama")) as backend:
        root = await backend.open(QUESTION)
        forks = [root.fork() for _ in range(3)]
        await asyncio.gather(*(fork.generate(10 + i, GREEDY, FREELY) for i, fork in enumerate(forks)))
        await settle(backend)
        assert backend.counters.cells_used == sum(each.length - 1 for each in (root, *forks))


async def test_more_chains_than_cells_or_lanes_wait_and_are_right(checkpoints: Path) -> None:
    path = checkpoints / "mistral"
    async with loaded(factory(path)) as roomy:
        root = await roomy.open(QUESTION)
        expected = [(await root.fork().generate(40, Sampling(seed=i), FREELY)).step.ids for i in range(9)]
    async with loaded(factory(path, n_ctx=128, kv_tokens=300, max_sequences=6)) as tight:
        root = await tight.open(QUESTION)
        calls = (root.fork().generate(40, Sampling(seed=i), FREELY) for i in range(9))
        generated = await asyncio.gather(*calls)
        assert [g.step.ids for g in generated] == expected
        assert tight.counters.cells_used <= 300


async def test_as_many_chains_as_lanes_run_together_though_their_prompt_is_open_too(checkpoints: Path) -> None:
    async with loaded(factory(checkpoints / "llama", max_sequences=4)) as backend:
        root = await backend.open(QUESTION)
        before = backend.counters
        written = await asyncio.gather(*(root.fork().generate(12, GREEDY, FREELY) for _ in range(4)))
        assert backend.counters.forwards - before.forwards <= 13
        assert len({each.step for each in written}) == 1
        assert [each.work.reread_tokens for each in written] == [0] * 4
        late = await root.fork().score(STEP)
        assert late.work.reread_tokens == 0


async def test_half_precision_scores_nearly_alike(checkpoints: Path) -> None:
    async with (
        loaded(factory(checkpoints / "qwen3")) as whole,
        loaded(factory(checkpoints / "qwen3", dtype="bfloat16")) as half,
    ):
        scores = [await (await backend.open(QUESTION)).score(STEP) for backend in (whole, half)]
        assert mean(scores[0].logprobs) == pytest.approx(mean(scores[1].logprobs), abs=0.1)


SEEING = {
    "text_config": {
        **tiny_hf.EXTENTS,
        "vocab_size": len(tiny.bpe_words().tokens),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    },
    "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
    | {"deepstack_visual_indexes": [0]},
}


@pytest.mark.parametrize(("kind", "shape"), [("qwen3_vl", SEEING), ("falcon", {"alibi": True})])
async def test_a_model_scores_as_the_library_runs_it_by_default(
    checkpoints: Path, tmp_path: Path, kind: str, shape: dict[str, Any]
) -> None:
    """A vision-language model, given text; one whose attention is another when it is spelled out."""
    folder = copy_of(checkpoints / "llama", tmp_path / kind)
    extents = {"vocab_size": len(tiny.bpe_words().tokens), "hidden_size": 64, "num_attention_heads": 4}
    config = transformers.AutoConfig.for_model(kind, **{**extents, "num_hidden_layers": 2, **shape})
    torch.manual_seed(1)
    library = transformers.AutoModelForImageTextToText if kind == "qwen3_vl" else transformers.AutoModelForCausalLM
    library.from_config(config).save_pretrained(folder)
    model = library.from_pretrained(folder, dtype=torch.float32).eval()
    async with loaded(factory(folder)) as backend:
        prompt = backend.encode(QUESTION).ids
        scores = await (await backend.open(QUESTION)).score(STEP)
        with torch.inference_mode():
            alone = model(torch.tensor([[*prompt, *scores.ids]]), use_cache=False).logits[0].log_softmax(-1)
    expected = alone[len(prompt) - 1 : -1].gather(1, torch.tensor(scores.ids)[:, None])[:, 0]
    assert scores.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


# The pair


@pytest.mark.parametrize(
    ("draft", "target"), [("hf", "hf"), ("hf", "llama-cpp"), ("llama-cpp", "hf")], ids=lambda scheme: scheme
)
async def test_the_pair_answers_in_any_mix_of_backends(draft: str, target: str) -> None:
    addresses = [f"{s}:{embedded.path(n)}?n_threads=1" for s, n in ((draft, "draft"), (target, "target"))]
    options: dict[str, Any] = {"calibration": None, "seed": 4, "chains": 4, "min_step_tokens": 0}
    async with A1(*addresses, rejection_rate=0.3, **options) as a1:
        result = await a1.asolve(ask_for_box(Question.of("What is 47 * 28 + 783?")))
    assert result.answer == "2099"
    assert result.stats.verifications > 0
    assert result.usage.target.scored_tokens > 0


# Loading


def copy_of(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def test_wrong_options_name_the_nearest_or_say_what_is_possible(checkpoints: Path) -> None:
    path = str(checkpoints / "llama")
    with pytest.raises(InvalidOption, match="'n_ctx'"):
        hf.load(path, n_ctxt=5)
    for wrong in ({"n_ctx": -1}, {"n_batch": "many"}, {"dtype": "int3"}, {"cache": "heap"}, {"trust_remote_code": 1}):
        with pytest.raises(InvalidOption):
            hf.load(path, **wrong)


def test_addresses_carry_options(checkpoints: Path) -> None:
    address = parse_address(f"hf:{checkpoints / 'llama'}?n_ctx=128&trust_remote_code=false&dtype=float32")
    assert dict(address.options) == {"n_ctx": 128, "trust_remote_code": False, "dtype": "float32"}
    with pytest.raises(InvalidOption):
        parse_address("hf:x?revison=main")


def test_a_device_that_is_not_there_is_named(checkpoints: Path) -> None:
    for device in ("cuda:97", "toaster", "meta"):
        with pytest.raises(ModelLoadError, match=device):
            hf.load(str(checkpoints / "llama"), device=device)


def test_folders_without_a_model_are_not_found(tmp_path: Path, checkpoints: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        hf.load(str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        hf.load(str(tmp_path))
    folder = copy_of(checkpoints / "llama", tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
        hf.load(str(folder))


@pytest.mark.parametrize("keep", [0, 3, 100, -10])
def test_weights_that_are_cut_short_do_not_load(checkpoints: Path, tmp_path: Path, keep: int) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        hf.load(str(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_damaged_files_are_named(checkpoints: Path, tmp_path: Path, file: str) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "damaged")
    (folder / file).write_text('{"model_type": ', encoding="utf-8")
    with pytest.raises(ModelLoadError, match=file.partition(".")[0]):
        hf.load(str(folder))


def test_a_missing_part_is_named(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "parts")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = {
        "lm_head.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelNotFound, match="model-00002-of-00002"):
        hf.load(str(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["lm_head.weight"]}))
    with pytest.raises(ModelLoadError, match=r"index\.json"):
        hf.load(str(folder))


def test_a_missing_weight_is_an_error_and_not_drawn_at_random(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "lacking")
    weights = load((folder / "model.safetensors").read_bytes())
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match="up_proj"):
        hf.load(str(folder))


def test_a_weight_of_another_shape_is_named(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "bent")
    weights = load((folder / "model.safetensors").read_bytes())
    weights["model.norm.weight"] = torch.ones(65)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"another shape, among them model\.norm\.weight"):
        hf.load(str(folder))


def test_weights_that_give_no_numbers_are_not_blamed_on_the_cache(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "overflowing")
    weights = load((folder / "model.safetensors").read_bytes())
    weights["model.layers.1.mlp.down_proj.weight"] *= 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"(?s)float16 are no numbers.*dtype=bfloat16"):
        hf.load(str(folder), dtype="float16")


def test_ends_that_the_model_does_not_know_are_left_out(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "ends")
    eos = tiny.bpe_words().eos
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [eos, 7, 99999, -1, "<end>", [3], None]})
    )
    backend = hf.load(str(folder), n_threads=1)
    assert {eos, 7} <= backend.vocabulary.end_ids <= set(range(len(tiny.bpe_words().tokens)))
    asyncio.run(backend.aclose())


def test_pickled_weights_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="pickle"):
        hf.load(str(folder))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "warp"}, "does not know"),
        ({"model_type": "warp", "auto_map": {"AutoConfig": "warp.Config"}}, "trust_remote_code=true"),
        ({"model_type": "mamba"}, "recurrent or hybrid"),
        ({"model_type": "deepseek_v32"}, "sparse attention" if "deepseek_v32" in CONFIG_MAPPING else "does not know"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "recurrent or hybrid"),
        ({"model_type": "t5"}, "not a decoder-only"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "not a decoder-only"),
    ],
)
def test_models_of_other_kinds_are_refused_by_name(
    checkpoints: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelLoadError, match=reason):
        hf.load(str(folder))


def test_positions_that_depend_on_the_longest_text_bound_the_context(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "dynamic")
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 200}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    with pytest.raises(InvalidOption, match="n_ctx=200"):
        hf.load(str(folder), n_ctx=400)
    backend = hf.load(str(folder), n_threads=1)
    assert backend.info.context_length == 200
    asyncio.run(backend.aclose())


@pytest.mark.parametrize(("n_ctx", "context"), [(0, 96), (90, 90), (400, 400)])
async def test_of_two_sets_of_rotary_frequencies_the_context_chooses_one(
    checkpoints: Path, n_ctx: int, context: int
) -> None:
    folder = checkpoints / "phi3"
    alone = await asyncio.to_thread(transformers.AutoModelForCausalLM.from_pretrained, folder)
    files = await asyncio.to_thread(read_files, folder)
    kept = await asyncio.to_thread(files.fingerprint)
    async with loaded(factory(folder), n_ctx) as backend:
        assert backend.info.context_length == context
        assert (backend.info.fingerprint == kept) == (context <= 96)
        sequence = await backend.open(QUESTION)
        start, sizes = sequence.length, (10, 30) if context <= 96 else (10, 130)
        pieces = [await sequence.generate(size, GREEDY, FREELY) for size in sizes]
        with torch.inference_mode():
            table = alone(torch.tensor([sequence.ids]), use_cache=False).logits[0].log_softmax(-1)
        expected = table[range(start - 1, sequence.length - 1), sequence.ids[start:]]
    found = [logprob for piece in pieces for logprob in piece.logprobs]
    assert (sequence.length > 96) == (context > 96)
    assert torch.allclose(torch.tensor(found), expected, atol=1e-4)


def test_what_a_configuration_leaves_out_is_as_the_library_takes_it(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "gemma3", tmp_path / "silent")
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    backend = hf.load(str(folder), n_threads=1, n_ctx=9000)
    assert backend.info.context_length == 9000
    asyncio.run(backend.aclose())


def test_latent_attention_is_counted_as_it_is_kept(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "latent")
    config = json.loads((folder / "config.json").read_text())
    extents = {"num_key_value_heads": 4, "head_dim": 8, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "v_head_dim": 20}
    (folder / "config.json").write_text(json.dumps({**config, **extents}))
    assert read_files(folder).shape.cell_values == 2 * 4 * (24 + 8 + 20)


def test_a_gguf_file_with_numbers_for_each_layer_is_weighed(tmp_path: Path) -> None:
    path = tmp_path / "pruned.gguf"
    writer = gguf.GGUFWriter(path, "deci")
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_head_count([4, 4])
    writer.add_head_count_kv([4, 2])
    writer.add_feed_forward_length([128, 96])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shape = read_files(path).shape
    assert (shape.cell_values, shape.inner) == ((4 + 2) * 2 * 16, 128)


class Beyond(gguf.GGUFWriter):
    """Names ids that the vocabulary does not have, as llama.cpp overlooks them."""

    def add_eos_token_id(self, _: int) -> None:
        super().add_eos_token_id(1 << 20)

    def add_bos_token_id(self, _: int) -> None:
        super().add_bos_token_id(1 << 20)


def test_ids_beyond_the_vocabulary_of_a_gguf_file_are_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "GGUFWriter", Beyond)
    backend = hf.load(str(tiny.write_random(tmp_path / "beyond.gguf", tiny.bpe_words())), n_ctx=256)
    assert max(backend.vocabulary.end_ids) < backend.vocabulary.size
    asyncio.run(backend.aclose())


class Frequencies(gguf.GGUFWriter):
    """Stores rotary frequencies as a tensor, as files of Llama 3.1 do."""

    def write_header_to_file(self, *args: Any) -> None:
        self.add_tensor("rope_freqs.weight", np.linspace(1, 8, 8, dtype=np.float32))
        super().write_header_to_file(*args)


class Scaled(gguf.GGUFWriter):
    """Scales positions, as files of models with YaRN do."""

    def add_context_length(self, length: int) -> None:
        super().add_context_length(length)
        self.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        self.add_rope_scaling_factor(4.0)


@pytest.mark.parametrize(("writer", "said"), [(Frequencies, "leaves 8 of the weights"), (Scaled, "positions")])
def test_a_gguf_file_of_which_the_library_leaves_something_out_is_refused(
    writer: type[gguf.GGUFWriter], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "GGUFWriter", writer)
    path = tiny.write_random(tmp_path / "more.gguf", tiny.bpe_words())
    with pytest.raises(ModelLoadError, match=said) as caught:
        hf.load(str(path), n_ctx=256)
    assert "llama-cpp:" in caught.value.hint


def test_the_memory_of_a_model_is_told_before_loading(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(checkpoints / "llama")
    small, large = (hf.estimate_memory(path, kv_tokens=n) for n in (1024, 65536))
    cell = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, bytes of float32
    assert large - small == (65536 - 1024) * cell
    assert small >= (checkpoints / "llama" / "model.safetensors").stat().st_size
    assert hf.estimate_memory(path, kv_tokens=1024, dtype="bfloat16") < small
    assert hf.estimate_memory(path, device="cuda") == 0
    monkeypatch.setattr(hf, "available_memory", lambda: small - 1)
    with pytest.raises(NotEnoughMemory, match="GiB"):
        hf.load(path, kv_tokens=1024)


def test_a_model_larger_than_this_machine_is_refused_by_its_header(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "large")
    tensor = {"dtype": "F32", "shape": [1 << 44], "data_offsets": [0, 1 << 46]}
    header = json.dumps({"lm_head.weight": tensor}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
    size = 8 + len(header) + (1 << 46)
    real = Path.stat

    def stat(path: Path, **options: Any) -> Any:
        found = real(path, **options)
        return SimpleNamespace(st_size=size, st_mode=found.st_mode) if path.name == "model.safetensors" else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        with pytest.raises(NotEnoughMemory, match=r"65\d{3}\.\d GiB"):
            hf.load(str(folder), device="cpu")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("x")])
@pytest.mark.parametrize("place", ["from_pretrained", "_plain"])
def test_memory_that_runs_out_while_loading_says_how_much_was_needed(
    place: str, error: Exception, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded_models: list[weakref.ref[Any]] = []

    def fail(*given: Any, **options: Any) -> Any:
        loaded_models.extend(map(weakref.ref, given[:1]))
        raise error

    library = transformers.AutoModelForCausalLM
    monkeypatch.setattr(library if place == "from_pretrained" else hf_model, place, fail)

    def load() -> A1Error | RuntimeError:
        try:
            hf.load(str(checkpoints / "llama"), device="cpu")
        except (A1Error, RuntimeError) as caught:
            return caught.with_traceback(None)
        raise AssertionError("it loaded")

    found = load()
    scarce = not str(error).startswith("x")
    assert isinstance(found, NotEnoughMemory) == scarce
    assert ("GiB" in str(found) and "kv_tokens" in str(found)) == scarce
    error.__traceback__ = None
    gc.collect()
    assert len(loaded_models) == (place == "_plain")
    assert [model() for model in loaded_models] == [None] * len(loaded_models)


def test_without_torch_the_extra_is_named(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"a1agent\[transformers\]"):
        hf.load(str(checkpoints / "llama"))


def test_fingerprints_tell_weights_apart(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "same")
    one, same = read_files(checkpoints / "llama").fingerprint(), read_files(folder).fingerprint()
    weights = load((folder / "model.safetensors").read_bytes())
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert one == same != read_files(folder).fingerprint()


@of_old_names
async def test_an_adapter_changes_the_model_and_its_fingerprint(checkpoints: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    path = checkpoints / "llama"
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    async with loaded(factory(path)) as plain, loaded(factory(path, adapter=str(tmp_path / "adapter"))) as changed:
        scores = [await (await backend.open(QUESTION)).score(STEP) for backend in (plain, changed)]
        assert plain.info.fingerprint != changed.info.fingerprint
        assert abs(mean(scores[0].logprobs) - mean(scores[1].logprobs)) > 1e-3


def adapter_of(path: Path, folder: Path, **options: Any) -> Path:
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], **options)).save_pretrained(folder)
    return folder


@of_old_names
def test_the_folder_of_an_adapter_names_its_model(checkpoints: Path, tmp_path: Path) -> None:
    folder = adapter_of(checkpoints / "llama", tmp_path / "adapter")
    with pytest.raises(ModelLoadError, match=r"(?s)holds an adapter, of the model .*llama.*adapter="):
        hf.load(str(folder))


@of_old_names
def test_an_adapter_that_changes_nothing_or_does_not_fit_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    folder = adapter_of(checkpoints / "llama", tmp_path / "adapter")
    wide = tiny_hf.write(tmp_path / "wide", "llama", tiny_hf.bpe(), tiny.bpe_words(), hidden_size=96)
    with pytest.raises(ModelLoadError, match="size mismatch for"):
        hf.load(str(wide), adapter=str(folder))
    weights = folder / "adapter_model.safetensors"
    save_file({f"vision.{name}": tensor for name, tensor in load(weights.read_bytes()).items()}, weights)
    with pytest.raises(ModelLoadError, match="missing adapter keys"):
        hf.load(str(checkpoints / "llama"), adapter=str(folder))


def test_a_folder_without_an_adapter_is_refused(checkpoints: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(ModelLoadError, match="adapter_model"):
        hf.load(str(checkpoints / "llama"), adapter=str(checkpoints / "llama"))


def test_without_peft_an_adapter_says_what_to_install(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelLoadError, match="pip install peft"):
        hf.load(str(checkpoints / "llama"), adapter="some/adapter")


async def test_a_tool_template_serves_questions_with_tools(checkpoints: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoints / "llama", tmp_path / "tools")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tools = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}" + tiny.CHATML
    settings["chat_template"] = [{"name": "default", "template": tiny.CHATML}, {"name": "tool_use", "template": tools}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    async with loaded(factory(folder)) as backend:
        plain = backend.encode(QUESTION).ids
        asked = backend.encode(Question(messages=QUESTION.messages, tools=(tool,))).ids
        assert asked[-len(plain) :] == plain
        assert b'"name": "add"' in b"".join(map(backend.vocabulary.piece, asked))


# What a schema allows

BOTH = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


async def test_chains_under_different_schemas_and_none_share_their_forwards(checkpoints: Path) -> None:
    """What each is held to does not show in the others, nor in its own log-probabilities."""
    samplings = [
        Sampling(seed=7),
        Sampling(seed=7, schema=BOTH),
        Sampling(seed=7, temperature=0, schema={"enum": [12]}),
    ]
    async with loaded(factory(checkpoints / "llama")) as backend:
        root = await backend.open(QUESTION)
        alone = await root.fork().generate(30, samplings[0], FREELY)
        forks = [root.fork() for _ in samplings]
        free, held, fixed = await asyncio.gather(
            *(fork.generate(30, sampling, FREELY) for fork, sampling in zip(forks, samplings, strict=True))
        )
        scores = await root.fork().score(held.step)
    assert free.step.text == alone.step.text
    assert held.step.text.startswith('{"a": ')
    assert (fixed.step.text, fixed.finish) == ("12", "end")
    assert held.logprobs == pytest.approx(scores.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2, "uniqueItems": True},
            "a part of",
        ),
        ({"type": "string", "pattern": "^(?=a)b$"}, "no grammar"),
    ],
)
async def test_keywords_without_a_grammar_are_left_to_those_who_check_the_answer(
    checkpoints: Path, schema: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with loaded(factory(checkpoints / "llama")) as backend:
        sequence = await backend.open(QUESTION)
        written = await sequence.generate(60, Sampling(seed=3, schema=schema), FREELY)
    assert told in caplog.text
    assert written.step.text.startswith("[") is (told == "a part of")


async def test_without_the_library_a_model_is_not_said_to_be_held(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    async with loaded(factory(checkpoints / "llama")) as backend:
        assert not backend.info.can_constrain
        sequence = await backend.open(QUESTION)
        assert (await sequence.generate(5, Sampling(seed=3, schema=BOTH), FREELY)).step.ids
