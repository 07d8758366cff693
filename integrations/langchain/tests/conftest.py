"""What the tests stand on: calibration of their own, and a detector of blocked loops."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from langchain_a1 import ChatA1

WINDOWS_FOLDERS = ("WIN_PD_OVERRIDE_APPDATA", "WIN_PD_OVERRIDE_LOCAL_APPDATA")
"""Where platformdirs looks before it asks Windows, which does not go by variables."""


@pytest.fixture(autouse=True)
def user_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calibration of a test never touches that of the user who runs it."""
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME", "USERPROFILE", *WINDOWS_FOLDERS):
        monkeypatch.setenv(name, str(home))
    for name in ("A1_CALIBRATION", "A1_CONFIG", "A1_DRAFT", "A1_TARGET", "LANGSMITH_TRACING"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(autouse=True)
def blocked_loop_detector() -> Iterator[None]:
    """Fails a test in which our code blocks a running event loop."""
    detector = BlockBuster(scanned_modules=["a1agent", "langchain_a1"])
    for function in detector.functions.values():
        function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
    # The sync facade waits for the background loop: that is what it is for.
    detector.functions["threading.Lock.acquire"].can_block_in("a1agent/facade.py", "run")
    detector.activate()
    yield
    detector.deactivate()


@pytest.fixture
def obedient() -> ChatA1:
    """A chat model that does what it is told, through a template with tools."""
    return ChatA1(
        draft="scripted:obedient", target="scripted:obedient", calibration=None, seed=1, chains=4, temperature=0.5
    )


@pytest.fixture
def embedded() -> ChatA1:
    """The models that ship with a1agent."""
    return ChatA1(calibration=None, seed=1, chains=4)
