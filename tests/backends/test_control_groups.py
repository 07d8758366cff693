"""Memory and processors that control groups leave to a process."""

from pathlib import Path

import pytest

from a1agent.backends import control_groups, llama_options, memory

GIB = 2**30


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of this process alone; the system itself has more than any of them."""
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "_system", lambda: 64 * GIB)
    return tmp_path


def write(folder: Path, **files: object) -> None:
    """Files of a group; a dot of their names is written as two underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n", encoding="utf-8")


def belongs_to(tree: Path, *lines: str) -> None:
    (tree / "membership").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_without_groups_the_system_tells(tree: Path) -> None:
    assert memory.available_memory() == 64 * GIB
    assert control_groups.processors() is None


def test_a_container_leaves_what_is_under_its_limit(tree: Path) -> None:
    belongs_to(tree, "0::/")
    write(tree / "cgroup", memory__max=8 * GIB, memory__current=3 * GIB, cpu__max="150000 100000")
    assert memory.available_memory() == 5 * GIB
    assert control_groups.processors() == 1.5


def test_files_in_the_cache_of_a_container_make_way(tree: Path) -> None:
    belongs_to(tree, "0::/")
    stat = f"anon {GIB}\nactive_file {4 * GIB}\ninactive_file {2 * GIB}"
    write(tree / "cgroup", memory__max=8 * GIB, memory__current=7 * GIB, memory__stat=stat)
    assert memory.available_memory() == 7 * GIB


def test_the_tightest_of_nested_groups_counts(tree: Path) -> None:
    belongs_to(tree, "0::/user.slice/job.scope")
    outer, inner = tree / "cgroup/user.slice", tree / "cgroup/user.slice/job.scope"
    write(outer, memory__max=6 * GIB, memory__current=2 * GIB, cpu__max="400000 100000")
    write(inner, memory__max="max", memory__current=GIB, cpu__max="max 100000")
    assert (memory.available_memory(), control_groups.processors()) == (4 * GIB, 4)
    write(inner, memory__max=2 * GIB, cpu__max="50000 100000")
    assert (memory.available_memory(), control_groups.processors()) == (GIB, 0.5)


def test_groups_of_the_first_version_count_too(tree: Path) -> None:
    belongs_to(tree, "9:name=systemd:/", "4:memory:/docker/abc", "2:cpu,cpuacct:/docker/abc", "0::/")
    stat = f"total_inactive_file {GIB}\ntotal_active_file {GIB}"
    within = tree / "cgroup/memory"  # seen from inside, a container's own group is the root
    write(within, memory__limit_in_bytes=4 * GIB, memory__usage_in_bytes=3 * GIB, memory__stat=stat)
    write(tree / "cgroup/cpu", cpu__cfs_quota_us=200000, cpu__cfs_period_us=100000)
    assert (memory.available_memory(), control_groups.processors()) == (3 * GIB, 2)
    write(tree / "cgroup/cpu", cpu__cfs_quota_us=-1)
    assert control_groups.processors() is None


def test_no_more_threads_run_than_a_container_has_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_options.sys, "platform", "linux")
    monkeypatch.setattr(llama_options, "linux_cores", lambda allowed: [])
    monkeypatch.setattr(llama_options.os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(llama_options.os, "cpu_count", lambda: 128)
    for quota, cores in ((None, 64), (2.5, 2), (0.5, 1), (99.0, 64)):
        monkeypatch.setattr(llama_options, "processors", lambda quota=quota: quota)
        assert llama_options.physical_cores() == cores


def test_of_this_machine_something_is_told() -> None:
    left = memory.available_memory()
    assert left is None or left > 0
    assert llama_options.physical_cores() >= 1
