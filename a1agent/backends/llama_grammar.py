"""Holds a llama.cpp model to a JSON schema while it writes, through llama.cpp's own grammars."""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from a1agent.backends.base import Sampling
from a1agent.backends.batching.sampling import Draw
from a1agent.backends.gbnf_pattern import MOST_REPEATED, json_pattern
from a1agent.schema_parts import leads_to_schema, rebuilt

__all__ = ["Constrained", "grammar_of"]

_log = logging.getLogger(__name__)
_ANY_CHARACTER = '[^"\\\\]'
_JSON_CHARACTER = '[^"\\\\\\x7F\\x00-\\x1F]'  # JSON strings hold no raw control characters
_AT_LEAST, _AT_MOST = ("minItems", "minLength"), ("maxItems", "maxLength")
_MOST_REPEATED_IN_ALL = 50_000
_WHOLE = "#/$defs/the-whole-schema"
_TOKEN = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def grammar_of(schema: Mapping[str, Any]) -> bytes | None:
    """The schema as a grammar of llama.cpp (GBNF); None, with a line in the log, when it has no grammar."""
    try:
        converter: Any = importlib.import_module("llama_cpp.llama_grammar")
        rules: str = converter.json_schema_to_gbnf(json.dumps(_named(_bounded(schema))))
    except Exception as error:  # the converter asserts, and knows neither every keyword nor recursion without an end
        _log.warning("a JSON schema has no grammar, answers are only checked afterwards; the DEBUG log says why")
        _log.debug("no grammar: %r", error)
        return None
    return rules.replace(_ANY_CHARACTER, _JSON_CHARACTER).encode()


def _bounded(schema: Mapping[str, Any]) -> Any:
    """The schema without the bounds and the patterns that have no grammar; answers are checked for them afterwards.

    Raises ValueError where they are too many, and where a reference takes something else for a schema.
    """
    repeated = 0

    def bound(keywords: dict[str, Any]) -> dict[str, Any]:
        nonlocal repeated
        if isinstance(reference := keywords.get("$ref"), str) and not leads_to_schema(reference):
            raise ValueError(f"{reference} is no schema")
        for name in (*_AT_LEAST, *_AT_MOST):
            if isinstance(count := keywords.get(name), int | float):
                repeated += int(min(count, MOST_REPEATED))
                if count > MOST_REPEATED:
                    keywords |= {name: MOST_REPEATED} if name in _AT_LEAST else {name: None}
        repeated += _fit_pattern(keywords)
        return {name: part for name, part in keywords.items() if part is not None or name not in _AT_MOST}

    bounded = rebuilt(schema, bound)
    if repeated > _MOST_REPEATED_IN_ALL:
        raise ValueError(f"{repeated} repetitions")
    return bounded


def _fit_pattern(fields: dict[str, Any]) -> int:
    """Puts a pattern of a schema as the converter takes it, or drops it; how often that repeats something."""
    if not isinstance(pattern := fields.get("pattern"), str):
        return 0
    try:
        fields["pattern"], times = json_pattern(pattern)
    except ValueError:
        del fields["pattern"]
        return 0
    return times


def _named(schema: Any) -> Any:
    """The schema under a name, which stands for it wherever it refers to itself as a whole (`#`).

    The converter knows references to parts only, and does not look for parts beside a reference.
    """

    def name(keywords: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(reference := keywords.get("$ref"), str):
            return keywords
        parts: dict[str, Any] = {key: part for key, part in keywords.items() if isinstance(part, Mapping)}
        named = {"$ref": f"{_WHOLE}{reference.removeprefix('#')}"}
        return {**parts, "oneOf": [named]} if parts else named

    return {"$defs": {_WHOLE.rpartition("/")[2]: rebuilt(schema, name)}, "oneOf": [{"$ref": _WHOLE}]}


class Constrained:
    """Draws the tokens of one call under a grammar: temperature and min-p, without top-k and top-p.

    A token is drawn freely first; only when the grammar refuses it is the whole vocabulary put before the grammar.
    """

    def __init__(self, api: Any, vocab: Any, grammar: bytes, sampling: Sampling, end_ids: npt.NDArray[np.intp]) -> None:
        self._api = api
        self._end_ids = end_ids
        self._size = int(api.llama_vocab_n_tokens(vocab))
        self._draw = Draw(sampling, self._size) if sampling.temperature > 0 else None
        self._grammar = api.llama_sampler_init_grammar(vocab, grammar, b"root")
        if not self._grammar:
            _log.warning("llama.cpp refuses the grammar of this JSON schema, answers are only checked afterwards")

    def __call__(self, logits: npt.NDArray[np.float32], scratch: npt.NDArray[np.float32]) -> int:
        """One token; where the grammar allows none, the end of the turn."""
        token = self._pick(logits, scratch)
        if not self._grammar:
            return token
        if not self._allowed(np.array([token], np.int32))[0]:
            allowed = self._allowed(np.arange(self._size, dtype=np.int32))
            if not allowed.any():
                return int(self._end_ids[0]) if len(self._end_ids) else token
            token = self._pick(np.where(allowed, logits, -np.inf).astype(np.float32), scratch)
            if not allowed[token]:  # of logits that are not finite; to take it would end the process
                token = int(allowed.argmax())
        if token not in self._end_ids:
            self._api.llama_sampler_accept(self._grammar, token)
        return token

    def __del__(self) -> None:
        if self._grammar:
            self._api.llama_sampler_free(self._grammar)

    def _pick(self, logits: npt.NDArray[np.float32], scratch: npt.NDArray[np.float32]) -> int:
        return int(logits.argmax()) if self._draw is None else self._draw(logits, scratch)

    def _allowed(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Whether the grammar takes each token next."""
        rows = np.zeros(len(tokens), _TOKEN)
        rows["id"] = tokens
        pointer = ctypes.cast(rows.ctypes.data, self._api.llama_token_data_p)
        array = self._api.llama_token_data_array(pointer, len(tokens), -1, False)
        self._api.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return np.isfinite(rows["logit"])
