"""Tests run in asyncio, and never touch what the user who runs them keeps."""

from pathlib import Path

import pytest

WINDOWS_FOLDERS = ("WIN_PD_OVERRIDE_APPDATA", "WIN_PD_OVERRIDE_LOCAL_APPDATA")
"""Where platformdirs looks before it asks Windows, which does not go by variables."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def user_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME", "USERPROFILE", *WINDOWS_FOLDERS):
        monkeypatch.setenv(name, str(tmp_path))
