r"""Patterns of JSON schemas as the converter of schemas to llama.cpp's grammars takes them.

It wants a pattern anchored at both ends, takes it for what stands in the JSON text, where quotes and backslashes are
escaped, and hands on what llama.cpp does not know: `\d`, `(?:...)`, `+?`. The patterns made here are classes of
characters that JSON does not escape, groups and repetitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["MOST_REPEATED", "json_pattern"]

MOST_REPEATED = 1000
"""Of one item or character. llama.cpp refuses 1,500 repetitions, and tens of thousands end the process."""
_DEEPEST = 32
_ALL = ((0, 0xD7FF), (0xE000, 0x10FFFF))
_ASCII = ((0, 0x7F),)
_ESCAPED = ((0, 0x1F), (ord('"'), ord('"')), (ord("\\"), ord("\\")), (0x7F, 0x7F))
_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D))
_SHORT = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x09, 0x0D), (0x20, 0x20)),
}
_CODES = {"x": 2, "u": 4}

_Ranges = tuple[tuple[int, int], ...]


class _Part(NamedTuple):
    """A part of a pattern. `size`: the most repetitions in it, inner times outer ones; `empty`: whether it may be."""

    text: str
    size: int = 1
    empty: bool = False


def json_pattern(pattern: str) -> tuple[str, int]:
    """The pattern for the converter, and the number of repetitions in it.

    It never allows what the given one does not, and allows less where JSON writes a character with a backslash. Raises
    `ValueError` for one that looks around or back, or repeats too much.
    """
    return _Reader(pattern).whole()


@dataclass
class _Reader:
    text: str
    at: int = 0
    depth: int = 0
    repeated: int = 0

    def whole(self) -> tuple[str, int]:
        part = self._alternatives(self._branch)
        if self.at < len(self.text):
            raise ValueError(f"{self.text[self.at]!r} inside a pattern")
        if part.size > MOST_REPEATED:
            raise ValueError(f"{part.size} repetitions")
        return f"^({part.text})$", self.repeated

    def _branch(self) -> _Part:
        """What stands between anchors, or beside them anything."""
        before = "" if self._takes("^") else _ANYTHING
        part = self._sequence()
        after = "" if self._takes("$") else _ANYTHING
        return _Part(before + part.text + after, part.size)

    def _alternatives(self, read: Callable[[], _Part]) -> _Part:
        parts = [read()]
        while self._takes("|"):
            parts.append(read())
        size, empty = max(part.size for part in parts), any(part.empty for part in parts)
        return _Part("|".join(part.text for part in parts), size, empty)

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)$":
            parts.append(self._repeated(self._atom()))
        size, empty = max((part.size for part in parts), default=1), all(part.empty for part in parts)
        return _Part("".join(part.text for part in parts), size, empty)

    def _atom(self) -> _Part:
        mark = self._next()
        if mark == "(":
            return self._group()
        if mark == "[":
            return _Part(_class(self._set()))
        if mark == ".":
            return _Part(_class(_without(_ALL, _LINE_ENDS)))
        if mark == "\\":
            return _Part(_class(self._escape()))
        if mark in "^*+?{":
            raise ValueError(f"{mark!r} inside a pattern")
        return _Part(_class(_one(mark)))

    def _group(self) -> _Part:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if self._takes("?"):
            self._takes("P")
            if self._takes("<") and self.text[self.at : self.at + 1] not in ("=", "!"):
                self.at = self.text.index(">", self.at) + 1
            elif not self._takes(":"):
                raise ValueError("it looks around")
        inside = self._alternatives(self._sequence)
        if not self._takes(")"):
            raise ValueError("a group has no end")
        self.depth -= 1
        return inside._replace(text=f"({inside.text})")

    def _repeated(self, part: _Part) -> _Part:
        mark = self.text[self.at : self.at + 1]
        if not mark or mark not in "*+?{":
            return part
        self.at += 1
        size, empty = part.size, part.empty or mark in "*?"
        if mark == "{":
            end = self.text.index("}", self.at)
            times = [int(number) for number in self.text[self.at : end].split(",") if number]
            if not times:
                raise ValueError("a brace that counts nothing")
            if part.empty:
                raise ValueError("it counts what may be empty")
            mark, self.at, size = f"{{{self.text[self.at : end]}}}", end + 1, size * max(*times, 1)
            empty = min(times) == 0 or mark.startswith("{,")
            self.repeated += max(times)
        self._takes("?")  # which of several matches it prefers is all one
        return _Part(part.text + mark, size, empty)

    def _set(self) -> _Ranges:
        negated = self._takes("^")
        found: list[tuple[int, int]] = []
        short = False
        while not self._takes("]"):
            if self.text.startswith("[:", self.at):
                raise ValueError("a named class")
            (low, high), *more = self._member()
            short |= bool(more) or low != high
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                _, high = self._member()[-1]
            found += [(low, high), *more]
        if negated:  # what words are beyond ASCII is told in two ways
            return _without(_ASCII if short else _ALL, tuple(found))
        return tuple(found)

    def _member(self) -> _Ranges:
        mark = self._next()
        return self._escape() if mark == "\\" else _one(mark)

    def _escape(self) -> _Ranges:
        mark = self._next()
        if mark in _SHORT:
            return _SHORT[mark]
        if mark.lower() in _SHORT:
            return _without(_ASCII, _SHORT[mark.lower()])
        if mark in _CODES:
            digits = self.text[self.at : self.at + _CODES[mark]]
            self.at += len(digits)
            return _one(chr(int(digits, 16)))
        if mark.isalnum():
            raise ValueError(f"\\{mark}")
        return _one(mark)

    def _next(self) -> str:
        if self.at == len(self.text):
            raise ValueError("it breaks off")
        self.at += 1
        return self.text[self.at - 1]

    def _takes(self, mark: str) -> bool:
        found = self.text.startswith(mark, self.at)
        self.at += len(mark) if found else 0
        return found


def _one(character: str) -> _Ranges:
    return ((ord(character), ord(character)),)


def _without(ranges: _Ranges, others: _Ranges) -> _Ranges:
    for start, end in others:
        cut = (piece for low, high in ranges for piece in ((low, min(high, start - 1)), (max(low, end + 1), high)))
        ranges = tuple((low, high) for low, high in cut if low <= high)
    return ranges


def _class(ranges: _Ranges) -> str:
    """A class of those that JSON does not escape."""
    kept = sorted(_without(ranges, _ESCAPED))
    if not kept:
        raise ValueError("JSON escapes it")
    return f"[{''.join(_spelled(low) + (f'-{_spelled(high)}' if high > low else '') for low, high in kept)}]"


def _spelled(code: int) -> str:
    if code < 0x80:
        return chr(code) if chr(code).isalnum() else f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


_ANYTHING = f"{_class(_ALL)}*"
