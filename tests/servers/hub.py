"""A model hub over a folder: what its client asks for when it fetches files of models and of data sets.

Repositories lie in the folder as `models/ORG/NAME` and `datasets/ORG/NAME`, each with one commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["COMMIT", "Hub", "serving"]

COMMIT = "0123456789abcdef" * 2 + "01234567"
_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/(?P<what>\w[\w-]*)/(?P<rest>.+)")
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_CHUNK = 1 << 20
_REVISIONS = {"main", "v2", COMMIT}


@dataclass
class Hub:
    """What the hub has and what was asked of it.

    `gated`: repositories that want a token. `broken`: how many bytes of a file go out before the connection breaks,
    once each. `pause_s`: before each megabyte. `sizes`: of files that are said to be larger than they are.
    """

    folder: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    pause_s: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)

    def files(self, kind: str, name: str) -> dict[str, Path]:
        """The files of a repository by their names in it."""
        top = self.folder / kind / name
        return {path.relative_to(top).as_posix(): path for path in sorted(top.rglob("*")) if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if api := _API.fullmatch(path):
            self._tell(api["kind"], api["name"], api["what"], api["rest"])
        elif file := _FILE.fullmatch(path):
            self._fetch("datasets" if file["kind"] else "models", file["name"], file["revision"], file["file"])
        else:
            self._refuse(404, "RepoNotFound", "Repository not found")

    def _found(self, kind: str, name: str, revision: str) -> dict[str, Path] | None:
        files = self.hub.files(kind, name)
        if not files:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif name in self.hub.gated and "Authorization" not in self.headers:
            self._refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        elif revision not in _REVISIONS:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return files
        return None

    def _tell(self, kind: str, name: str, what: str, rest: str) -> None:
        revision = rest.partition("/")[0]
        files = self._found(kind, name, revision)
        if files is None:
            return
        if what == "revision":
            known = {"_id": "0", "id": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
            self._send({**known, "siblings": [{"rfilename": file} for file in files]})
            return
        every = files | {folder.as_posix(): None for file in files for folder in Path(file).parents[:-1]}
        if what == "tree":
            deep = "recursive=true" in self.path.lower()
            under = Path(rest.partition("/")[2])
            names = [name for name in every if under in (Path(name).parents if deep else [Path(name).parent])]
        else:  # paths-info
            names = [name for name in parse_qs(self._body).get("paths", []) if name in every]
        self._send([_entry(name, every[name]) for name in names])

    def _fetch(self, kind: str, name: str, revision: str, file: str) -> None:
        files = self._found(kind, name, revision)
        if files is None:
            return
        if file not in files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        content = files[file].read_bytes()
        start = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(self.hub.sizes.get(file, len(content) - start)))
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            part = content[start : start + self.hub.broken.pop(file, len(content))]
            for at in range(0, len(part), _CHUNK):
                time.sleep(self.hub.pause_s)
                self.wfile.write(part[at : at + _CHUNK])
            self.hub.sent[file] = self.hub.sent.get(file, 0) + len(part)
            self.close_connection = len(part) < len(content) - start

    def _send(self, payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _entry(name: str, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {"type": "directory", "oid": COMMIT, "size": 0, "path": name}
    content = path.read_bytes()
    return {"type": "file", "oid": _oid(content), "size": len(content), "path": name}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle of a file are no error here."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at an address of its own, `url`."""
    with _Server(("127.0.0.1", 0), partial(_Handler, hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
