"""How much memory is left: what the system has, and what control groups leave of it."""

from pathlib import Path

import pytest

from a1agent.backends import memory

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups; the system itself has more than any of them."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "_system", lambda: 64 * GIB)
    return tmp_path


def second_version(root: Path, path: str, limit: str, used: int, cached: int = 0) -> None:
    folder = root / "cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n", encoding="utf-8")
    (folder / "memory.current").write_text(f"{used}\n", encoding="utf-8")
    stat = f"anon {used - cached}\nactive_file {cached // 2}\ninactive_file {cached - cached // 2}\n"
    (folder / "memory.stat").write_text(stat, encoding="utf-8")


def belongs_to(root: Path, *lines: str) -> None:
    (root / "membership").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_without_groups_the_system_tells(groups: Path) -> None:
    assert memory.available_memory() == 64 * GIB


def test_a_container_leaves_what_is_under_its_limit(groups: Path) -> None:
    belongs_to(groups, "0::/")
    second_version(groups, "", str(8 * GIB), 3 * GIB)
    assert memory.available_memory() == 5 * GIB


def test_files_in_the_cache_of_a_container_make_way(groups: Path) -> None:
    belongs_to(groups, "0::/")
    second_version(groups, "", str(8 * GIB), 7 * GIB, cached=6 * GIB)
    assert memory.available_memory() == 7 * GIB


def test_the_tightest_of_nested_groups_counts(groups: Path) -> None:
    belongs_to(groups, "0::/user.slice/job.scope")
    second_version(groups, "user.slice", str(6 * GIB), 2 * GIB)
    second_version(groups, "user.slice/job.scope", "max", GIB)
    assert memory.available_memory() == 4 * GIB
    second_version(groups, "user.slice/job.scope", str(2 * GIB), GIB)
    assert memory.available_memory() == GIB


def test_groups_of_the_first_version_count_too(groups: Path) -> None:
    belongs_to(groups, "9:name=systemd:/", "4:memory:/docker/abc", "0::/")
    folder = groups / "cgroup" / "memory"  # within the container its own group is the root
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(4 * GIB), encoding="utf-8")
    (folder / "memory.usage_in_bytes").write_text(str(3 * GIB), encoding="utf-8")
    (folder / "memory.stat").write_text(f"total_inactive_file {GIB}\ntotal_active_file {GIB}\n", encoding="utf-8")
    assert memory.available_memory() == 3 * GIB


def test_of_this_machine_something_is_told() -> None:
    left = memory.available_memory()
    assert left is None or left > 0
