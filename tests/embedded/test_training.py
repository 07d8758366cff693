"""Training is resumable and exports what llama.cpp computes alike; on a model too small to learn anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

Import = Callable[[str], ModuleType]
RUN = ("--size", "tiny", "--tokens", "40000", "--rows", "8", "--report", "3")


@pytest.fixture
def train(example: Import, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    data = example("data")
    learn = data.train_tokenizer
    monkeypatch.setattr(data, "train_tokenizer", lambda: learn(300))  # the shipped one learns from 20,000 problems
    return example("train")


def weights(folder: Path, train: ModuleType) -> dict[str, Any]:
    return train.load_model(folder / "checkpoint.safetensors").state_dict()


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(train: ModuleType, tmp_path: Path) -> None:
    train.main([*RUN, "--steps", "6", "--out", str(tmp_path / "whole")])
    for _ in range(2):
        train.main([*RUN, "--steps", "3", "--out", str(tmp_path / "parts")])
    whole, parts = weights(tmp_path / "whole", train), weights(tmp_path / "parts", train)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)
    assert train.read_meta(tmp_path / "parts" / "checkpoint.safetensors")["progress"]["step"] == 6


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_a_run_that_goes_on_holds_no_checkpoint_open(train: ModuleType, tmp_path: Path) -> None:
    """Windows could not replace it."""
    train.main([*RUN, "--steps", "1", "--out", str(tmp_path)])
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = train.load_model(checkpoint)
    optimizers = train.make_optimizers(model)
    train.load_optimizers(checkpoint, optimizers)
    assert str(checkpoint) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert all(optimizer.state for optimizer in optimizers)


def test_a_run_of_another_size_is_not_gone_on_with(train: ModuleType, tmp_path: Path) -> None:
    train.main([*RUN, "--steps", "1", "--out", str(tmp_path)])
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="another size"):
        train.main([*RUN, "--size", "draft", "--steps", "1", "--out", str(tmp_path)])
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("flag", ["--tokens", "--minutes", "--steps", "--rows", "--report", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_what_would_never_end_or_divide_by_nothing_is_refused(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit):
        train.main([*RUN, flag, value, "--out", str(tmp_path / "run")])
    assert f"{flag} is {float(value) if flag == '--minutes' else value}: it is more than 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_loss_falls_and_is_reported(train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main([*RUN, "--steps", "30", "--report", "10", "--out", str(tmp_path)])
    history = train.read_meta(tmp_path / "checkpoint.safetensors")["progress"]["history"]
    assert history[-1][1] < history[0][1]
    assert "tokens/s" in capsys.readouterr().out


def test_the_exported_file_computes_the_same_logits(train: ModuleType, example: Import, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    train.main([*RUN, "--steps", "12", "--out", str(tmp_path)])
    file = tmp_path / "tiny.gguf"
    example("export").export(tmp_path, file, "draft", "f32")
    # f32 caches: the default f16 ones round keys and values by more than the difference looked for.
    model = llama_cpp.Llama(
        str(file), n_ctx=256, logits_all=True, type_k=0, type_v=0, n_threads=1, n_threads_batch=1, verbose=False
    )
    ids = model.tokenize(b"<|im_start|>user\nWhat is 12 + 34 - 5?<|im_end|>\n", add_bos=False, special=True)
    model.eval(ids)
    with torch.no_grad():
        expected = train.load_model(tmp_path / "checkpoint.safetensors")(torch.tensor([ids]))[0].numpy()
    assert abs(model.scores[: len(ids)] - expected).max() < 1e-3


def test_batches_depend_on_seed_and_step_alone(example: Import) -> None:
    data = example("data")
    tokenizer = data.train_tokenizer(300)
    first, again, other = (data.batches(tokenizer, 1, step, 8) for step in (4, 4, 5))
    assert all((a.ids == b.ids).all() for a, b in zip(first, again, strict=True))
    assert any(a.ids.shape != b.ids.shape or (a.ids != b.ids).any() for a, b in zip(first, other, strict=True))


def test_replies_weigh_more_than_prompts_and_padding_nothing(example: Import) -> None:
    data = example("data")
    tokenizer = data.train_tokenizer(300)
    for batch in data.batches(tokenizer, 1, 0, 8):
        assert {round(float(weight), 6) for weight in batch.weights.flatten()} <= {0.0, data.PROMPT_WEIGHT, 1.0}
        assert (batch.weights[batch.ids == data.PAD] == 0).all()
        ends = batch.weights[batch.ids == data.TURN_END]
        assert (ends > 0).any()


def test_the_instruction_is_the_one_the_engine_adds(example: Import) -> None:
    from a1agent.prompts import BOXED_INSTRUCTION

    assert example("data").BOXED_INSTRUCTION == "\n\n" + BOXED_INSTRUCTION
