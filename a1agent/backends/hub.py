"""Files of the model hub, through its client and the client's cache."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a1agent.backends.gguf_info import parts_of
from a1agent.errors import MissingExtra, ModelError, ModelNotFound

__all__ = [
    "REVISION",
    "Fetched",
    "bytes_ahead",
    "find_gguf",
    "find_repository",
    "find_tokenizer",
    "following",
    "is_gguf",
    "is_repository",
    "weights_ahead",
]

REVISION: tuple[type, str] = (str, "branch, tag or commit of a hub repository")

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_GGUF = re.compile(rf"({_REPOSITORY.pattern}):(.+\.gguf)", re.I)
_BESIDE = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja")
_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_FOLDERS = "*/*"
"""What lies in folders of a repository: weights in other formats and precisions, which may be as large again."""
_RECEIVED = "transfer"
"""How the client calls bars of what comes over the network, beside those of what is written."""
_MOST_LISTED = 12
_LOG_IN = "`hf auth login`, or a token in HF_TOKEN"


@dataclass(frozen=True, slots=True)
class Fetched:
    """How far a download has come: of what, bytes so far, and bytes in all of the files that were begun."""

    name: str
    done: int
    total: int


Follow = Callable[[Fetched], None]
_followers: list[Follow] = []


@contextlib.contextmanager
def following(follow: Follow) -> Generator[None]:
    """Downloads of this process are told to `follow` meanwhile, from their threads, and show no bars of their own.

    Of several that follow, the last alone is told.
    """
    _followers.append(follow)
    try:
        yield
    finally:
        _followers.remove(follow)


def is_repository(path: str) -> bool:
    """Whether a path that is no file may be a repository: ORG/REPO."""
    return _REPOSITORY.fullmatch(path) is not None and path[0] not in ".~" and not path.lower().endswith(".gguf")


def is_gguf(path: str) -> bool:
    """Whether a path that is no file may be a GGUF file of a repository: ORG/REPO:FILE.gguf."""
    return _GGUF.fullmatch(path) is not None


def find_gguf(path: str, revision: str = "", extra: str = "transformers") -> Path:
    """The file that ORG/REPO:FILE.gguf names, its other parts fetched too.

    `extra`: which one to name where the hub's client is not installed. Raises `ModelNotFound`, `MissingExtra`.
    """
    repository, file = _named(path)
    with _asking(repository, f"file {file!r} of {repository!r}", revision, extra) as hub:
        if not file:
            what = f"there is no file {path!r}, and of a repository of the hub one file must be named"
            raise ModelNotFound(what, _listed(hub, repository, revision, "write ORG/REPO:FILE.gguf"))
        how = _how(revision) | _bar(path)
        files = [hub.hf_hub_download(repository, part, **how) for part in parts_of(file)]
        return Path(files[0])


def _named(path: str) -> tuple[str, str]:
    """Repository and file of ORG/REPO:FILE.gguf; no file where it is no such name."""
    name = _GGUF.fullmatch(path)
    return (name[1], name[2]) if name else (path, "")


def bytes_ahead(path: str, revision: str = "", extra: str = "transformers") -> int:
    """Bytes that `find_gguf` would fetch, 0 where all is in the cache. Raises as `find_gguf`."""
    repository, file = _named(path)
    with _asking(repository, f"file {file!r} of {repository!r}", revision, extra) as hub:
        with contextlib.suppress(hub.errors.LocalEntryNotFoundError):
            for part in parts_of(file):
                hub.hf_hub_download(repository, part, **_how(revision, local=True))
            return 0
        found = [hub.hf_hub_download(repository, part, dry_run=True, **_how(revision)) for part in parts_of(file)]
        return _to_fetch(found)


def find_repository(name: str, patterns: list[str], revision: str = "") -> Path:
    """The folder of ORG/REPO with its weights and the files that match `patterns`. Raises as `find_gguf`.

    Of its weights those that are loaded: a repository may hold them in other formats beside.
    """
    with _asking(name, f"model {name!r}", revision) as hub:
        folder = _described(hub, name, patterns, revision)
        wanted, how = [*patterns, *_weights(folder)], _how(revision) | _bar(name)
        folder = Path(hub.snapshot_download(name, allow_patterns=wanted, ignore_patterns=_FOLDERS, **how))
        _expect(hub, name, revision, folder, "*.safetensors", "no weights in safetensors format")
        return folder


def weights_ahead(name: str, patterns: list[str], revision: str = "") -> tuple[Path, int]:
    """The folder of ORG/REPO with the files that match `patterns`, and bytes of its weights that are not in the cache.

    Raises as `find_gguf`.
    """
    with _asking(name, f"model {name!r}", revision) as hub:
        with contextlib.suppress(hub.errors.LocalEntryNotFoundError):
            folder = Path(hub.snapshot_download(name, **_how(revision, local=True)))
            if _is_whole(folder):
                return folder, 0
        folder = _described(hub, name, patterns, revision)
        wanted, how = _weights(folder), _how(revision) | _bar(name)
        found = hub.snapshot_download(name, allow_patterns=wanted, ignore_patterns=_FOLDERS, dry_run=True, **how)
        return folder, _to_fetch(found)


def _described(hub: Any, name: str, patterns: list[str], revision: str) -> Path:
    """The folder of a repository with the files that match: what a checkpoint says of itself, but for its weights."""
    how = _how(revision) | _bar(name)
    folder = Path(hub.snapshot_download(name, allow_patterns=patterns, ignore_patterns=_FOLDERS, **how))
    _expect(hub, name, revision, folder, "*config.json", "no config.json")
    return folder


def _to_fetch(files: list[Any]) -> int:
    """Bytes, of what the client tells of files instead of fetching them."""
    return sum(file.file_size or 0 for file in files if file.will_download)


def find_tokenizer(name: str) -> Path:
    """The `tokenizer.json` of ORG/REPO, with the files beside it that it has. Raises as `find_gguf`."""
    with _asking(name, f"tokenizer of {name!r}", "") as hub:
        file = Path(hub.hf_hub_download(name, "tokenizer.json", **_bar(name)))
        for beside in _BESIDE:
            with contextlib.suppress(Exception):  # not every model has all of them
                hub.hf_hub_download(name, beside)
        return file


def _expect(hub: Any, name: str, revision: str, folder: Path, pattern: str, missing: str) -> None:
    if not any(folder.glob(pattern)):
        what = f"{name!r} has {missing}: it is no checkpoint that can be loaded"
        raise ModelNotFound(what, _listed(hub, name, revision, "with a network all its files are fetched"))


def _weights(folder: Path) -> list[str]:
    """The files of weights that a checkpoint's index names, or what they are called where there is none."""
    try:
        return sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # what is damaged is told of when it is read
        return [*_WEIGHTS]


def _is_whole(folder: Path) -> bool:
    """Whether the cache has the weights of a checkpoint: a download that was cut off leaves a part of them."""
    there = [(folder / name).is_file() for name in _weights(folder)]
    return all(there) if (folder / _INDEX).is_file() else any(there)


def _how(revision: str, local: bool = False) -> dict[str, Any]:
    return {"revision": revision or None, "local_files_only": local}


def _bar(name: str) -> dict[str, Any]:
    """The bar that tells whoever follows; nothing: the client shows its own."""
    if not _followers:
        return {}
    base: Any = importlib.import_module("huggingface_hub.utils").tqdm
    tally = _Tally(name)

    class Bar(base):
        def __init__(self, *args: Any, **given: Any) -> None:
            base.__init__(self, *args, **(given | {"disable": True}))
            self._kind = str(given.get("name")).rpartition(".")[2] if given.get("unit") == "B" else ""
            tally.begin(self, self._kind, int(given.get("initial", 0)))

        def update(self, n: float | None = 1) -> None:
            tally.add(self._kind, int(n or 0))

    return {"tqdm_class": Bar}


@dataclass(slots=True)
class _Tally:
    """What the client's bars say of one download: bytes written, and where they come in pieces, bytes received.

    Pieces are written when many are there, and may be received packed: the larger of both is how far it is.
    """

    name: str
    written: int = 0
    received: int = 0
    bar: Any = None

    def begin(self, bar: Any, kind: str, done: int) -> None:
        """A bar of some kind, "" for one that counts no bytes."""
        if kind and kind != _RECEIVED:
            self.bar, self.written, self.received = bar, done, 0
        self.add(kind, 0)

    def add(self, kind: str, count: int) -> None:
        """More bytes of a kind."""
        if not kind:
            return
        if kind == _RECEIVED:
            self.received += count
        else:
            self.written += count
        total = int(getattr(self.bar, "total", 0) or 0)
        if _followers and total:
            _followers[-1](Fetched(self.name, max(self.written, min(self.received, total - 1)), total))


@contextlib.contextmanager
def _asking(repository: str, what: str, revision: str, extra: str = "transformers") -> Generator[Any]:
    """The hub's client; its errors in our words."""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.errors")
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the {what} of the hub", extra) from error
    try:
        yield hub
    except ModelError:
        raise
    except Exception as error:
        raise _refused(hub, error, repository, what, revision) from error


def _refused(hub: Any, error: Exception, repository: str, what: str, revision: str) -> ModelNotFound:
    """What the hub's client raised. Gated repositories are a kind of missing ones there, and so are missing files."""
    kinds = hub.errors
    reason = str(error).strip().partition("\n")[0]
    at = f" at {revision!r}" if revision else ""
    if isinstance(error, kinds.GatedRepoError):
        hint = f"accept them on its page, then {_LOG_IN}"
        return ModelNotFound(f"the hub gives {repository!r} only to those who accepted its terms", hint)
    if isinstance(error, kinds.RepositoryNotFoundError):
        hint = f"check the name; for a private one {_LOG_IN}"
        return ModelNotFound(f"the hub has no repository {repository!r}, or it is private", hint)
    if isinstance(error, kinds.RevisionNotFoundError):
        return ModelNotFound(f"{repository!r} has no revision {revision!r}", "name a branch, a tag or a commit")
    if isinstance(error, kinds.LocalEntryNotFoundError):
        hint = "check the network, and whether HF_HUB_OFFLINE is set; or name a file or folder"
        return ModelNotFound(f"the hub's cache holds no {what}{at}, and the hub was not reached", hint)
    if isinstance(error, kinds.EntryNotFoundError):
        return ModelNotFound(f"the hub has no {what}{at}", _listed(hub, repository, revision, "check the name"))
    if isinstance(error, OSError) and error.errno:
        hint = f"the hub's cache is {hub.constants.HF_HUB_CACHE}; HF_HOME names another folder"
        return ModelNotFound(f"the {what} cannot be kept: {error.strerror}", hint)
    hint = "check the name; without a network it must be in the hub's cache, or name a file or folder"
    return ModelNotFound(f"the hub gave no {what}{at}: {reason}", hint)


def _listed(hub: Any, repository: str, revision: str, otherwise: str) -> str:
    """What to name of a repository: the GGUF files that it has; `otherwise` where that is not to be known."""
    try:
        files: list[str] = hub.list_repo_files(repository, revision=revision or None)
    except Exception:  # an error is under way: this only adds to it
        return otherwise
    found = sorted(file for file in files if file.lower().endswith(".gguf") and parts_of(file)[0] == file)
    if not found:
        return "it has no GGUF files either"
    more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    return f"GGUF files of it are named as {repository}:FILE.gguf; it has {', '.join(found[:_MOST_LISTED])}{more}"
