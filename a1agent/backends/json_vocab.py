"""The vocabulary of a `tokenizer.json`, through the `tokenizers` package: text to ids and back."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import threading
from pathlib import Path
from typing import Any, cast

from a1agent.backends.chat_template import Piece
from a1agent.backends.sentinel import find_sentinel
from a1agent.backends.vocabulary import byte_letters
from a1agent.errors import MissingExtra, ModelLoadError

__all__ = ["JsonVocabulary"]

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class JsonVocabulary:
    """Ids of a `tokenizer.json` and the configuration files beside it. Safe to use from several threads."""

    def __init__(self, file: Path) -> None:
        try:
            library: Any = importlib.import_module("tokenizers")
        except ModuleNotFoundError as error:
            raise MissingExtra(f"the tokenizer {file.name}", "transformers") from error
        try:
            self._data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            self._tokenizer: Any = library.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises bare Exception
            raise ModelLoadError(f"{file} is no tokenizer: {error}", "name a tokenizer.json") from error
        self._lock = threading.Lock()
        self._config = _json_beside(file, "tokenizer_config.json")
        self._byte_level = '"ByteLevel"' in json.dumps(self._data.get("decoder"))
        added = cast("list[dict[str, Any]]", self._data.get("added_tokens") or [])
        self._added: dict[int, str] = {token["id"]: token["content"] for token in added}
        self.control: dict[str, int] = {token["content"]: token["id"] for token in added if token.get("special")}
        self.size = int(self._tokenizer.get_vocab_size(with_added_tokens=True))
        self.fingerprint = self._digest()
        self.end_ids = self._ends(file)
        self._sentinel = ("", list[int]()) if self._spells("a b") == "a b" else find_sentinel(self._tokenize)

    @property
    def template(self) -> str | None:
        """The chat template that its configuration names, if any."""
        found: Any = self._config.get("chat_template")
        if isinstance(found, list):  # named templates
            named = {entry["name"]: entry["template"] for entry in cast("list[dict[str, str]]", found)}
            return named.get("default")
        return found

    @property
    def template_variables(self) -> dict[str, str]:
        """What chat templates call `bos_token` and `eos_token`."""
        return {name: self._special(name) for name in ("bos_token", "eos_token")}

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text that continues another: no BOS, no added space, control tokens are plain text."""
        if not text:
            return []
        prefix, ids = self._sentinel
        return self._tokenize(prefix + text)[len(ids) :]

    def tokenize_pieces(self, pieces: list[Piece]) -> list[int]:
        """Ids of a rendered chat template; a vocabulary that adds a space does so at the start of the text only."""
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            if piece.control:
                ids.append(self.control[piece.text])
            else:
                ids.extend(self.tokenize(piece.text) if i else self._tokenize(piece.text))
        bos = self.control.get(self._special("bos_token"))
        if self._config.get("add_bos_token") and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for a control token."""
        if token in self._added:
            content = self._added[token]
            return b"" if content in self.control else content.encode()
        text: str = self._tokenizer.id_to_token(token) or ""
        if self._byte_level:
            letters = byte_letters()
            return bytes(letters[letter] for letter in text if letter in letters)
        byte = _BYTE.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()

    def close(self) -> None:
        """Nothing is held."""

    def _tokenize(self, text: str) -> list[int]:
        with self._lock:
            self._tokenizer.encode_special_tokens = True
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _spells(self, text: str) -> str:
        return b"".join(self.piece(token) for token in self._tokenize(text)).decode(errors="replace")

    def _special(self, name: str) -> str:
        found: Any = self._config.get(name)
        return str(cast("dict[str, Any]", found).get("content", "")) if isinstance(found, dict) else found or ""

    def _ends(self, file: Path) -> frozenset[int]:
        named: Any = _json_beside(file, "generation_config.json").get("eos_token_id")
        ids = cast("list[int]", named if isinstance(named, list) else [named])
        return frozenset(i for i in (*ids, self.control.get(self._special("eos_token"))) if isinstance(i, int))

    def _digest(self) -> str:
        parts = {key: self._data.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _json_beside(file: Path, name: str) -> dict[str, Any]:
    beside = file.with_name(name)
    if not beside.is_file():
        return {}
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{beside} is damaged: {error}", "download it again") from error
