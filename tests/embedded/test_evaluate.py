"""What the example's evaluation counts as right, and its intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("tokenizers")

Import = Callable[[str], ModuleType]


def test_the_last_boxed_answer_counts(example: Import) -> None:
    stated = example("evaluate").stated_answer
    assert stated("\\boxed{3} no, \\boxed{42}") == "42"
    assert stated("the answer is 42") is None


def test_intervals_hold_the_share_and_stay_inside_0_and_1(example: Import) -> None:
    wilson = example("evaluate").wilson
    for right, count in ((0, 10), (10, 10), (280, 500)):
        low, high = wilson(right, count)
        assert -1e-12 <= low <= right / count + 1e-12
        assert right / count - 1e-12 <= high <= 1 + 1e-12
    low, high = wilson(50, 100)
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)  # the textbook value


@pytest.mark.parametrize(
    ("module", "words"),
    [("evaluate", ["no/such.gguf"]), ("export", ["--run", "no/such", "--name", "draft", "--to", "made.gguf"])],
)
def test_a_missing_file_is_named_and_nothing_is_written(
    example: Import, module: str, words: list[str], tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if module == "export":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        example(module).main(words)
    assert "there is no" in capsys.readouterr().err and not list(tmp_path.iterdir())
