"""Files of the model hub, through its client and the client's cache."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from a1agent.backends.gguf_info import parts_of
from a1agent.errors import MissingExtra, ModelNotFound

__all__ = ["find_gguf", "find_repository", "find_tokenizer", "is_gguf", "is_repository"]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_GGUF = re.compile(rf"({_REPOSITORY.pattern}):(.+\.gguf)", re.I)
_BESIDE = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja")


def is_repository(path: str) -> bool:
    """Whether a path that is no file may be a repository: ORG/REPO."""
    return _REPOSITORY.fullmatch(path) is not None and path[0] not in ".~"


def is_gguf(path: str) -> bool:
    """Whether a path that is no file may be a GGUF file of a repository: ORG/REPO:FILE.gguf."""
    return _GGUF.fullmatch(path) is not None


def find_gguf(path: str, revision: str = "", *, local: bool = False, extra: str = "transformers") -> Path:
    """The file that ORG/REPO:FILE.gguf names, its other parts fetched too; `local`: from the cache only.

    `extra`: which one to name where the hub's client is not installed. Raises `ModelNotFound`, `MissingExtra`.
    """
    name = _GGUF.fullmatch(path)
    if name is None:
        raise ModelNotFound(f"{path!r} names no file of the hub", "write ORG/REPO:FILE.gguf")
    repository, file = name[1], name[2]
    with _asking(f"file {file!r} of {repository!r}", revision, extra) as hub:
        files = [hub.hf_hub_download(repository, part, **_how(revision, local)) for part in parts_of(file)]
        return Path(files[0])


def find_repository(name: str, patterns: list[str], revision: str = "", *, local: bool = False) -> Path:
    """The folder of ORG/REPO with the files that match `patterns`. Raises as `find_gguf`."""
    with _asking(f"model {name!r}", revision) as hub:
        return Path(hub.snapshot_download(name, allow_patterns=patterns, **_how(revision, local)))


def find_tokenizer(name: str) -> Path:
    """The `tokenizer.json` of ORG/REPO, with the files beside it that it has. Raises as `find_gguf`."""
    with _asking(f"tokenizer of {name!r}", "") as hub:
        file = Path(hub.hf_hub_download(name, "tokenizer.json"))
        for beside in _BESIDE:
            with contextlib.suppress(Exception):  # not every model has all of them
                hub.hf_hub_download(name, beside)
        return file


def _how(revision: str, local: bool) -> dict[str, Any]:
    return {"revision": revision or None, "local_files_only": local}


@contextlib.contextmanager
def _asking(what: str, revision: str, extra: str = "transformers") -> Generator[Any]:
    """The hub's client; its errors in our words."""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the {what} of the hub", extra) from error
    try:
        yield hub
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        at = f" at {revision!r}" if revision else ""
        hint = "check the name; without a network it must be in the hub's cache, or name a file or folder"
        raise ModelNotFound(f"the hub gave no {what}{at}: {reason}", hint) from error
