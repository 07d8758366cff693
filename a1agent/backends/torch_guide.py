"""Holds a model of PyTorch to a JSON schema while it writes, by the `llguidance` library."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from a1agent.backends.batching.runner import Vocabulary
from a1agent.backends.torch_sampling import Sampler
from a1agent.call_formats import CALL_TOKENS
from a1agent.prompts import THINK_CLOSE, THINK_OPEN

__all__ = ["Guided", "Guides", "draws_guided"]

_log = logging.getLogger(__name__)
_WRITTEN: Mapping[str, Any] = {
    "whitespace_flexible": False,  # a model that knows no JSON would write white space without end
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,
}
_KEPT_GRAMMARS = 16
_MARKS = frozenset(mark.encode() for mark in (THINK_OPEN, THINK_CLOSE, *CALL_TOKENS))


def draws_guided() -> bool:
    """Whether the library is there."""
    return importlib.util.find_spec("llguidance") is not None


class Guides:
    """Makes the guides of one model's calls; reads its vocabulary with the first."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ends = sorted(vocabulary.end_ids)
        self._tokenizer: Any = None
        self._grammar = lru_cache(_KEPT_GRAMMARS)(self._compiled)

    def guided(self, schema: Mapping[str, Any], sampler: Sampler | None) -> Guided | Sampler | None:
        """What draws under a schema as `sampler` does; the sampler itself, with a line in the log, when that cannot be.

        Keywords that the library does not know are left to those who check the answer.
        """
        if not self._ends or not draws_guided():
            return sampler
        grammar = self._grammar(json.dumps(schema))
        return sampler if grammar is None else Guided(grammar.deep_copy(), self._vocabulary.size, self._ends, sampler)

    def _compiled(self, schema: str) -> Any:
        library: Any = importlib.import_module("llguidance")
        try:
            self._tokenizer = self._tokenizer or self._read(library)
            grammar = library.LLMatcher.grammar_from_json_schema(schema, overrides=_WRITTEN)
            matcher = library.LLMatcher(self._tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise ValueError(matcher.get_error())
        except ValueError as error:  # a vocabulary that the library cannot read comes here too
            reason = str(error).partition("\n")[0]
            _log.warning("a JSON schema has no grammar, answers are only checked afterwards; the DEBUG log says why")
            _log.debug("no grammar: %s", reason)
            return None
        for warning in matcher.get_grammar_warnings():
            _log.warning("a part of a JSON schema is only checked afterwards; the DEBUG log says which")
            _log.debug("only checked afterwards: %s", warning)
        return matcher

    def _read(self, library: Any) -> Any:
        words = library.TokenizerWrapper(_Words(self._vocabulary, self._ends[0]))
        return library.LLTokenizer(words, n_vocab=self._vocabulary.size, eos_token=self._ends)


class _Words:
    """A vocabulary as the library wants it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, end: int) -> None:
        self.eos_token_id = end
        pieces = map(vocabulary.piece, range(vocabulary.size))  # tokens without bytes are in no answer
        self.tokens = [b"" if piece in _MARKS else piece for piece in pieces]
        self.special_token_ids: list[int] = []
        self._vocabulary = vocabulary

    def __call__(self, text: bytes) -> list[int]:
        return self._vocabulary.tokenize(text.decode(errors="replace"))


class Guided:
    """Draws the tokens of one call as `sampler` does, among those that the grammar allows next."""

    __slots__ = ("_ends", "_matcher", "_size", "sampler")

    def __init__(self, matcher: Any, size: int, ends: list[int], sampler: Sampler | None) -> None:
        self._matcher = matcher
        self._size = size
        self._ends = ends
        self.sampler = sampler

    def forbidden(self) -> torch.Tensor:
        """Which ids may not come next [vocabulary]; where nothing may, all but those that end the turn."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little", count=self._size)
        if not allowed.any():
            allowed[self._ends] = 1
        return torch.as_tensor(allowed == 0)

    def take(self, token: int) -> None:
        """Goes on behind a token that was drawn."""
        self._matcher.consume_token(token)
