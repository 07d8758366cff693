"""What a machine tells of itself."""

import sys
from pathlib import Path

import pytest

from a1agent.bench.machine import EnergyMeter, command_line, describe, peak_memory


def zone(folder: Path, name: str, joules: float, span: float = 100.0) -> Path:
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "energy_uj").write_text(str(int(joules * 1e6)), encoding="ascii")
    (path / "max_energy_range_uj").write_text(str(int(span * 1e6)), encoding="ascii")
    return path


def test_energy_is_summed_over_packages_and_counted_on_when_a_counter_begins_anew(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 90)
    zone(tmp_path, "intel-rapl:1", 10)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of the first package, counted there
    meter = EnergyMeter(tmp_path)
    assert meter.joules() == 0
    zone(tmp_path, "intel-rapl:0", 4)
    zone(tmp_path, "intel-rapl:1", 13)
    zone(tmp_path, "intel-rapl:0:0", 50)
    assert meter.joules() == 14 + 3


def test_where_nothing_tells_there_is_no_figure(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).joules() is None or describe()["gpu"] != "none"


def test_a_machine_is_described_with_the_versions_that_matter() -> None:
    found = describe()
    assert {"processor", "gpu", "system", "python", "a1agent", "numpy"} <= set(found)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a script that can be run")
def test_what_a_gpu_tool_says_when_it_fails_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed: no driver'\nexit 9\n", "utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe()["gpu"] == "none"


def test_the_command_of_a_resumed_run_is_the_one_that_makes_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/a1", "bench", "--resume", "--limit", "3", "--out", "a folder"])
    assert command_line() == "a1 bench --limit 3 --out 'a folder'"


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = bytearray(b"x" * (200 << 20))
    after = peak_memory()
    assert before is not None and after is not None and after >= len(held)
