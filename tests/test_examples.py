"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(("script", "arguments", "printed"), [("00_demo.py", ["2"], "of 2 right")])
def test_an_example_runs(script: str, arguments: list[str], printed: str) -> None:
    pytest.importorskip("llama_cpp")
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
