"""The examples run as they stand, and so does what the README shows."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from a1agent import embedded
from langchain_core.messages import ToolMessage

HOME = Path(__file__).parent.parent.parent
PRINTED = {
    "01_chat_model.py": "taken over by the target:",
    "02_pipeline_swap.py": "4 answers",
    "03_agent_with_tool.py": "steps verified:",
    "04_middleware.py": "'calls': 1",
    "05_structured_output.py": "product=",
    "06_desktop_llama_cpp.py": "tokens/s",
    "07_stats_to_agent.py": "answer:",
}
SNIPPETS = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_every_example_is_listed() -> None:
    assert {path.name for path in (HOME / "examples").glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("script", PRINTED)
def test_an_example_runs(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    runpy.run_path(str(HOME / "examples" / script), run_name="__main__")
    assert PRINTED[script] in capsys.readouterr().out


def test_the_desktop_example_takes_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = HOME / "examples" / "06_desktop_llama_cpp.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(embedded.path("draft")), str(embedded.path("target"))])
    runpy.run_path(str(script), run_name="__main__")
    assert "tokens/s" in capsys.readouterr().out


def test_the_readme_s_snippets_run_one_after_the_other() -> None:
    assert len(SNIPPETS) >= 6
    names: dict[str, Any] = {"__name__": "readme"}
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), names)
    assert isinstance(names["called"], ToolMessage)
    assert names["called"].artifact["stats"]["chains_started"] == 8  # the answer hangs on chance
