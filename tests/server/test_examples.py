"""The examples for clients of other makers run against a live server, where those are installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.test_process import importable, served

EXAMPLES = Path(__file__).parents[2] / "examples"
SUMS = ("--calibration", "none")
OBEDIENT = (*SUMS, "--draft", "scripted:obedient", "--target", "scripted:obedient")

MISSING = {
    "llama_index.llms.openai_like": "llama-index-llms-openai-like is not installed: it takes no openai from 3 on, with "
    "which the other examples run; install it into an environment of its own to run this one"
}

__all__ = ["importable"]


@pytest.mark.parametrize(
    ("script", "package", "models", "printed"),
    [
        ("40_openai_client.py", "openai", SUMS, "--- the message ---"),
        ("41_pydantic_ai.py", "pydantic_ai", OBEDIENT, "42"),
        ("42_smolagents.py", "smolagents", OBEDIENT, "42"),
        ("43_llama_index.py", "llama_index.llms.openai_like", OBEDIENT, "add("),
    ],
)
def test_an_example_runs(script: str, package: str, models: tuple[str, ...], printed: str) -> None:
    pytest.importorskip(package, reason=MISSING.get(package))
    with served(*models) as (url, _):
        command = [sys.executable, str(EXAMPLES / script), f"{url}/v1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
