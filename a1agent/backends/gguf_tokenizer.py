"""The tokenizer of a GGUF file, built from the file's own metadata so that it gives the ids that llama.cpp gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from a1agent.backends.hf_vocab import ENDS
from a1agent.errors import ModelLoadError, nearest

__all__ = ["BEGUN", "CUTS", "Cut", "build_tokenizer", "wants_bos"]

_UNKNOWN, _CONTROL, _USER = 2, 3, 4
_ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASHED = _REST.replace(r"[\r\n]*", r"[\r\n/]*")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
# Words that begin with capitals, then words of capitals alone: letters of other alphabets are both.
_LOWER, _UPPER = r"(?:(?=\p{L})[^A-Z])", r"(?:(?=\p{L})[^a-z])"
_CAPITALIZED, _CAPITALS = (rf"[^\r\n\p{{L}}\p{{N}}]?{each}" for each in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*"))
_TEKKEN = rf"{_CAPITALIZED}|{_CAPITALS}|\p{{N}}|{_SLASHED}"
_GPT4O = rf"{_CAPITALIZED}{_ENDINGS}?|{_CAPITALS}{_ENDINGS}?|\p{{N}}{{1,3}}|{_SLASHED}"
_DIGITS = r"\p{N}"


@dataclass(frozen=True, slots=True)
class Cut:
    """How text is cut before merges: rule after rule. `whole`: a piece is looked up whole before it is merged."""

    rules: tuple[str, ...]
    whole: bool = False


# By `tokenizer.ggml.pre`.
CUTS = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "jais", "exaone4", "granite-docling"), Cut((_GPT2,))),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), Cut((_DIGITS, _GPT2))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), Cut((_QWEN2,))),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "glm4"), Cut((_LLAMA3,), whole=True)
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Cut((_LLAMA3,))),
    "tekken": Cut((_TEKKEN,), whole=True),
    **dict.fromkeys(("gpt-4o", "llama4"), Cut((_GPT4O,))),
}
# Whose prompts begin with BOS where the file does not say.
BEGUN = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "tekken")


def wants_bos(metadata: dict[str, Any]) -> bool:
    """Whether a prompt begins with BOS, as llama.cpp decides it."""
    return bool(metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.pre") in BEGUN))


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
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=CUTS[cut].whole))
    except KeyError as error:
        raise ModelLoadError(f"the file has no {error.args[0]}", "download it again") from error
    except Exception as error:  # the package raises bare Exception
        raise ModelLoadError(f"the vocabulary of the file is damaged: {error}", "download it again") from error
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(rule), behavior="isolated") for rule in CUTS[cut].rules),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add_special(tokenizer, tokens, metadata.get("tokenizer.ggml.token_type") or [])
    return tokenizer


def _add_special(tokenizer: Any, tokens: list[str], types: list[int]) -> None:
    """A token that is named like an end of a turn is a control token, whatever type the file gives it."""
    kinds = dict(zip(tokens, types, strict=False)) | dict.fromkeys(ENDS.intersection(tokens), _CONTROL)
    control = [token for token, kind in kinds.items() if kind in (_CONTROL, _UNKNOWN)]
    users = [token for token, kind in kinds.items() if kind == _USER]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in users])


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
