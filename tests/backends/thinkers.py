"""Tiny models that think as reasoning models do: their marks of thoughts are control tokens."""

from dataclasses import replace
from pathlib import Path

from tests.backends import tiny

USER = 4
"""The type of tokens that stand for a text as a whole, and are no control tokens."""
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
BOXED = "\\boxed{7}"
HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")


def words(*control: str, template: str = tiny.CHATML, kind: int = tiny.CONTROL) -> tiny.Words:
    made = tiny.bpe_words(template)
    return replace(made, tokens=[*made.tokens, *control], types=[*made.types, *[kind] * len(control)])


def parrot(path: Path, made: tiny.Words, *says: str) -> Path:
    """A model that says these tokens and letters, each once."""
    ids = [
        made.tokens.index(part) if part in made.tokens else made.tokens.index(letter)
        for part in says
        for letter in ([part] if part in made.tokens else part)
    ]
    return tiny.write_parrot(path, made, ids)


def gpt_oss(path: Path) -> Path:
    """Says the same in its thought and in its answer, and ends both messages."""
    return parrot(path, words(*HARMONY_TOKENS, template=HARMONY), "<|message|>", BOXED, "<|end|>")


def magistral(path: Path) -> Path:
    """Opens a thought, closes it, and answers."""
    return parrot(path, words("[THINK]", "[/THINK]"), "Ċ", "[THINK]", "hm", "[/THINK]", BOXED, "<|im_end|>")
