"""Packed forwards and caches a lane give what the model alone gives, for any architecture and any order of calls."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from a1agent.backends import torch_attention, torch_linear
from a1agent.backends.batching.runner import Rows
from a1agent.backends.hf_model import batched
from a1agent.backends.torch_lanes import LaneModel
from a1agent.backends.torch_linear import pack
from a1agent.backends.torch_packed import PackedModel, Unpackable, probe
from a1agent.backends.torch_slots import LayerShape, SlotCache
from a1agent.backends.transformers_options import TransformersOptions
from a1agent.errors import ModelLoadError
from tests.backends import tiny_hf

VOCABULARY = 120
LENGTHS = {0: 30, 1: 40, 2: 21, 5: 26}
Piece = tuple[int, int, int, bool]  # lane, first position, last position, whether logits are wanted

SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7}
EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 9},
    "phi3": {},
    "olmo2": {},
    "smollm3": {},
    "gemma2": {"sliding_window": 7, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 20},
    "gemma3_text": {**SLIDING, "query_pre_attn_scalar": 20},
    "granite": {"attention_multiplier": 0.3, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    "glm4": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "starcoder2": {"sliding_window": 9},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {**SLIDING, "logit_scale": 0.3},
    "olmo3": SLIDING,
    "gemma3n_text": {
        "layer_types": SLIDING["layer_types"] * 2,
        "sliding_window": 7,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gemma4_text": {
        **SLIDING,
        "global_head_dim": 32,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
    },
    "deepseek_v3": {**LATENT, **EXPERTS, "first_k_dense_replace": 1},
    "granitemoehybrid": {
        "layer_types": ["full_attention"] * 2,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 96,
    },
    "gpt_oss": {**SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": None},
}


def model_of(kind: str, **changes: Any) -> Any:
    return tiny_hf.random_model(tiny_hf.config_of(kind, VOCABULARY, **changes), seed=1)


def ids_of(lane: int, length: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(lane)).tolist()


class Compared:
    """A model with a cache, and what the model alone says to the same texts."""

    def __init__(self, model: Any, make: Callable[[Any], PackedModel | LaneModel]) -> None:
        self.ids = {lane: ids_of(lane, length) for lane, length in LENGTHS.items()}
        with torch.inference_mode():
            model.set_attn_implementation("eager")
            self.table = {
                lane: model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
                for lane, ids in self.ids.items()
            }
            self.cached = make(model)

    def run(self, *pieces: Piece) -> None:
        """One forward of some pieces of the texts; every wanted row is compared."""
        rows = Rows()
        for lane, start, stop, wanted in pieces:
            rows.tokens.extend(self.ids[lane][start:stop])
            rows.positions.extend(range(start, stop))
            rows.lanes.extend([lane] * (stop - start))
            rows.wanted.extend([int(wanted)] * (stop - start))
        with torch.inference_mode():
            logits = self.cached.forward(rows)
        assert len(logits) == sum(rows.wanted)
        if len(logits):
            expected = torch.cat([self.table[lane][start:stop] for lane, start, stop, wanted in pieces if wanted])
            assert (logits.log_softmax(-1) - expected).abs().max() < 1e-4

    def fork(self, source: int, target: int, length: int) -> None:
        with torch.inference_mode():
            self.cached.copy(source, target, length)
        self.ids[target], self.table[target] = self.ids[source], self.table[source]


def packed(model: Any) -> PackedModel:
    return PackedModel(model, probe(model), 8, 64)


def laid_out(model: Any) -> PackedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_linear, "_LEAST_WEIGHTS", 64)
        assert pack(model) == torch_linear._available()
    return packed(model)


@pytest.mark.parametrize("make", [packed, LaneModel, laid_out])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_way_through_the_cache_gives_the_log_probabilities_of_the_model_alone(
    kind: str, make: Callable[[Any], PackedModel | LaneModel]
) -> None:
    texts = Compared(model_of(kind, **ARCHITECTURES[kind]), make)
    texts.run((1, 0, 12, False))
    texts.run((5, 0, 3, True), (0, 0, 10, True))
    texts.run((0, 10, 11, True), (1, 12, 13, True), (2, 0, 5, False), (5, 3, 9, True))
    texts.run((5, 9, 10, True), (0, 11, 12, True), (2, 5, 6, True), (1, 13, 14, True))
    texts.fork(1, 7, 10)
    texts.run((7, 10, 14, True), (5, 10, 11, True), (0, 12, 13, True))
    texts.cached.remove(5, 5)
    texts.run((5, 5, 20, True))
    texts.run((1, 14, 40, True), (5, 20, 21, True), (0, 13, 14, True))
    texts.cached.remove(5, 0)
    texts.run((5, 0, 26, True), (7, 14, 15, True))


def test_random_weights_are_large_enough_for_a_wrong_attention_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Compared(model_of("mistral", sliding_window=9), packed)
    monkeypatch.setattr(SlotCache, "copy", lambda *_: None)
    texts.run((1, 0, 12, False))
    texts.fork(1, 7, 10)
    with pytest.raises(AssertionError):
        texts.run((7, 10, 14, True))


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("bloom", {"n_head": 4, "n_layer": 2}, "does not let its attention be replaced"),
        ("llama4_text", {"num_local_experts": 2, "attention_chunk_size": 8, "intermediate_size_mlp": 96}, "chunked"),
    ],
)
def test_a_model_that_cannot_run_packed_says_why_and_runs_with_a_cache_a_lane(
    kind: str, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(kind, **changes)
    with torch.inference_mode():
        with pytest.raises(Unpackable, match=reason):
            probe(model)
        model.set_attn_implementation("eager")
        with pytest.raises(ModelLoadError, match=reason):
            batched(model, kind, TransformersOptions(cache="slots"), 4, 64)
        with caplog.at_level(logging.WARNING):
            assert isinstance(batched(model, kind, TransformersOptions(), 4, 64), LaneModel)
    assert "n chains cost n forwards" in caplog.text


def test_a_packed_forward_that_differs_from_the_plain_one_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = torch_attention._weigh
    monkeypatch.setattr(torch_attention, "_weigh", lambda *given: right(*given) * 1.1)
    model = model_of("llama")
    with torch.inference_mode():
        assert isinstance(batched(model, "tiny", TransformersOptions(), 4, 64), LaneModel)
    assert "off by" in caplog.text


def loud(dtype: torch.dtype) -> Any:
    """A model with logits as large as those of trained ones, where half precision rounds to whole eighths."""
    model = model_of("llama")
    with torch.inference_mode():
        largest = model(torch.tensor([ids_of(0, 20)]), use_cache=False).logits.abs().max()
        model.lm_head.weight.mul_(40 / largest)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_of_large_logits_is_not_taken_for_a_mistake(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.inference_mode():
        assert isinstance(batched(loud(dtype), "tiny", TransformersOptions(), 4, 64), PackedModel)
    assert not caplog.records


def test_a_mistake_is_not_taken_for_rounding(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    right = torch_attention.SdpaAttention._segment_mask
    monkeypatch.setattr(torch_attention.SdpaAttention, "_segment_mask", lambda *given: (*right(*given)[:2], None))
    with torch.inference_mode():
        assert isinstance(batched(loud(torch.bfloat16), "tiny", TransformersOptions(), 4, 64), LaneModel)
    assert "off by" in caplog.text


def test_logits_in_single_precision_of_weights_in_half_are_held_to_what_half_can_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = model_of("llama").to(torch.bfloat16)

    def upcast(_: Any, __: Any, output: Any) -> Any:
        output.logits = output.logits.float()
        return output

    model.register_forward_hook(upcast)
    with torch.inference_mode():
        assert isinstance(batched(model, "tiny", TransformersOptions(), 4, 64), PackedModel)
    assert not caplog.records


def test_with_nothing_that_works_a_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LaneModel, "copy", None)
    monkeypatch.setattr(LaneModel, "forward", lambda *_: torch.zeros(4, VOCABULARY))
    with torch.inference_mode(), pytest.raises(ModelLoadError, match="tiny"):
        batched(model_of("llama"), "tiny", TransformersOptions(cache="lanes"), 4, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="what becomes of the pages is up to the system")
@pytest.mark.skipif(sys.platform == "win32", reason="memory is given back page by page on POSIX systems")
def test_a_lane_that_is_dropped_gives_its_memory_back() -> None:
    shape = LayerShape(2, 16, 16, torch.float32, torch.device("cpu"))
    cache = SlotCache([shape] * 3, 4, 256)
    for layer in range(3):
        cache.keys[layer][:] = 1
        cache.values[layer][:] = 2
    cache.forget(2)
    for layer in range(3):
        assert cache.keys[layer][2].abs().sum() == cache.values[layer][2].abs().sum() == 0
        assert bool((cache.keys[layer][[0, 1, 3]] == 1).all())
        assert bool((cache.values[layer][[0, 1, 3]] == 2).all())


def test_layers_of_unlike_shapes_have_slots_of_their_own() -> None:
    shapes = [
        LayerShape(heads, width, 8, torch.float32, torch.device("cpu")) for heads, width in ((1, 8), (2, 4), (1, 8))
    ]
    cache = SlotCache(shapes, 3, 16)
    assert [tuple(each.shape) for each in cache.keys] == [(3, 1, 16, 8), (3, 2, 16, 4), (3, 1, 16, 8)]
    cache.keys[2][0, :, :5] = 3
    cache.copy(0, 1, 4)
    assert cache.keys[2][1].sum() == 3 * 4 * 8
    assert cache.keys[0].abs().sum() == cache.keys[1].abs().sum() == 0
