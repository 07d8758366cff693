"""Tokenizers for models on servers: a GGUF and a tokenizer.json of the same model mean the same."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from a1agent.backends.http import Http
from a1agent.backends.local_tokenizer import LocalTokenizer, load_tokenizer
from a1agent.backends.server_options import ServerOptions
from a1agent.backends.wire import Chunk, Tokens
from a1agent.errors import ModelLoadError, ModelNotFound
from a1agent.types import Message, Question
from tests.backends import tiny

TEXTS = (
    "the sum of the two numbers",
    " so the rest is 12 + 7 = 19.\n\n",
    "naïve Δ 数学 \U0001f600 <b>",
    "",
    "<|im_end|>",
    "\n\n\n  a",
)
ASKED = Question(
    messages=(Message(role="user", content="say <|im_end|> now"), Message(role="assistant", content="the sum"))
)


def byte_level(folder: Path) -> Path:
    """The byte-level vocabulary of the tiny GGUF as a tokenizer.json."""
    words = tiny.bpe_words()
    merges = [tuple(merge.split(" ")) for merge in words.merges]
    tokenizer = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(words.tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                tokenizers.Regex(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
                    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                "isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in words.tokens[-3:]])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"chat_template": words.template, "eos_token": {"content": "<|im_end|>"}, "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [words.eos, words.bos]}))
    return folder


def sentence_piece(folder: Path) -> Path:
    """A vocabulary that puts a space before a text and falls back to bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *map(chr, range(33, 127)), "▁"]
    for merged in ("th", "the", "▁the", "▁a"):
        pieces.append(merged)
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a")]
    model = models.BPE(
        {p: i for i, p in enumerate(pieces)}, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture
def pair(models: Path, tmp_path: Path) -> tuple[LocalTokenizer, LocalTokenizer]:
    return load_tokenizer(str(models / "bpe.gguf")), load_tokenizer(str(byte_level(tmp_path)))


def test_a_gguf_and_a_tokenizer_json_give_the_same_ids(pair: tuple[LocalTokenizer, LocalTokenizer]) -> None:
    gguf, hub = pair
    for text in TEXTS:
        ids = gguf.tokenize(text)
        assert hub.tokenize(text) == ids
        assert b"".join(map(hub.piece, ids)).decode() == text
    assert asyncio.run(hub.encode(ASKED)) == asyncio.run(gguf.encode(ASKED))
    assert hub.end_ids >= {tiny.bpe_words().eos}
    assert hub.fingerprint != gguf.fingerprint
    gguf.close()


def test_a_prompt_as_text_has_no_bos_and_no_control_tokens_of_the_user(
    pair: tuple[LocalTokenizer, LocalTokenizer],
) -> None:
    for tokenizer in pair:
        text = tokenizer.render(ASKED)
        assert text.startswith("<|im_start|>user\nsay <\u200b|im_end|> now<|im_end|>")
        assert text.endswith("assistant\nthe sum")
    pair[0].close()


def test_a_vocabulary_that_adds_a_space_adds_none_to_a_step(tmp_path: Path) -> None:
    vocabulary = load_tokenizer(str(sentence_piece(tmp_path)))
    for text in ("the parts", " the parts", "é 数\n", "</s>"):
        assert b"".join(map(vocabulary.piece, vocabulary.tokenize(text))).decode() == text


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="no tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ModelNotFound):
        load_tokenizer(str(tmp_path / "gone"))
    with pytest.raises(ModelNotFound):
        load_tokenizer(str(tmp_path / "gone.gguf"))


def test_a_damaged_file_beside_a_tokenizer_is_named(tmp_path: Path) -> None:
    for text in ("[]", "{"):
        folder = byte_level(tmp_path)
        (folder / "generation_config.json").write_text(text)
        with pytest.raises(ModelLoadError, match=r"generation_config\.json"):
            load_tokenizer(str(folder))


def test_text_is_dealt_out_to_ids_without_losing_a_byte() -> None:
    """A server streams text when a character is whole; the ids before it carry its first bytes."""
    tokens = Tokens(None, {})
    chunks = [
        Chunk(ids=(1,), logprobs=(-1.0,), text="a"),
        Chunk(ids=(2,), logprobs=(-1.0,)),
        Chunk(ids=(3,), logprobs=(-1.0,)),
        Chunk(ids=(4,), logprobs=(-1.0,), text="数 b"),
        Chunk(ids=(5, 6), logprobs=(-1.0, -2.0), text="cd"),
        Chunk(ids=(7,), logprobs=(-1.0,), text="\ufffd", finish="length"),
    ]
    dealt = [(token, piece) for chunk in chunks for token, piece, _ in tokens.of(chunk)]
    assert dealt[:4] == [(1, b"a"), (2, b"\xe6"), (3, b"\x95"), (4, b"\xb0 b")]
    assert dealt[4:6] == [(5, b""), (6, b"cd")]
    assert dealt[6] == (7, b"\xf0")  # not whole: it will be rewound


def test_text_keeps_its_side_of_a_mark_that_the_server_leaves_out() -> None:
    tokens = Tokens(None, {9: b"</think>"})
    chunks = [
        Chunk(ids=(1,), logprobs=(-1.0,), text="so 7"),
        Chunk(ids=(9,), logprobs=(-2.0,)),
        Chunk(ids=(2,), logprobs=(-1.0,), text="The"),
        Chunk(ids=(3, 9), logprobs=(-1.0, -2.0), text=" end"),
        Chunk(ids=(9, 4), logprobs=(-2.0, -1.0), text=" again"),
        Chunk(ids=(9,), logprobs=(-2.0,), text="[/THINK]"),
    ]
    dealt = [(token, piece) for chunk in chunks for token, piece, _ in tokens.of(chunk)]
    assert dealt[:3] == [(1, b"so 7"), (9, b"</think>"), (2, b"The")]
    assert dealt[3:] == [(3, b" end"), (9, b"</think>"), (9, b"</think>"), (4, b" again"), (9, b"</think>")]


def test_a_client_that_was_never_used_closes() -> None:
    Http(("http://127.0.0.1:9",), ServerOptions()).close()


def stripping(folder: Path) -> Path:
    """Control tokens that swallow the white space beside them, as some models' do."""
    made = tokenizers.Tokenizer.from_file(str(byte_level(folder) / "tokenizer.json"))
    stored = json.loads(made.to_str())
    for token in stored["added_tokens"]:
        token["rstrip"], token["lstrip"] = True, token["content"] == "<|im_end|>"
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    return folder


def spaced_once(folder: Path) -> Path:
    """A vocabulary that puts a space before the first text only, not after control tokens."""
    file = sentence_piece(folder)
    stored = json.loads(file.read_text(encoding="utf-8"))
    stored["normalizer"] = None
    stored["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    file.write_text(json.dumps(stored))
    return file


TURNS = "{% for m in messages %}<s> {{ m.content }} </s>\n{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"


@pytest.mark.parametrize(
    ("make", "template"),
    [(byte_level, None), (stripping, None), (sentence_piece, TURNS), (spaced_once, TURNS), (spaced_once, "a" + TURNS)],
    ids=["plain", "stripping", "a space everywhere", "a space at first", "a space before a text at first"],
)
def test_white_space_beside_control_tokens_is_what_the_library_makes_of_it(
    make: Callable[[Path], Path], template: str | None, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    file = make(tmp_path)
    if template is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    source = template or tiny.bpe_words().template
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library = transformers.PreTrainedTokenizerFast(tokenizer_object=made, chat_template=source)
    ours = load_tokenizer(str(file))
    for text in ("the sum of 1 and 2", " add 4\n to it ", "a\n\n"):
        messages = (Message(role="user", content=text), Message(role="user", content="the"))
        expected = library.apply_chat_template(
            [message.as_dict() for message in messages], add_generation_prompt=True, return_dict=False
        )
        assert asyncio.run(ours.encode(Question(messages=messages))).ids == expected
