"""Where there is no browser, the tests of the page say so once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODULES = ("tests/server/page/test_asking.py", "tests/server/page/test_access.py")


def test_without_a_browser_they_skip_in_one_line_that_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "A1_CHROMIUM"}
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *MODULES],
        env=environment | {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    skips = [line for line in told.stdout.splitlines() if line.startswith("SKIPPED")]
    assert told.returncode == 0, told.stdout + told.stderr
    assert len(skips) == 1
    assert "apt-get install chromium" in skips[0]
