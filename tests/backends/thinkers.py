"""Tiny models that think and call tools as others do: their marks of thoughts and of calls are control tokens."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from a1agent.call_formats import CALL_TOKENS
from tests.backends import tiny

USER = 4
"""The type of tokens that stand for a text as a whole, and are no control tokens."""
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
BOXED = "\\boxed{7}"
HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")


WITH_TOOLS = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}" + tiny.CHATML
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}},
}
ARGUMENTS = '{"what": "7 it"}'
CALLS = {
    "mistral": ("[TOOL_CALLS]", "look_up", "[ARGS]", ARGUMENTS),
    "gemma": ("<|tool_call>", 'call:look_up{what:<|"|>7 it', '<|"|>', "}", "<tool_call|>"),
    "deepseek": ("<｜tool▁call▁begin｜>", "look_up", "<｜tool▁sep｜>", ARGUMENTS, "<｜tool▁call▁end｜>"),
    "qwen": ("<tool_call>", "<function=look_up><parameter=what>7 it</parameter></function>", "</tool_call>"),
}
"""Calls of that tool, cut at their control tokens."""


def words(
    *control: str, template: str = tiny.CHATML, kind: int = tiny.CONTROL, plain: Sequence[str] = ()
) -> tiny.Words:
    """A vocabulary with control tokens, and with texts that are one token each."""
    made = tiny.bpe_words(template)
    types = [*made.types, *[kind] * len(control), *[USER] * len(plain)]
    return replace(made, tokens=[*made.tokens, *control, *plain], types=types)


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


def gpt_oss_caller(path: Path, first: bool = False) -> Path:
    """As `gpt_oss`, but what it says after its thought calls a tool. `first`: it says which before what kind it is."""
    kind = (" to=functions.look_up", "<|channel|>", "commentary json")
    said = kind if first else ("<|channel|>", "commentary to=functions.look_up ", "<|constrain|>", "json")
    return channels(path, *said, "<|message|>", ARGUMENTS)


def channels(path: Path, *says: str) -> Path:
    """As `gpt_oss`, but after its thought it says of what kind its message is; both say the same."""
    plain = [part for part in ("assistant", *says) if not part.startswith("<")]
    tools = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    made = words(*HARMONY_TOKENS, "<|constrain|>", template=tools + HARMONY, plain=plain)
    return parrot(path, made, "assistant", *says, "<|end|>")


def magistral(path: Path) -> Path:
    """Opens a thought, closes it, and answers."""
    return parrot(path, words("[THINK]", "[/THINK]"), "Ċ", "[THINK]", "hm", "[/THINK]", BOXED, "<|im_end|>")


def caller(path: Path, family: str) -> Path:
    """Calls a tool."""
    said = CALLS[family]
    marks = [part for part in said if part in CALL_TOKENS]
    made = words(*marks, template=WITH_TOOLS, plain=[part for part in said if part not in marks and len(part) > 1])
    return parrot(path, made, "Ċ", *said, "<|im_end|>")
