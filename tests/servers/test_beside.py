"""How servers are started that are installed beside the project."""

import sys
import tempfile
from pathlib import Path

import pytest

from tests.servers.beside import ready

SERVER = """
import http.server, sys, tempfile
tempfile.mkstemp(prefix="left-behind")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_what_a_server_leaves_behind_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with ready([sys.executable, "-c", SERVER], "/", tmp_path / "log"):
        assert list(tmp_path.rglob("left-behind*"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]
