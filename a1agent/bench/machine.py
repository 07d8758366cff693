"""What a run was measured on: processors, packages, memory, and energy where the machine tells."""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from a1agent import __version__

__all__ = ["EnergyMeter", "command_line", "describe", "peak_memory"]

_PACKAGES = ("llama-cpp-python", "torch", "transformers", "numpy")
_POWERCAP = Path("/sys/class/powercap")


def describe() -> dict[str, str]:
    """Machine, system and versions, in words."""
    found = {
        "processor": f"{_processor()}, {os.cpu_count()} logical cores",
        "gpu": _gpu() or "none",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "a1agent": __version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command_line() -> str:
    """The command that makes the run anew: as it was given, but for `--resume`."""
    return shlex.join(["a1", *(word for word in sys.argv[1:] if word != "--resume")])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine()])[0]


def _gpu() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # without a driver it says so on stdout, and fails
        return ""
    return "; ".join(told.stdout.splitlines())


def peak_memory() -> int | None:
    """Most bytes this process has had resident so far; None where the system does not tell."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:
        return _peak_on_windows()
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_on_windows() -> int | None:
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return None
    return int(psutil.Process().memory_info().peak_wset)


class EnergyMeter:
    """Joules used by processors (Linux powercap) and NVIDIA GPUs (NVML) since it was made; of all that runs there."""

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        zones = [zone for zone in powercap.glob("*-rapl:*") if zone.name.count(":") == 1]
        self._zones = [(zone / "energy_uj", _read(zone / "max_energy_range_uj") or 0) for zone in zones]
        self._zones = [zone for zone in self._zones if _read(zone[0]) is not None]
        self._last = [_read(path) or 0 for path, _ in self._zones]
        self._gpus = _gpu_counters()
        self._gpus_last = [gpu() for gpu in self._gpus]
        self._joules = 0.0

    def joules(self) -> float | None:
        """Used so far; None where nothing tells."""
        if not self._zones and not self._gpus:
            return None
        for i, (path, span) in enumerate(self._zones):
            now = _read(path)
            if now is not None:
                used = now - self._last[i]
                self._joules += (used if used >= 0 else used + span) / 1e6  # the counter begins anew when it is full
                self._last[i] = now
        for i, gpu in enumerate(self._gpus):
            now = gpu()
            self._joules += (now - self._gpus_last[i]) / 1e3
            self._gpus_last[i] = now
        return self._joules


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # often readable by the administrator only
        return None


def _gpu_counters() -> list[Any]:
    """Functions that give the millijoules of each GPU."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        for handle in handles:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no driver, or a GPU that does not tell
        return []
    return [lambda handle=handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
