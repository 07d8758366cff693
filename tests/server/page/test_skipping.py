"""Where there is no browser, the tests of the page say so once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_without_a_browser_they_skip_in_one_line_that_says_how_to_get_one(tmp_path: Path) -> None:
    places = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/server/page/test_access.py",
         "tests/server/page/test_safety.py"],
        cwd=ROOT, env={k: v for k, v in os.environ.items() if k != "A1_CHROMIUM"} | places, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    skips = [line for line in told.stdout.splitlines() if line.startswith("SKIPPED")]
    assert told.returncode == 0, told.stdout + told.stderr
    assert len(skips) == 1
    assert "apt-get install chromium" in skips[0]
