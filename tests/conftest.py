"""What every test stands on: one event loop kind, a user folder of its own, and a detector of blocked loops."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

from a1agent.backends.llama_options import linux_cores, physical_cores

WINDOWS_FOLDERS = ("WIN_PD_OVERRIDE_APPDATA", "WIN_PD_OVERRIDE_LOCAL_APPDATA")
"""Where platformdirs looks before it asks Windows, which does not go by variables."""

# How fast a machine makes examples says nothing about the code: only what they show may fail a test. They are the same
# in every run, so that a change is judged by what it changed; HYPOTHESIS_EXPLORE=1 looks for new ones.
for profile, same in (("a1agent", True), ("explore", False)):
    settings.register_profile(profile, deadline=None, derandomize=same, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("explore" if os.environ.get("HYPOTHESIS_EXPLORE") else "a1agent")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A process for each core that these may use, up to four: each holds models of its own.

    Only one where processes cannot be kept apart, and where the tests of a GPU would meet on it.
    """
    alone = not hasattr(os, "sched_setaffinity") or shutil.which("nvidia-smi") is not None
    return 1 if alone else min(4, physical_cores())


def pytest_configure() -> None:
    """Where several processes share the tests, each keeps to cores of its own: thread pools that meet wait in turns."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        cores = linux_cores(allowed) or [[processor] for processor in sorted(allowed)]
        workers = min(int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), len(cores))
        own = cores[int(worker.removeprefix("gw")) % workers :: workers]
        with contextlib.suppress(OSError):  # some sandboxes refuse; the tests then take longer
            os.sched_setaffinity(0, {processor for core in own for processor in core})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def user_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calibration and configuration of a test never touch those of the user who runs it."""
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME", "USERPROFILE", *WINDOWS_FOLDERS):
        monkeypatch.setenv(name, str(home))
    for name in ("A1_CALIBRATION", "A1_CONFIG", "A1_DRAFT", "A1_TARGET"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(autouse=True)
def blocked_loop_detector() -> Iterator[None]:
    """Fails a test in which code of a1agent blocks a running event loop (sleeps, reads files, waits on a lock)."""
    detector = BlockBuster(scanned_modules=["a1agent"])
    for function in detector.functions.values():
        # Importing on first use reads files, once; that is not what this looks for.
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
    # The sync facade waits for the background loop: that is what it is for.
    detector.functions["threading.Lock.acquire"].can_block_in("a1agent/facade.py", "run")
    # Asking a server for ids from outside of event loops waits for it; sequences ask without blocking.
    detector.functions["threading.Lock.acquire"].can_block_in("a1agent/backends/server_tokenizer.py", "tokenize")
    detector.activate()
    yield
    detector.deactivate()
