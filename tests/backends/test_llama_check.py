"""Files over which llama.cpp would end the process, this one of the tests included: they are refused."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from a1agent.backends import llama_cpp
from a1agent.backends.gguf_info import read_gguf
from a1agent.backends.llama_check import check_header
from a1agent.backends.local_tokenizer import load_tokenizer
from a1agent.backends.registry import parse_address
from a1agent.errors import ModelLoadError
from tests.backends import tiny

WORDS = tiny.bpe_words()


def without(words: tiny.Words, *gone: str) -> tiny.Words:
    kept = [i for i, token in enumerate(words.tokens) if token not in gone]
    picked: list[Any] = [[values[i] for i in kept] for values in (words.tokens, words.types, words.scores)]
    return replace(words, tokens=picked[0], types=picked[1], scores=tuple(picked[2]))


def spelled(*changed: tuple[int, str]) -> tiny.Words:
    tokens = list(WORDS.tokens)
    for i, token in changed:
        tokens[i] = token
    return replace(WORDS, tokens=tokens)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (spelled((300, WORDS.tokens[299])), f"has the token '{WORDS.tokens[299]}' 2 times"),
        (spelled((300, ""), (301, "[EMPTY_300]")), r"has the token '\[EMPTY_300\]' 2 times"),
        (spelled((300, WORDS.tokens[299] + "\0and more")), f"has the token '{WORDS.tokens[299]}' 2 times"),
        (replace(WORDS, model="none"), "holds no vocabulary"),
        (without(tiny.spm_words(), "<0x0A>", "<0xE4>"), "has no tokens for 2 of the bytes"),
    ],
    ids=["twice", "empty", "up to a zero", "none", "bytes"],
)
def test_a_vocabulary_that_would_end_the_process_is_refused(tmp_path: Path, words: tiny.Words, said: str) -> None:
    path = tiny.write_random(tmp_path / "m.gguf", words)
    for load in (llama_cpp.load, load_tokenizer):
        with pytest.raises(ModelLoadError, match=rf"m\.gguf {said}"):
            load(str(path))


def test_bytes_that_are_tokens_of_their_own_or_occur_in_no_text_need_no_others(tmp_path: Path) -> None:
    words = without(tiny.spm_words(), "<0x41>", "<0xC0>", "<0xFF>")
    tokenizer = load_tokenizer(str(tiny.write_random(tmp_path / "m.gguf", words)))
    text = "A\0 \N{GREEK CAPITAL LETTER ALPHA}\U0010ffff"
    assert b"".join(map(tokenizer.piece, tokenizer.tokenize(text))).decode() == text
    tokenizer.close()


def changed(file: Path, key: str, stored: bytes) -> Path:
    """The file with another value, as long as the old one, behind a key."""
    data = file.read_bytes()
    at = data.index(key.encode()) + len(key) + 4  # the type
    file.write_bytes(data[:at] + stored + data[at + len(stored) :])
    return file


@pytest.mark.parametrize("layers", [0, 513, 2**32 - 1])
def test_a_number_of_layers_that_would_end_the_process_is_refused(tmp_path: Path, layers: int) -> None:
    file = changed(tiny.write_random(tmp_path / "m.gguf", WORDS), "llama.block_count", struct.pack("<I", layers))
    with pytest.raises(ModelLoadError, match=f"says that it has {layers} layers"):
        llama_cpp.load(str(file))


def test_positions_that_would_end_the_process_are_refused(models: Path) -> None:
    header = read_gguf(models / "bpe.gguf")
    check_header(replace(header, metadata={**header.metadata, "llama.rope.scaling.type": "yarn"}))
    with pytest.raises(ModelLoadError, match="rules called 'later'"):
        check_header(replace(header, metadata={**header.metadata, "llama.rope.scaling.type": "later"}))


@pytest.mark.parametrize(("kind", "name"), [(1, "float16"), (30, "bfloat16")])
def test_vectors_that_would_end_the_first_forward_are_refused(models: Path, kind: int, name: str) -> None:
    header = read_gguf(models / "bpe.gguf")
    tensors = [replace(each, kind=kind) if "ffn_norm" in each.name else each for each in header.tensors]
    with pytest.raises(ModelLoadError, match=rf"blk\.0\.ffn_norm\.weight in {name}"):
        check_header(replace(header, tensors=tuple(tensors)))


@pytest.mark.parametrize("scheme", ["llama-cpp", "hf"])
def test_a_text_where_a_number_belongs_is_told_before_loading(models: Path, tmp_path: Path, scheme: str) -> None:
    data = (models / "bpe.gguf").read_bytes()
    key = b"llama.embedding_length"
    at = data.index(key) + len(key)
    text = struct.pack("<IQ", 8, 2) + b"64"  # instead of a type and four bytes
    (tmp_path / "m.gguf").write_bytes(data[:at] + text + data[at + 8 :])
    with pytest.raises(ModelLoadError, match=r"embedding_length in the header of m\.gguf is no number"):
        parse_address(f"{scheme}:{tmp_path / 'm.gguf'}").memory()


def test_a_vocabulary_with_fewer_types_than_tokens_has_a_fingerprint(models: Path) -> None:
    header = read_gguf(models / "bpe.gguf")
    cut = {**header.metadata, "tokenizer.ggml.token_type": WORDS.types[:-5]}
    assert replace(header, metadata=cut).tokenizer_fingerprint() != header.tokenizer_fingerprint()
