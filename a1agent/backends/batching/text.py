"""The text of tokens as they are sampled: never half a character; where it stops; where a word ends."""

from __future__ import annotations

import codecs
from bisect import bisect_left
from dataclasses import dataclass

from a1agent.backends.base import Stop
from a1agent.prompts import find_shown

__all__ = ["Cut", "TokenText", "find_stop", "word_end"]

_Decoder = codecs.getincrementaldecoder("utf-8")
_WORD_TOKENS = 24  # a longer run without white space is not taken for a word


class TokenText:
    """Text of a growing list of tokens. `ends[i]`: its length after token i; `whole[i]`: no character is open."""

    def __init__(self) -> None:
        self.text = ""
        self.ends: list[int] = []
        self.whole: list[bool] = []
        self._decoder = _Decoder(errors="replace")

    def push(self, piece: bytes) -> None:
        """Adds the bytes of one token."""
        self.text += self._decoder.decode(piece)
        self.ends.append(len(self.text))
        self.whole.append(not self._decoder.getstate()[0])

    def before(self, tokens: int) -> int:
        """Length of the text of the first `tokens` tokens."""
        return self.ends[tokens - 1] if tokens else 0

    def tokens_within(self, length: int) -> int:
        """Most tokens that end on a character within the first `length` characters; fewest when several end there."""
        tokens = bisect_left(self.ends, length)
        if tokens < len(self.ends) and self.ends[tokens] == length:
            tokens += 1
        while tokens and not self.whole[tokens - 1]:
            tokens -= 1
        return tokens


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a text stops: its length, and the stop string met there (None: the boundary)."""

    length: int
    string: str | None = None


def find_stop(tokens: TokenText, stop: Stop) -> Cut | None:
    """The first stop that the last token completes, if any; what a stop string starts before wins."""
    text, count = tokens.text, len(tokens.ends)
    known = tokens.before(count - 1)
    cuts: list[tuple[int, Cut]] = []
    for string in stop.strings:
        at = find_shown(text, string, max(0, known - len(string) + 1), stop.after)
        if at >= 0:
            cuts.append((at, Cut(at, string)))
    if stop.boundary and count >= stop.min_tokens:
        at = text.find(stop.boundary, max(0, known - len(stop.boundary) + 1))
        if at >= 0:
            end = at + len(stop.boundary)
            cuts.append((end, Cut(end + _leading_space(text[end:]))))
    return min(cuts, key=lambda pair: pair[0])[1] if cuts else None


def word_end(tokens: TokenText) -> int:
    """How many tokens to keep so that the text ends at a word and a character, the next word being unknown.

    White space borders come first, then any border of a run of letters and digits, then any whole character.
    """
    text, count = tokens.text, len(tokens.ends)
    for border in (_space_border, _letter_border):
        for kept in range(count, max(count // 2, count - _WORD_TOKENS), -1):
            if tokens.whole[kept - 1] and border(text, tokens.ends[kept - 1]):
                return kept
    return tokens.tokens_within(len(text))


def _leading_space(text: str) -> int:
    return len(text) - len(text.lstrip())


def _space_border(text: str, at: int) -> bool:
    return at > 0 and (text[at - 1].isspace() or (at < len(text) and text[at].isspace()))


def _letter_border(text: str, at: int) -> bool:
    return at > 0 and not (_joins(text[at - 1]) and (at == len(text) or _joins(text[at])))


def _joins(character: str) -> bool:
    """Whether a character makes words with its neighbours: letters and digits of scripts that put spaces between."""
    return character.isalnum() and not 0x2E80 <= ord(character) < 0xFB00
