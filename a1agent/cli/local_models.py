"""GGUF files and checkpoints that other programs keep here. Only lists files, never one outside of their folders."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a1agent.backends.registry import address_of_file

__all__ = ["LocalModel", "find_local_models"]

_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$", re.IGNORECASE)
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")
_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A file: what it is called, which program keeps it, where, its bytes (of all its parts), and its address."""

    name: str
    keeper: str
    path: Path
    size: int
    address: str


def find_local_models() -> list[LocalModel]:
    """All that are found, by keeper and name."""
    cache = _hub_cache()
    found = [
        *_hub(cache),
        *_checkpoints(cache),
        *_ollama(_ollama_models()),
        *(m for root in _lm_studio() for m in _folder(root)),
    ]
    return sorted(found, key=lambda m: (m.keeper, m.name))


def _home() -> Path:
    """The user's folder; where there is none, as for some users of containers, one in which nothing lies."""
    return Path(os.path.expanduser("~"))


def _hub_cache() -> Path:
    """The hub client's cache, by the client's own rules."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if given := os.environ.get(name):
            return Path(os.path.expanduser(given))
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expanduser(home)) / "hub"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(os.path.expanduser(cache)) if cache else _home() / ".cache") / "huggingface" / "hub"


def _ollama_models() -> Path:
    given = os.environ.get("OLLAMA_MODELS")
    if given:
        return Path(os.path.expanduser(given))
    own = _home() / ".ollama" / "models"
    service = Path("/usr/share/ollama/.ollama/models")
    return own if own.is_dir() or not _is_dir(service) else service


def _lm_studio() -> list[Path]:
    pointer = _home() / ".lmstudio-home-pointer"
    homes = [_home() / ".lmstudio", _home() / ".cache" / "lm-studio"]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        homes.insert(0, Path(pointer.read_text(encoding="utf-8").strip()))
    return list(dict.fromkeys(home / "models" for home in homes))


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _hub(root: Path) -> Iterator[LocalModel]:
    seen: set[tuple[str, str]] = set()
    for file in _gguf_files(root, "models--*/snapshots/*/**/*"):
        folder = file.relative_to(root).parts
        repository = "/".join(folder[0].split("--")[1:])
        name = "/".join(folder[3:])
        if (repository, name) not in seen:  # the same file of an older revision
            seen.add((repository, name))
            path = f"{repository}:{name}"
            yield LocalModel(name=path, keeper="hub", path=file, size=_size(file), address=f"llama-cpp:{path}")


def _checkpoints(root: Path) -> Iterator[LocalModel]:
    """Language models in safetensors format, the newest snapshot of each repository."""
    newest: dict[str, Path] = {}
    found = [c for c in root.glob("models--*/snapshots/*/config.json") if _inside(c, root) and _writes_text(c)]
    for config in sorted(found, key=lambda file: file.stat().st_mtime):
        newest["/".join(config.relative_to(root).parts[0].split("--")[1:])] = config.parent
    for name, folder in newest.items():
        weights = [file for file in folder.glob("*.safetensors") if _inside(file, root)]
        if weights:
            size = sum(file.stat().st_size for file in weights)
            yield LocalModel(name=name, keeper="hub", path=folder, size=size, address=f"hf:{name}")


def _writes_text(config: Path) -> bool:
    try:
        if config.stat().st_size > _LARGEST_MANIFEST:
            return False
        kinds: list[str] = json.loads(config.read_text(encoding="utf-8"))["architectures"]
        return any(kind.endswith("ForCausalLM") for kind in kinds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _folder(root: Path) -> Iterator[LocalModel]:
    for file in _gguf_files(root, "**/*"):
        name = file.relative_to(root).as_posix()
        yield LocalModel(name=name, keeper="LM Studio", path=file, size=_size(file), address=address_of_file(file))


def _gguf_files(root: Path, pattern: str) -> Iterator[Path]:
    """Language models under `root`: no projectors, of files in parts the first, and nothing that lies elsewhere."""
    if not _is_dir(root):
        return
    for file in sorted(root.glob(pattern)):
        if file.suffix.lower() != ".gguf" or file.name.lower().startswith("mmproj"):
            continue
        part = _PART.search(file.name)
        if (part is None or int(part[1]) == 1) and _inside(file, root):
            yield file


def _inside(file: Path, root: Path) -> bool:
    try:
        return file.is_file() and file.resolve().is_relative_to(root.resolve())
    except OSError:
        return False


def _size(file: Path) -> int:
    match = _PART.search(file.name)
    if match is None:
        return file.stat().st_size
    stem = file.name[: match.start()]
    parts = [other for other in file.parent.iterdir() if _is_part(other.name, stem) and other.is_file()]
    return sum(part.stat().st_size for part in parts)


def _is_part(name: str, stem: str) -> bool:
    match = _PART.search(name)
    return match is not None and name[: match.start()] == stem


def _ollama(root: Path) -> Iterator[LocalModel]:
    manifests = root / "manifests"
    if not _is_dir(manifests):
        return
    for manifest in sorted(path for path in manifests.rglob("*") if _inside(path, manifests)):
        parts = manifest.relative_to(manifests).parts
        blob = _model_blob(manifest, root)
        if len(parts) >= 3 and blob is not None:
            family = "/".join(part for part in parts[1:-1] if part != "library")
            yield LocalModel(
                name=f"{family}:{parts[-1]}",
                keeper="Ollama",
                path=blob,
                size=blob.stat().st_size,
                address=address_of_file(blob),
            )


def _model_blob(manifest: Path, root: Path) -> Path | None:
    """The file that holds the weights of a manifest; None where there is none."""
    try:
        if manifest.stat().st_size > _LARGEST_MANIFEST:
            return None
        layers: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        digests = [str(layer["digest"]) for layer in layers if layer.get("mediaType") == _MODEL_LAYER]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    for digest in digests:
        if _DIGEST.fullmatch(digest):  # never a path out of the folder
            blob = root / "blobs" / digest.replace(":", "-")
            if _inside(blob, root):
                return blob
    return None
