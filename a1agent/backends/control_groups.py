"""What control groups leave to this process (Linux): the limits of containers, services and batch systems.

Each group and all those above it count. Both versions of their files are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_left", "processors"]

_MEMBERSHIP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def memory_left() -> int | None:
    """Bytes under the tightest limit; None without one. What a group holds of files is given up when it is needed."""
    return min((left for group in _groups("memory") if (left := _left(*group)) is not None), default=None)


def processors() -> float | None:
    """How many processors' time may be used, by the tightest limit; None without one."""
    return min((quota for group in _groups("cpu") if (quota := _quota(*group)) is not None), default=None)


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """(version of its files, folder) of each group that limits what this process uses, the innermost first."""
    for line in (_read(_MEMBERSHIP) or "0::/").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield from ((2, folder) for folder in _upwards(_ROOT, path))
        elif controller in controllers.split(","):
            yield from ((1, folder) for folder in _upwards(_ROOT / controller, path))


def _upwards(root: Path, path: str) -> list[Path]:
    own = root / path.strip().lstrip("/")
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]


def _left(version: int, folder: Path) -> int | None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (_number(_read(folder / name)) for name in names)
    if limit is None or used is None:
        return None
    counted = dict(line.split(maxsplit=1) for line in (_read(folder / "memory.stat") or "").splitlines())
    prefix = "" if version == 2 else "total_"
    files = sum(_number(counted.get(f"{prefix}{kind}_file")) or 0 for kind in ("active", "inactive"))
    return max(0, limit - max(0, used - files))


def _quota(version: int, folder: Path) -> float | None:
    if version == 2:
        texts = (_read(folder / "cpu.max") or "").split()
    else:
        texts = [_read(folder / name) or "" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    quota, period = (_number(text) for text in (*texts, "", "")[:2])
    return quota / period if quota and period else None


def _number(text: str | None) -> int | None:
    """Of a text that is a number; "max" and -1 mean that there is no limit."""
    return int(text) if text and text.strip().isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
