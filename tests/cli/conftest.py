"""`a1` in process, with models that are scripts."""

import os

import pytest
from typer.testing import CliRunner

from a1agent.cli.app import build


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("A1_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("A1_CALIBRATION", "none")


@pytest.fixture
def a1():
    """Runs a command; scripted models stand in for the embedded pair."""

    def run(*words: str, input: str | bytes | None = None, env: dict[str, str] | None = None):
        models = {"A1_DRAFT": "scripted:sums", "A1_TARGET": "scripted:sums"}
        return CliRunner().invoke(build(), list(words), input=input, env=models | (env or {}))

    return run
