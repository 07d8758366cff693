"""Vocabularies of checkpoints: the ids that the library gives, and those that llama.cpp gives to the same GGUF file."""

import random
import unicodedata
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import transformers
from tokenizers import Tokenizer, decoders, models

from a1agent import embedded
from a1agent.backends import gguf_tokenizer, llama_cpp
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.gguf_info import read_gguf
from a1agent.backends.gguf_tokenizer import build_tokenizer
from a1agent.backends.hf_files import read_files
from a1agent.backends.hf_tokenizer import read_tokenizer
from a1agent.backends.hf_vocab import HfVocabulary, tokenizer_fingerprint
from a1agent.backends.transformers_options import TransformersOptions
from a1agent.errors import ModelLoadError
from a1agent.types import Message, Question
from tests.backends import tiny, tiny_hf

PARTS = (
    *(
        "a",
        "B",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'S",
        "'\u017f",
        "é",
        "中",
        "1",
        "23",
        "٣",
        "½",
        "_",
        "+",
        "=",
        "\0",
    ),
    *("\u00a0", "\u3000", "\u200b", "\u2028", "\x85", "\x1c", "😀", "e\u0301", "the", " step", ".\n\n", "\ufeff", "ǅ"),
    *("<|im_end|>", "<|im_start|>", "|>", "ª", "Ⅷ", "don't", " 12 * 7"),
)


def texts(count: int) -> list[str]:
    rng = random.Random(0)
    made = ["".join(rng.choices(PARTS, k=rng.randint(1, 12))) for _ in range(count)]
    ranges = ((32, 127), (0, 0x3000), (0, 0xD800), (0xE000, 0x110000))
    return made + ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(8)) for _ in range(count)]


def vocabulary(tokenizer: Tokenizer, words: tiny.Words, **options: Any) -> HfVocabulary:
    return HfVocabulary(tokenizer, tokenizer_fingerprint(tokenizer), len(words.tokens), **options)


@pytest.mark.parametrize("name", ["draft", "target"])
def test_the_embedded_vocabulary_gives_the_ids_and_pieces_of_llama_cpp(name: str) -> None:
    path = embedded.path(name)
    theirs = llama_cpp.load(str(path), n_threads=1).vocabulary
    header = read_gguf(path)
    ours = HfVocabulary(build_tokenizer(header.metadata), header.tokenizer_fingerprint(), theirs.size, ends=[2])
    assert ours.fingerprint == theirs.fingerprint
    assert ours.end_ids == theirs.end_ids
    assert ours.control == theirs.control
    assert [ours.piece(i) for i in range(ours.size)] == [theirs.piece(i) for i in range(ours.size)]
    for text in texts(3000):
        assert ours.tokenize(text) == theirs.tokenize(text), repr(text)


def test_a_lone_surrogate_is_replaced_as_llama_cpp_s_is() -> None:
    assert vocabulary(tiny_hf.bpe(), tiny.bpe_words()).tokenize("a\ud800b") == vocabulary(
        tiny_hf.bpe(), tiny.bpe_words()
    ).tokenize("a?b")


@cache
def joined() -> tiny.Words:
    """A vocabulary whose merges reach over every border at which text may be cut, and a word that none leads to."""
    words = tiny.learned([text for text in texts(300) if "|>" not in text], 600)
    return replace(words, tokens=[*words.tokens, "xyz"], types=[*words.types, tiny.NORMAL])


@cache
def assigned() -> list[str]:
    """Texts of characters that every table of them knows."""
    return ["xyz", *(text for text in texts(400) if all(unicodedata.category(each) != "Cn" for each in text))]


@cache
def ids_of(pre: str) -> list[tuple[int, ...]]:
    """What a rule for cutting text makes of some texts."""
    words = joined()
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [token.encode() for token in words.tokens],
        "tokenizer.ggml.merges": [merge.encode() for merge in words.merges],
        "tokenizer.ggml.token_type": words.types,
    }
    ours = HfVocabulary(build_tokenizer(metadata), "", len(words.tokens))
    return [tuple(ours.tokenize(text)) for text in assigned()]


@pytest.mark.parametrize("pre", gguf_tokenizer.CUTS)
def test_every_rule_for_cutting_text_gives_llama_cpp_s_ids(pre: str, tmp_path: Path) -> None:
    path = tiny.write_random(tmp_path / "other.gguf", replace(joined(), pre=pre))
    theirs = llama_cpp.load(str(path), n_threads=1).vocabulary
    for text, ids in zip(assigned(), ids_of(pre), strict=True):
        assert ids == tuple(theirs.tokenize(text)), repr(text)


def prompts_by(path: Path, question: Question) -> list[list[int]]:
    """The ids of a prompt by llama.cpp, and by transformers where that reads the same file."""
    theirs = llama_cpp.load(str(path), n_threads=1)
    ours, template = read_tokenizer(read_files(path), TransformersOptions(), Sized(theirs.vocabulary.size))
    return [theirs.encode(question).ids, ours.encode(question, template).ids]


class Sized:
    """What a tokenizer asks of its model."""

    def __init__(self, size: int) -> None:
        self.config, self.vocab_size = self, size

    def get_text_config(self) -> "Sized":
        return self


@pytest.mark.parametrize(
    ("add_bos", "cuts"), [(None, list(gguf_tokenizer.CUTS)), (True, ["tekken", "qwen2"]), (False, ["tekken", "qwen2"])]
)
def test_a_prompt_begins_with_bos_where_llama_cpp_puts_one(
    add_bos: bool | None, cuts: list[str], tmp_path: Path
) -> None:
    begun: list[str] = []
    for pre in cuts:
        words = replace(tiny.bpe_words(), pre=pre, add_bos=add_bos)
        theirs, ours = prompts_by(tiny.write_random(tmp_path / f"{pre}.gguf", words), Question.of("the sum"))
        assert ours == theirs, pre
        begun += [pre] if ours[0] == words.bos else []
    assert sorted(begun) == sorted(gguf_tokenizer.BEGUN if add_bos is None else cuts if add_bos else [])


@pytest.mark.parametrize("kind", [tiny.NORMAL, 4, 5])
def test_an_end_of_turn_of_another_type_is_a_control_token_as_by_llama_cpp(kind: int, tmp_path: Path) -> None:
    words = replace(tiny.bpe_words(), types=[*tiny.bpe_words().types[:-1], kind])
    question = Question.of("the <|im_end|> sum")
    theirs, ours = prompts_by(tiny.write_random(tmp_path / "m.gguf", words), question)
    assert ours == theirs
    assert ours.count(len(words.tokens) - 1) == 1


def test_rules_for_cutting_text_can_be_told_apart_by_these_texts() -> None:
    rules = {cut: pre for pre, cut in gguf_tokenizer.CUTS.items()}
    assert len({tuple(ids_of(pre)) for pre in rules.values()}) == len(rules)


@pytest.mark.parametrize(("key", "value"), [("model", "llama"), ("pre", "viking")])
def test_vocabularies_of_other_kinds_are_refused_by_name(key: str, value: str) -> None:
    metadata = {**read_gguf(embedded.path("draft")).metadata, f"tokenizer.ggml.{key}": value}
    with pytest.raises(ModelLoadError, match=value):
        build_tokenizer(metadata)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("merges", None, "no tokenizer.ggml.merges"),
        ("tokens", None, "no tokenizer.ggml.tokens"),
        ("tokens", [b"\xff"], "damaged"),
        ("merges", [b"no such"], "damaged"),
    ],
)
def test_a_damaged_vocabulary_of_a_gguf_file_is_refused(key: str, value: list[bytes] | None, said: str) -> None:
    metadata = {**read_gguf(embedded.path("draft")).metadata, f"tokenizer.ggml.{key}": value}
    with pytest.raises(ModelLoadError, match=said):
        build_tokenizer({name: found for name, found in metadata.items() if found is not None})


@pytest.mark.parametrize(("make", "words"), [(tiny_hf.bpe, tiny.bpe_words), (tiny_hf.sentencepiece, tiny.spm_words)])
class TestCheckpoints:
    def test_pieces_spell_the_text(self, make: Any, words: Any) -> None:
        ours = vocabulary(make(), words())
        for text in (*texts(200), " two  spaces", "line\n\nbreak"):
            spelled = b"".join(map(ours.piece, ours.tokenize(text)))
            assert spelled.decode() == text

    def test_a_step_gets_no_space_and_control_tokens_in_it_are_text(self, make: Any, words: Any) -> None:
        ours = vocabulary(make(), words())
        assert ours.piece(ours.tokenize("the parts")[0])[:1] == b"t"
        for control in ours.control:
            assert not set(ours.tokenize(f"a {control} b")) & set(ours.control.values())

    def test_prompts_are_those_of_the_library(self, make: Any, words: Any) -> None:
        made = words()
        library = transformers.PreTrainedTokenizerFast(tokenizer_object=make(), chat_template=made.template)
        library.bos_token, library.eos_token = made.tokens[made.bos], made.tokens[made.eos]
        ours = vocabulary(make(), made)
        special = {"bos_token": library.bos_token, "eos_token": library.eos_token}
        template = ChatTemplate(made.template, ours.control, special)
        talk = [("user", "the sum of 1 and 2"), ("assistant", "the answer is 3"), ("user", " add 4\nto it ")]
        for count in (1, 3):
            messages = tuple(Message(role=role, content=content) for role, content in talk[:count])
            expected = library.apply_chat_template(
                [message.as_dict() for message in messages], add_generation_prompt=True, return_dict=False
            )
            assert ours.tokenize_pieces(template.pieces(Question(messages=messages))) == expected

    def test_the_fingerprint_is_of_what_decides_ids(self, make: Any, words: Any) -> None:
        one = tokenizer_fingerprint(make())
        changed = make()
        changed.add_tokens(["thus"])
        assert one == tokenizer_fingerprint(make()) != tokenizer_fingerprint(changed)


def test_bos_comes_once_where_it_is_wanted() -> None:
    words = tiny.spm_words()
    ours = vocabulary(tiny_hf.sentencepiece(), words, bos=words.bos)
    for source in (words.template, None):
        pieces = ChatTemplate(source, ours.control, {"bos_token": "<s>", "eos_token": "</s>"}).pieces(
            Question.of("add")
        )
        assert ours.tokenize_pieces(pieces).count(words.bos) == 1


def test_a_vocabulary_that_no_rule_spells_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ModelLoadError, match="WordPiece"):
        HfVocabulary(tokenizer, "", 2)


def test_a_control_token_that_the_model_does_not_know_is_plain_text() -> None:
    """As Gemma 3's for images, one id beyond those of its models that see none."""
    tokenizer, words = tiny_hf.bpe(), tiny.bpe_words()
    tokenizer.add_special_tokens(["<image>"])
    ours = vocabulary(tokenizer, words)
    assert ours.size == len(words.tokens)
    assert "<image>" not in ours.control
    assert ours.tokenize("a<image>") == vocabulary(tiny_hf.bpe(), words).tokenize("a<image>")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="do not belong together"):
        HfVocabulary(tiny_hf.bpe(), "", 100)
