"""The tokenizer of a GGUF file, built from the file's own metadata so that it gives the ids that llama.cpp gives."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from a1agent.errors import ModelLoadError, nearest

__all__ = ["CUTS", "WHOLE", "build_tokenizer"]

_UNKNOWN, _CONTROL, _USER = 2, 3, 4
_ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASHED = _REST.replace(r"[\r\n]*", r"[\r\n/]*")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
# Words that begin with capitals, then words of capitals alone: letters of other alphabets are both.
_LOWER, _UPPER = r"(?:(?=\p{L})[^A-Z])", r"(?:(?=\p{L})[^a-z])"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_TEKKEN = rf"{_CASED % ('', '')}|\p{{N}}|{_SLASHED}"
_GPT4O = rf"{_CASED % (f'{_ENDINGS}?', f'{_ENDINGS}?')}|\p{{N}}{{1,3}}|{_SLASHED}"
_DIGITS = r"\p{N}"

# How text is cut before merges, rule after rule, by `tokenizer.ggml.pre`.
CUTS = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "jais", "exaone4", "granite-docling"), (_GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (_DIGITS, _GPT2)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), (_QWEN2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "dbrx", "smaug-bpe"), (_LLAMA3,)),
    **dict.fromkeys(("chatglm-bpe", "glm4"), (_LLAMA3,)),
    "tekken": (_TEKKEN,),
    **dict.fromkeys(("gpt-4o", "llama4"), (_GPT4O,)),
}
# Those that look a piece up whole before they merge it.
WHOLE = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "glm4", "tekken"})


def build_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """A byte-level BPE tokenizer. Raises `ModelLoadError` for a damaged one, and for kinds that llama.cpp may know."""
    kind, cut = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ModelLoadError(f"a GGUF vocabulary of the kind {kind!r} is not known here", "use llama-cpp: for the file")
    if cut not in CUTS:
        hint = f"use llama-cpp: for the file ({nearest(str(cut), CUTS)})"
        raise ModelLoadError(f"text is cut by rules called {cut!r}, which are not known here", hint)
    try:
        tokens = [token.decode() for token in metadata["tokenizer.ggml.tokens"]]
        merges = [_pair(merge.decode()) for merge in metadata["tokenizer.ggml.merges"]]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cut in WHOLE))
    except KeyError as error:
        raise ModelLoadError(f"the file has no {error.args[0]}", "download it again") from error
    except Exception as error:  # the package raises bare Exception
        raise ModelLoadError(f"the vocabulary of the file is damaged: {error}", "download it again") from error
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(rule), behavior="isolated") for rule in CUTS[cut]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add_special(tokenizer, tokens, metadata.get("tokenizer.ggml.token_type") or [])
    return tokenizer


def _add_special(tokenizer: Any, tokens: list[str], types: list[int]) -> None:
    by_kind = {kind: [token for token, each in zip(tokens, types, strict=False) if each == kind] for kind in set(types)}
    control = by_kind.get(_CONTROL, []) + by_kind.get(_UNKNOWN, [])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in by_kind.get(_USER, [])])


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
