"""The vocabulary of a fast tokenizer of the `tokenizers` library: text to ids and back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, cast

from tokenizers import Tokenizer

from a1agent.backends.vocabulary import TextVocabulary, byte_letters
from a1agent.errors import ModelLoadError

__all__ = ["ENDS", "HfVocabulary", "tokenizer_fingerprint"]

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"
# Control tokens that end a turn, whatever a model's files say: the names that model families use.
ENDS = frozenset(
    {
        *("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>"),
        *("<|call|>", "<end_of_turn>", "<end_of_utterance>", "<EOT>", "[EOT]", "[EOS]", "<|END_OF_TURN_TOKEN|>"),
        "<｜end▁of▁sentence｜>",
    }
)


class HfVocabulary(TextVocabulary):
    """Ids of one model. `size`: ids that the model gives logits for; `ends`: ids that its files call ends.

    Control tokens beyond `size` are plain text, as Gemma 3's for images to its models that see none.
    """

    def __init__(
        self, tokenizer: Tokenizer, fingerprint: str, size: int, *, ends: Iterable[int] = (), bos: int | None = None
    ) -> None:
        stored = tokenizer.to_str()
        self._tokenizer = Tokenizer.from_str(stored)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # of texts, that is: they stay text
        self._added = self._tokenizer.get_added_tokens_decoder()
        self.fingerprint = fingerprint
        self.size = size
        self.control = {each.content: token for token, each in self._added.items() if each.special and token < size}
        self.added = {each.content: token for token, each in self._added.items() if token < size}
        known = {token for token in ends if 0 <= token < size}
        named = ENDS & self.control.keys()
        self.end_ids = frozenset(known | {self.control[text] for text in named})
        self.bos = bos
        self._letters = _letters(json.loads(stored))
        self._check_size()
        super().__init__()
        self.spaced = self._is_spaced(tokenizer)

    def _check_size(self) -> None:
        """Raises `ModelLoadError` where a text could give an id that the model does not know."""
        special = {token for token, each in self._added.items() if each.special}
        largest = max(set(self._tokenizer.get_vocab().values()) - special, default=-1)
        if largest >= self.size:
            what = f"the tokenizer has ids up to {largest}, the model has {self.size}"
            raise ModelLoadError(what, "the files do not belong together")

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text.encode(errors="replace").decode(), add_special_tokens=False).ids

    def _read_piece(self, token: int) -> bytes:
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special else added.content.encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._letters is not None:
            return bytes(self._letters[letter] for letter in text if letter in self._letters)
        byte = _BYTE.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE, " ").encode()

    def _strips(self, token: int) -> tuple[bool, bool]:
        return self._added[token].lstrip, self._added[token].rstrip

    def _is_spaced(self, tokenizer: Tokenizer) -> bool:
        """Whether the tokenizer puts a space before a text that follows a control token."""
        for text, token in self.control.items():
            if not any(self._strips(token)):
                ids = tokenizer.encode(f"{text}a", add_special_tokens=False).ids
                return ids == [token, *self._encode("a")]
        return True


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Digest of what decides the ids of a text."""
    stored = json.loads(tokenizer.to_str())
    parts = [stored[key] for key in ("normalizer", "pre_tokenizer", "model", "added_tokens")]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _letters(stored: dict[str, Any]) -> dict[str, int] | None:
    """The byte for each letter of a byte-level vocabulary; None for one that marks spaces. Raises `ModelLoadError`."""
    kinds = set(_kinds(stored.get("decoder")))
    if "ByteLevel" in kinds:
        return byte_letters()
    if kinds & {"Metaspace", "Replace", "ByteFallback"}:
        return None
    what = f"the tokenizer decodes by {', '.join(sorted(kinds)) or 'no rule'}, which is not known here"
    raise ModelLoadError(what, "choose a model with a byte-level or SentencePiece vocabulary")


def _kinds(decoder: Any) -> Iterable[str]:
    if isinstance(decoder, dict):
        found = cast("dict[str, Any]", decoder)
        yield str(found.get("type"))
        for inner in found.get("decoders") or ():
            yield from _kinds(inner)
