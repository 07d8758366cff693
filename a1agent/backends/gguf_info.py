"""Reads the header of a GGUF file: metadata, tensor shapes, fingerprints. No third-party package, no tensor data.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import hashlib
import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from a1agent.errors import ModelLoadError, ModelNotFound

__all__ = ["GGUFInfo", "Tensor", "parts_of", "read_gguf", "sample"]

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_PLAIN = (0, 1, *range(24, 29), 30)  # types of tensors: f32, f16, integers and f64, bf16
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_UNUSED = 5  # the token type of ids that only pad the vocabulary to a round number
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
# What decides which ids a text gets. Special ids and BOS do not: steps are tokenized without them.
_TOKENIZER_KEYS = ("model", "pre", "scores", "merges", "add_space_prefix", "remove_extra_whitespaces")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, shape (fastest dimension first) and type (GGML's number of it) of a tensor."""

    name: str
    shape: tuple[int, ...]
    kind: int


@dataclass(frozen=True, slots=True)
class GGUFInfo:
    """What the header says. `files`: all parts of a split model, in order; `size`: their bytes."""

    path: Path
    files: tuple[Path, ...]
    size: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    header: bytes

    @property
    def architecture(self) -> str:
        """`general.architecture`, the prefix of the model's own keys."""
        return str(self.metadata.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture: `get("block_count")` reads `llama.block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def numbers(self, key: str, default: int = 0) -> list[int]:
        """As `get`, of a number, or of one for each layer. Raises `ModelLoadError` for anything else."""
        value = self.get(key, default)
        found = cast("list[Any]", value if isinstance(value, list) else [value])
        if not all(isinstance(each, int) for each in found):
            raise ModelLoadError(f"{key} in the header of {self.path.name} is no number", "download the file again")
        return found

    def largest(self, key: str, default: int = 0) -> int:
        """As `numbers`: the only one, or the largest."""
        return max(self.numbers(key, default), default=0)

    @property
    def cell_values(self) -> tuple[int, int]:
        """Numbers that a KV cache keeps of a token, over all layers: those of its keys, and those of its values."""
        heads = max(1, self.largest("attention.head_count", 1))
        kv_heads = self.numbers("attention.head_count_kv", heads)
        count = sum(kv_heads) if len(kv_heads) > 1 else sum(kv_heads) * self.largest("block_count")
        width = self.largest("embedding_length") // heads
        key, value = (self.largest(f"attention.{part}_length", width) for part in ("key", "value"))
        return count * key, count * value

    @property
    def parameters(self) -> int:
        """Weights of this file."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def quantized(self) -> bool:
        """Whether any tensor has fewer bits than floats do."""
        return any(tensor.kind not in _PLAIN for tensor in self.tensors)

    def fingerprint(self) -> str:
        """Digest of the header, and of sizes and samples of the files: fast at any size."""
        digest = hashlib.blake2b(self.header, digest_size=16)
        for path in self.files:
            digest.update(sample(path))
        return digest.hexdigest()

    def tokenizer_fingerprint(self) -> str:
        """Digest of what decides the ids of a text; ids that only pad the vocabulary at its end do not count."""
        digest = hashlib.blake2b(digest_size=16)
        tokens: list[bytes] = self.metadata.get("tokenizer.ggml.tokens") or []
        types: list[int] = self.metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
        count = len(tokens)
        while types[count - 1 : count] == [_UNUSED]:
            count -= 1
        digest.update(b"\0".join(tokens[:count]) + repr(types[:count]).encode())
        for key in _TOKENIZER_KEYS:
            value = self.metadata.get(f"tokenizer.ggml.{key}")
            digest.update(repr((key, value[:count] if key == "scores" and value else value)).encode())
        return digest.hexdigest()


def read_gguf(path: str | Path) -> GGUFInfo:
    """The header of a GGUF file.

    Raises `ModelNotFound` when there is no such file or a part of a split model is missing, `ModelLoadError` when it is
    not GGUF or was cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFound(f"there is no file {str(path)!r}", "check the path of the model")
    files = tuple(path.with_name(name) for name in parts_of(path.name))
    for part in files:
        if not part.is_file():
            raise ModelNotFound(f"the part {part.name} of a split model is missing", "download all parts")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            metadata, tensors, header = _Reader(data).read()
    except (ValueError, OSError) as error:
        raise ModelLoadError(f"{path.name} is not a GGUF file: {error}", "choose a .gguf file") from error
    except (struct.error, IndexError, KeyError, MemoryError, OverflowError, RecursionError) as error:
        raise ModelLoadError(f"the header of {path.name} is cut short or damaged", "download the file again") from error
    size = sum(part.stat().st_size for part in files)
    return GGUFInfo(path, files, size, metadata, tensors, header)


def sample(path: Path) -> bytes:
    """The size of a file, and 64 samples of 4 KiB spread evenly over it: what tells weights apart."""
    size = path.stat().st_size
    parts = [struct.pack("<Q", size)]
    with path.open("rb") as file:
        for i in range(_SAMPLES):
            file.seek(max(0, (size - _SAMPLE_BYTES) * i // (_SAMPLES - 1)))
            parts.append(file.read(_SAMPLE_BYTES))
    return b"".join(parts)


def parts_of(name: str) -> list[str]:
    """The names of all files of a model by the name of one: those of a model that was split, in order, or its own."""
    match = _SPLIT.search(name)
    if match is None:
        return [name]
    return [f"{name[: match.start()]}-{i:05}-of-{match[1]}.gguf" for i in range(1, int(match[1]) + 1)]


class _Reader:
    """Walks the bytes of a header."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> tuple[dict[str, Any], tuple[Tensor, ...], bytes]:
        magic, version, tensors, pairs = self._data[:4], *self._unpack_at("<IQQ", 4)
        if magic != b"GGUF":
            raise ValueError("it does not begin with the letters GGUF")
        if version not in (2, 3):
            raise ValueError(f"version {version} of the format is not known")
        self._at = 24
        metadata = {self._string().decode(errors="replace"): self._value(self._scalar("<I")) for _ in range(pairs)}
        found = tuple(self._tensor() for _ in range(tensors))
        return metadata, found, self._data[: self._at]

    def _tensor(self) -> Tensor:
        name = self._string().decode(errors="replace")
        shape = tuple(self._scalar("<Q") for _ in range(self._scalar("<I")))
        kind = self._scalar("<I")
        self._at += 8  # offset
        return Tensor(name, shape, kind)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string().decode(errors="replace")
        if kind == _ARRAY:
            inner, count = self._scalar("<I"), self._scalar("<Q")
            return self._array(inner, count)
        return self._scalar(_SCALARS[kind])

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        if kind == _ARRAY:
            return [self._value(kind) for _ in range(count)]
        values = self._unpack_at(f"<{count}{_SCALARS[kind][1]}", self._at)
        self._at += struct.calcsize(f"<{count}{_SCALARS[kind][1]}")
        return list(values)

    def _string(self) -> bytes:
        length = self._scalar("<Q")
        end = self._at + length
        if end > len(self._data):
            raise IndexError("a string runs over the end of the file")
        text = self._data[self._at : end]
        self._at = end
        return text

    def _scalar(self, form: str) -> Any:
        value = self._unpack_at(form, self._at)[0]
        self._at += struct.calcsize(form)
        return value

    def _unpack_at(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(form, self._data, at)
