"""Control tokens that texts of chains have all the same: the marks around thoughts, and those of calls of tools.

Thoughts stand between `<think>` and `</think>` in texts, however the model spells it:

| family | a thought |
|---|---|
| DeepSeek, Qwen and most others | `<think>` ... `</think>`; control tokens in some of them |
| Mistral | `[THINK]` ... `[/THINK]` |
| Seed, MiniMax M3 | `<seed:think>` ... `</seed:think>`, `<mm:think>` ... `</mm:think>` |
| Cohere | `<|START_THINKING|>` ... `<|END_THINKING|><|START_RESPONSE|>` |
| Apertus | `<|inner_prefix|>` ... `<|inner_suffix|>` |
| Gemma 4 | `<|channel>thought` ... `<channel|>` |
| Kimi | `◁think▷` ... `◁/think▷` |
| gpt-oss | `<|channel|>analysis<|message|>` ... `<|end|>`, then `<|start|>assistant<|channel|>final<|message|>` |

gpt-oss says of each message what kind it is. Where it may call tools the text leaves that to the model: `</think>` is
followed by `<|start|>assistant`, and the model goes on with `<|channel|>final<|message|>` or with a call.

They have one spelling, so that the models of a pair may have two, and so that what is read from a text need not know
either. A vocabulary whose marks are tokens gives and takes these for it. Calls stay as each family writes them
(`call_formats.py`): what reads them knows all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from a1agent.call_formats import CALL_TOKENS, CHANNEL_TOKENS
from a1agent.prompts import BLANK_LINE, MESSAGE_START, THINK_CLOSE, THINK_OPEN, THOUGHT_CLOSING, THOUGHT_OPENING

__all__ = ["HARMONY", "SPELLINGS", "Spelling", "TextMarks", "find_marks"]


@dataclass(frozen=True, slots=True)
class Spelling:
    """The marks of a family, cut into tokens and the words between them.

    `ends`: of one whose thought is a message of its own, so that the model ends its turn there, the tokens that end the
    thought, the answer and a call; `call`: how a call begins there; `loose`: white space stands beside the marks.
    """

    open: tuple[str, ...]
    close: tuple[str, ...]
    ends: tuple[str, ...] = ()
    call: tuple[str, ...] = ()
    loose: bool = False

    @property
    def tokens(self) -> list[str]:
        """What must be tokens for a vocabulary to be of this family."""
        return [part for part in self._parts if not part.strip().isalpha()]

    @property
    def words(self) -> list[str]:
        """What stands between the tokens."""
        return [part for part in self._parts if part not in self.tokens]

    @property
    def _parts(self) -> tuple[str, ...]:
        return (*self.open, *self.close, *self.ends, *self.call)

    def pattern(self) -> str:
        """The marks in a text, with the line breaks that the engine puts beside them or the word that the model has."""
        if self.loose:
            return f"{THINK_OPEN}|{THINK_CLOSE}"
        after = "|".join(("\n", *(re.escape(part) for part in self.open[-1:] if part in self.words)))
        kind = f"{re.escape(MESSAGE_START)}|" if self.call else ""
        return f"{THINK_OPEN}(?:{after})?|\n?{THINK_CLOSE}(?:{kind}{BLANK_LINE})?"

    def spelled(self, text: str) -> str:
        """A text with the marks as its model has them."""
        return text.replace(THOUGHT_OPENING, "".join(self.open)).replace(THOUGHT_CLOSING, "".join(self.close))


HARMONY = Spelling(
    ("<|channel|>", "analysis", "<|message|>"),
    ("<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>"),
    ends=("<|end|>", "<|return|>", "<|call|>"),
    call=("<|channel|>", "commentary"),
)
SPELLINGS = (
    HARMONY,
    Spelling(("[THINK]",), ("[/THINK]",)),
    Spelling(("<seed:think>",), ("</seed:think>",)),
    Spelling(("<mm:think>",), ("</mm:think>",)),
    Spelling(("<|START_THINKING|>",), ("<|END_THINKING|>", "<|START_RESPONSE|>")),
    Spelling(("<|START_THINKING|>",), ("<|END_THINKING|>", "<|START_TEXT|>")),
    Spelling(("<|inner_prefix|>",), ("<|inner_suffix|>",)),
    Spelling(("<|channel>", "thought\n"), ("<channel|>",)),
    Spelling(("◁think▷",), ("◁/think▷",)),
    Spelling((THINK_OPEN,), (THINK_CLOSE,), loose=True),
)


@dataclass(frozen=True, slots=True)
class TextMarks:
    """The marks of one vocabulary. `calls`: the tokens of calls by text; `spelling`: of thoughts, where they have one.

    `pattern`: the marks in a text. `ends`: the tokens that end a thought, an answer and a call (one that begins with
    `call_ids`), of models that end their turn with each; `pieces`: what the tokens among the marks add to a text.
    """

    spelling: Spelling | None
    pattern: re.Pattern[str]
    calls: Mapping[str, int]
    open_ids: tuple[int, ...] = ()
    close_ids: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    call_ids: tuple[int, ...] = ()
    pieces: Mapping[int, bytes] = field(default_factory=dict[int, bytes])

    @property
    def channels(self) -> bool:
        """Whether the model says of each message what kind it is."""
        return bool(self.call_ids)

    def parts(self, text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """A text cut at its marks: what stands before each, and the mark's ids; none at the end."""
        parts = self.pattern.split(text)
        for rest, mark in zip(parts[::2], [*parts[1::2], ""], strict=True):
            yield rest, self._ids(mark) if mark else ()

    def _ids(self, mark: str) -> tuple[int, ...]:
        if mark in self.calls:
            return (self.calls[mark],)
        if mark.endswith(MESSAGE_START):  # what kind of message follows is up to the model
            return self.close_ids[: self.close_ids.index(self.open_ids[0])]
        return self.close_ids if THINK_CLOSE in mark else self.open_ids

    def tokenize(self, text: str, plain: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text that has marks; `plain` gives those of the rest."""
        return [token for rest, mark in self.parts(text) for token in (*(plain(rest) if rest else ()), *mark)]

    def as_text(self, prompt: str) -> str:
        """A rendered prompt with the opening of a thought as texts have it."""
        opening = "" if self.spelling is None else "".join(self.spelling.open).rstrip()
        return prompt.replace(opening, THINK_OPEN) if opening else prompt

    def end_after(self, ids: Sequence[int]) -> int | None:
        """The token that ends the turn after these, where that is not the same everywhere."""
        if not self.ends:
            return None
        thought, answer, call = self.ends
        start = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] == self.open_ids[0]), len(ids))
        if tuple(ids[start : start + len(self.call_ids)]) == self.call_ids:
            return call
        return thought if tuple(ids[start : start + len(self.open_ids)]) == self.open_ids else answer


def find_marks(
    tokens: Mapping[str, int], hidden: Collection[str], plain: Callable[[str], list[int]]
) -> TextMarks | None:
    """The marks of a vocabulary that must be given and taken for those of texts; None where texts show them as such.

    `tokens`: ids of the tokens that stand for a text as a whole; `hidden`: those of them that texts do not show.
    """
    spelling = next((each for each in SPELLINGS if all(token in tokens for token in each.tokens)), None)
    if spelling is not None and spelling.loose and not {*spelling.tokens} & {*hidden}:
        spelling = None
    kinds = CHANNEL_TOKENS if spelling is not None and spelling.call else frozenset[str]()
    calls = {token: tokens[token] for token in (CALL_TOKENS | kinds) & {*hidden} if token in tokens}
    if spelling is None and not calls:
        return None
    words = [*([] if spelling is None else [spelling.pattern()]), *map(re.escape, sorted(calls, key=len, reverse=True))]
    pieces = {token: text.encode() for text, token in calls.items()}
    marks = TextMarks(spelling, re.compile(f"({'|'.join(words)})"), calls, pieces=pieces)
    if spelling is None:
        return marks
    opened, closed, call = (
        tuple(i for part in parts for i in ([tokens[part]] if part in tokens else plain(part)))
        for parts in (spelling.open, spelling.close, spelling.call)
    )
    marks = replace(marks, open_ids=opened, close_ids=closed, call_ids=call)
    if spelling.ends:  # its model writes neither: the prompt opens the thought, the end of the turn closes it
        return replace(marks, ends=tuple(tokens[end] for end in spelling.ends))
    return replace(marks, pieces=pieces | {opened[0]: THINK_OPEN.encode(), closed[0]: THINK_CLOSE.encode()})
