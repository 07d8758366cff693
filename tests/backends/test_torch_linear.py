"""Linear layers whose weights are laid out for the processor say what plain ones say, and nothing is kept twice."""

import logging
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch import nn

from a1agent.backends import torch_linear
from a1agent.backends.hf_model import batched
from a1agent.backends.torch_linear import PackedLinear, pack, unpack
from a1agent.backends.transformers_options import TransformersOptions
from tests.backends.test_torch_models import model_of

pytestmark = pytest.mark.skipif(not torch_linear._available(), reason="oneDNN's layout is used on x86 processors only")


@pytest.fixture(autouse=True)
def inference(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch_linear, "_LEAST_WEIGHTS", 64)
    with torch.inference_mode():
        yield


def layers_of(model: nn.Module) -> set[type[nn.Module]]:
    return {type(each) for each in model.modules() if "Linear" in type(each).__name__}


@pytest.mark.parametrize("shape", [(1, 24), (2, 24), (16, 24), (3, 7, 24), (1, 65, 24), (0, 24), (513, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_what_it_gave(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    expected = layer(rows)
    found = PackedLinear(layer)(rows)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


def test_kernels_are_made_for_few_numbers_of_rows() -> None:
    sizes = [torch_linear._filled_up(count) for count in range(1, 1025)]
    assert len(set(sizes)) <= 28
    assert all(count <= size <= max(1.5 * count, count + 15) for count, size in enumerate(sizes, 1))


def test_rows_need_not_stand_together() -> None:
    layer, rows = nn.Linear(24, 40), torch.randn(24, 9).T
    assert torch.allclose(PackedLinear(layer)(rows), layer(rows), atol=1e-5)


def test_weights_are_given_up_but_those_of_a_shared_embedding() -> None:
    model = model_of("llama", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = sum(each.numel() for each in model.parameters())
    linear = sum(each.weight.numel() for each in model.modules() if type(each) is nn.Linear)
    shared = model.lm_head.weight.numel()
    assert pack(model)
    assert layers_of(model) == {PackedLinear}
    assert sum(each.numel() for each in model.parameters()) == before - (linear - shared)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_layer_that_stands_in_two_places_is_laid_out_once() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert pack(model)
    assert model[0] is model[2]
    assert isinstance(model[0], PackedLinear)


def test_what_was_laid_out_can_be_put_back() -> None:
    model = nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 24, bias=False))
    before, rows = [each.weight.clone() for each in model], torch.randn(5, 24)
    expected = model(rows)
    assert pack(model)
    unpack(model)
    assert layers_of(model) == {nn.Linear}
    assert all(torch.equal(each.weight, was) for each, was in zip(model, before, strict=True))
    assert torch.equal(model(rows), expected)


class Special(nn.Linear):
    """A kind of layer with weights of its own, as quantized ones are."""


def test_layers_of_other_kinds_and_types_stay() -> None:
    hooked = nn.Linear(8, 8)
    hooked._hf_hook = object()  # what accelerate leaves where it swaps weights
    others = [Special(8, 8), nn.Linear(8, 8).bfloat16(), nn.Linear(8, 8, device="meta"), hooked, nn.Linear(4, 4)]
    assert not pack(nn.Sequential(*others))
    assert pack(nn.Sequential(*others, nn.Linear(8, 8)))
    assert {type(each) for each in others} == {Special, nn.Linear}


@pytest.mark.parametrize("wrong", ["off", "fails"])
def test_a_layout_that_does_not_do_what_the_model_did_is_taken_back(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = PackedLinear.forward

    def forward(layer: PackedLinear, rows: torch.Tensor) -> torch.Tensor:
        if wrong == "fails":
            raise RuntimeError("could not create a primitive")
        return right(layer, rows) * 1.1

    monkeypatch.setattr(PackedLinear, "forward", forward)
    model = model_of("llama")
    with caplog.at_level(logging.WARNING):
        batched(model, "tiny", TransformersOptions(cache="slots"), 4, 64)
    assert layers_of(model) == {nn.Linear}
    assert "with its weights as they are, more slowly" in caplog.text
    assert ("could not create a primitive" if wrong == "fails" else "off by") in caplog.text


def test_a_model_on_a_processor_is_laid_out_while_it_loads() -> None:
    model = model_of("llama")
    batched(model, "tiny", TransformersOptions(), 4, 64)
    assert layers_of(model) == {PackedLinear}
