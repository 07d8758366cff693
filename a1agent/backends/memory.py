"""How much memory this machine has left, without a package for it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from a1agent.backends.control_groups import memory_left

__all__ = ["DEFAULT_CONTEXT", "available_memory", "cells_in_memory"]

DEFAULT_CONTEXT = 8192
"""Most tokens of a sequence, of models trained with more."""

_LEAST_CELLS = 16384


def available_memory() -> int | None:
    """Bytes that a new model may take, within the limits of a container; None where the system does not tell."""
    limits = [limit for limit in (_system(), memory_left()) if limit is not None]
    return min(limits, default=None)


def cells_in_memory(context: int, asked: int, cell_bytes: float) -> int:
    """Tokens that a KV cache holds: as asked, else room for four full sequences and for 64 short ones.

    The default takes at most a quarter of the free memory, but always holds one full sequence.
    """
    wanted = asked or max(4 * context, _LEAST_CELLS)
    free = available_memory()
    if not asked and free is not None:
        wanted = min(wanted, int(free / 4 / max(1.0, cell_bytes)))
    return max(wanted, context)


def _system() -> int | None:
    if sys.platform == "win32":
        return _windows()
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    names: dict[str, int] = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:  # macOS: what is free changes by the second; take all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
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
