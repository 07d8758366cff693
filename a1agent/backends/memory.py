"""How much memory this machine has left, without a package for it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_memory"]

_MEMBERSHIP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that a new model may take, within the limits of a container; None where the system does not tell."""
    limits = [limit for limit in (_system(), _container()) if limit is not None]
    return min(limits, default=None)


def _system() -> int | None:
    if sys.platform == "win32":
        return _windows()
    meminfo = _read(Path("/proc/meminfo"))
    for line in (meminfo or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    names: dict[str, int] = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:  # macOS: what is free changes by the second; take all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container() -> int | None:
    """What the control groups of this process and those above them leave (Linux)."""
    return min((left for group in _groups() if (left := _left(group)) is not None), default=None)


def _groups() -> Iterator[tuple[Path, str]]:
    """The folders in which the memory of this process is counted, and which version of the files each has."""
    for line in (_read(_MEMBERSHIP) or "0::/").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            root, version = _GROUPS, "2"
        elif "memory" in controllers.split(","):
            root, version = _GROUPS / "memory", "1"
        else:
            continue
        own = root / path.strip().lstrip("/")
        yield from ((folder, version) for folder in (own, *own.parents) if folder.is_relative_to(root))


def _left(group: tuple[Path, str]) -> int | None:
    """Bytes under the limit of a group; None without one. What it holds of files is given up when it is needed."""
    folder, version = group
    names = {"2": ("memory.max", "memory.current", ""), "1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")}
    limit_name, used_name, prefix = names[version]
    limit, used = _read(folder / limit_name), _read(folder / used_name)
    if limit is None or used is None or not limit.strip().isdigit():
        return None
    counted = dict(line.split(maxsplit=1) for line in (_read(folder / "memory.stat") or "").splitlines())
    cached = sum(int(counted.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return max(0, int(limit) - max(0, int(used) - cached))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


class _MemoryStatus(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total", ctypes.c_ulonglong),
        ("available", ctypes.c_ulonglong),
        ("page_total", ctypes.c_ulonglong),
        ("page_available", ctypes.c_ulonglong),
        ("virtual_total", ctypes.c_ulonglong),
        ("virtual_available", ctypes.c_ulonglong),
        ("extended", ctypes.c_ulonglong),
    )


def _windows() -> int | None:
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  only there on Windows
    return int(status.available) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None
