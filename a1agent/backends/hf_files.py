"""The files of a transformers model: where they are, whether they are whole, what they say before they are loaded."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from a1agent.backends.gguf_info import GGUFInfo, read_gguf, sample
from a1agent.backends.hub import bytes_ahead, find_gguf, find_repository, is_gguf, is_repository, weights_ahead
from a1agent.errors import ModelLoadError, ModelNotFound

__all__ = ["ModelFiles", "ModelShape", "ahead", "locate", "read_files", "read_json", "reason_of", "rope_kinds"]

_WANTED = ["*.json", "*.model", "*.txt", "*.jinja", "tokenizer*"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LARGEST_HEADER = 100 << 20
_LONG_ROPE = ("longrope", "su")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Extents of a model. `cell_values`: numbers that the KV cache keeps of a token, over all layers.

    `context`: tokens it was trained with, 0 when unknown. `rope_limit`: beyond it positions depend on other texts;
    `short_context`: of two sets of rotary frequencies the first is for texts up to so long; each 0 without such.
    """

    parameters: int
    stored_bytes: int
    quantized: bool
    cell_values: int
    vocabulary: int
    width: int
    inner: int
    context: int
    rope_limit: int = 0
    short_context: int = 0


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A checkpoint's folder, or a GGUF file. `config`: what config.json holds, empty for a GGUF file."""

    path: Path
    weights: tuple[Path, ...]
    config: Json
    shape: ModelShape
    gguf: GGUFInfo | None = None

    @property
    def name(self) -> str:
        """What to call the model."""
        if self.gguf is not None:
            return str(self.gguf.metadata.get("general.name") or self.path.stem)
        return _repository(self.path) or self.path.name

    def completed(self, text: Json) -> ModelFiles:
        """With the shape that a full configuration of the text part tells."""
        return replace(self, shape=_shape_of(text, self.weights, quantized=self.shape.quantized))

    def fingerprint(self) -> str:
        """Digest of the configuration, and of sizes and samples of the weights: fast at any size."""
        if self.gguf is not None:
            return self.gguf.fingerprint()
        digest = hashlib.blake2b(json.dumps(self.config, sort_keys=True).encode(), digest_size=16)
        for path in self.weights:
            digest.update(path.name.encode() + sample(path))
        return digest.hexdigest()


def locate(path: str, revision: str = "", code: bool = False) -> Path:
    """The folder or file of a path or hub name, fetched by the hub's client; `code`: Python files too.

    Raises `ModelNotFound`, `MissingExtra`.
    """
    found = Path(os.path.expanduser(path))
    if found.exists():
        return found
    if is_gguf(path):
        return find_gguf(path, revision)
    if not is_repository(path):
        raise ModelNotFound(f"there is no folder or file {path!r}", "check the path of the model")
    return find_repository(path, _wanted(code), revision)


def ahead(path: str, revision: str = "", code: bool = False) -> tuple[int, Json]:
    """Bytes of weights that `locate` would fetch, and what config.json holds, empty for a GGUF file. Raises as it."""
    if Path(os.path.expanduser(path)).exists():
        return 0, {}
    if is_gguf(path):
        return bytes_ahead(path, revision), {}
    if not is_repository(path):
        return 0, {}
    folder, count = weights_ahead(path, _wanted(code), revision)
    return count, read_json(folder / "config.json") if (folder / "config.json").is_file() else {}


def _wanted(code: bool) -> list[str]:
    return [*_WANTED, *(["*.py"] if code else [])]


def read_files(path: Path) -> ModelFiles:
    """What a checkpoint says of itself. Raises `ModelNotFound`, `ModelLoadError` when files are missing or damaged."""
    if path.is_file():
        info = read_gguf(path)
        return ModelFiles(path, info.files, {}, _shape_of_gguf(info), info)
    if not (path / "config.json").is_file() and (path / "adapter_config.json").is_file():
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        what = f"{path} holds an adapter, of the model {base}"
        raise ModelLoadError(what, "name that model, with ?adapter= and this path")
    config = read_json(path / "config.json")
    weights = _weights(path)
    text: Json = config.get("text_config") or config
    return ModelFiles(path, weights, config, _shape_of(text, weights, quantized="quantization_config" in config))


def reason_of(error: Exception) -> str:
    """The first line of what a library says, and the second where the first only announces it; not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(" ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]), 400, placeholder=" ...")


def _repository(path: Path) -> str:
    """The hub name of a folder in the hub's cache."""
    for part in path.parts:
        if part.startswith("models--"):
            return "/".join(part.split("--")[1:])
    return ""


def read_json(path: Path) -> Json:
    """The object of a JSON file. Raises `ModelNotFound` and `ModelLoadError`."""
    if not path.is_file():
        raise ModelNotFound(f"{path.parent} has no {path.name}", "name the folder of a transformers checkpoint")
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path.name} of {path.parent.name} is damaged: {error}", "download it again") from error
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path.name} of {path.parent.name} is no JSON object", "download it again")
    return cast("Json", found)


def _weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint, each whole."""
    index = folder / "model.safetensors.index.json"
    parts: Any = read_json(index).get("weight_map", {}) if index.is_file() else {"all": "model.safetensors"}
    try:
        names = sorted({str(name) for name in parts.values()})
    except AttributeError as error:
        raise ModelLoadError(f"{index.name} of {folder.name} is damaged", "download it again") from error
    files = tuple(folder / name for name in names)
    missing = [path.name for path in files if not path.is_file()]
    if missing and any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        what = f"{folder.name} has its weights in pickle files, which may run any code when read"
        raise ModelLoadError(what, "choose a checkpoint in safetensors format, or convert it")
    if missing or not files:
        raise ModelNotFound(f"{folder.name} has no file {', '.join(missing) or 'of weights'}", "download all its files")
    return files


def _tensors(path: Path) -> list[Json]:
    """The header of a safetensors file: type, shape and place of each tensor. Raises `ModelLoadError`.

    Format: github.com/huggingface/safetensors
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 0 < length <= min(size, _LARGEST_HEADER):
                raise ValueError("its header has no possible length")
            header: Json = json.loads(file.read(length))
        tensors = [cast("Json", value) for name, value in header.items() if name != "__metadata__"]
        end = 8 + length + max((int(each["data_offsets"][1]) for each in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelLoadError(f"{path.name} is damaged: {error}", "download it again") from error
    if size != end:
        raise ModelLoadError(f"{path.name} has {size} bytes, its header asks for {end}", "download it again")
    return tensors


def _shape_of(text: Json, weights: tuple[Path, ...], *, quantized: bool) -> ModelShape:
    tensors = [tensor for path in weights for tensor in _tensors(path)]
    width = _first(text, "hidden_size", "n_embd", "d_model")
    return ModelShape(
        parameters=sum(math.prod(tensor["shape"]) for tensor in tensors),
        stored_bytes=sum(path.stat().st_size for path in weights),
        quantized=quantized,
        cell_values=_cell_values(text, width),
        vocabulary=_first(text, "vocab_size"),
        width=width,
        inner=_first(text, "intermediate_size", "ffn_dim", "n_inner") or 4 * width,
        context=_first(text, "max_position_embeddings", "n_positions", "max_seq_len"),
        rope_limit=_rope_bound(text, ("dynamic",)),
        short_context=_rope_bound(text, _LONG_ROPE),
    )


def _cell_values(text: Json, width: int) -> int:
    """Numbers kept of a token. Latent attention is kept spread out: keys of two parts, values of their own width."""
    heads = _first(text, "num_attention_heads", "n_head", "num_heads", "n_heads") or 1
    layers = _first(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    kv_heads = _first(text, "num_key_value_heads", "num_kv_heads") or heads
    latent = _first(text, "qk_nope_head_dim") + _first(text, "qk_rope_head_dim")
    key = latent or _first(text, "head_dim") or width // heads
    return layers * kv_heads * (key + (_first(text, "v_head_dim") or key))


def _shape_of_gguf(info: GGUFInfo) -> ModelShape:
    return ModelShape(
        parameters=info.parameters,
        stored_bytes=info.size,
        quantized=False,  # transformers spreads the weights out
        cell_values=sum(info.cell_values),
        vocabulary=len(info.metadata.get("tokenizer.ggml.tokens") or ()),
        width=info.largest("embedding_length"),
        inner=info.largest("feed_forward_length"),
        context=info.largest("context_length"),
    )


def _rope_bound(text: Json, names: tuple[str, ...]) -> int:
    """Up to how many tokens rotary embeddings of some kinds stay as they are; 0 for a model without such."""
    for kind in rope_kinds(text.get("rope_parameters") or text.get("rope_scaling") or {}):
        if (kind.get("rope_type") or kind.get("type")) in names:
            original = kind.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
            return int(original or text.get("max_position_embeddings") or 0)
    return 0


def rope_kinds(rope: Json) -> list[Json]:
    """What a configuration says of rotary embeddings: of all layers, and of each kind of layers."""
    return [rope, *(cast("Json", each) for each in rope.values() if isinstance(each, dict))]


def _first(config: Json, *names: str) -> int:
    """The first of some numbers that is there; models disagree on what to call them."""
    return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 0)
