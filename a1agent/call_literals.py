"""Values and arguments in the spellings that models use beside JSON: Python's, and Gemma's with its own quotes."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["Literals", "either"]

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?(?![\w.])")
_WORD = re.compile(r"[^\W\d][\w.-]*")
_PLAIN = re.compile(r"[^,{}\[\]]+")
_QUOTED = {
    quote: re.compile(f"{re.escape(quote)}((?:[^{quote}\\\\]|\\\\.)*){re.escape(quote)}", re.DOTALL) for quote in "\"'"
} | {mark: re.compile(f"{re.escape(mark)}(.*?){re.escape(mark)}", re.DOTALL) for mark in ('<|"|>', "<escape>")}
_ESCAPE = re.compile(r"\\(U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", **{each: each for each in "\\/\"'"}}
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_DEEPEST = 64


class Literals:
    """Reads a text from its start. `at`: how far it was read. Every method raises `ValueError` for what is none.

    `plain`: words without quotes are texts.
    """

    def __init__(self, text: str, at: int = 0, *, plain: bool = False) -> None:
        self.at = at
        self._text = text
        self._plain = plain
        self._depth = 0

    def value(self) -> Any:
        """The next value."""
        self._skip()
        if self._depth == _DEEPEST:
            raise ValueError("it is nested too deeply")
        self._depth += 1
        try:
            return self._container()
        finally:
            self._depth -= 1

    def word(self) -> str:
        """The next name."""
        return self._match(_WORD)[0]

    def arguments(self, between: str, closing: str) -> tuple[dict[str, Any], list[Any]]:
        """What stands up to the closing bracket, each behind its name or, last, without one."""
        named: dict[str, Any] = {}
        unnamed: list[Any] = []
        while not self.takes(closing):
            start = self.at
            name = self._name()
            if name is not None and self.takes(between):
                named[name] = self.value()
            else:
                self.at = start
                unnamed.append(self.value())
            self._next(closing)
        return named, unnamed

    def takes(self, text: str) -> bool:
        """Whether this comes next; then it was read."""
        self._skip()
        found = self._text.startswith(text, self.at)
        if found:
            self.at += len(text)
        return found

    def ends(self) -> bool:
        """Whether nothing comes any more."""
        self._skip()
        return self.at == len(self._text)

    def _container(self) -> Any:
        if self.takes("{"):
            named, unnamed = self.arguments(":", "}")
            if unnamed:
                raise ValueError("a value has no name")
            return named
        if self.takes("["):
            values: list[Any] = []
            while not self.takes("]"):
                values.append(self.value())
                self._next("]")
            return values
        return self._scalar()

    def _scalar(self) -> Any:
        quoted = self._quoted()
        if quoted is not None:
            return quoted
        number = _NUMBER.match(self._text, self.at)
        if number:
            self.at = number.end()
            return float(number[0]) if set(number[0]) & set(".eE") else int(number[0])
        word = _WORD.match(self._text, self.at)
        if word and word[0] in _WORDS:
            self.at = word.end()
            return _WORDS[word[0]]
        if self._plain:
            return self._match(_PLAIN)[0].strip()
        raise ValueError("a value is none")

    def _name(self) -> str | None:
        self._skip()
        quoted = self._quoted()
        if quoted is not None:
            return quoted
        word = _WORD.match(self._text, self.at)
        self.at = word.end() if word else self.at
        return word[0] if word else None

    def _quoted(self) -> str | None:
        for mark, pattern in _QUOTED.items():
            if self._text.startswith(mark, self.at):
                found = self._match(pattern)[1]
                return _unescaped(found) if len(mark) == 1 else found
        return None

    def _next(self, closing: str) -> None:
        self._skip()
        if not self.takes(",") and not self._text.startswith(closing, self.at):
            raise ValueError(f"{closing!r} is missing")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        self._skip()
        match = pattern.match(self._text, self.at)
        if match is None:
            raise ValueError(f"it breaks off at {self._text[self.at : self.at + 20]!r}")
        self.at = match.end()
        return match

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self.at)
        self.at = space.end() if space else self.at


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_character, text)  # a character beyond 16 bits stands as two
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(match: re.Match[str]) -> str:
    if len(match[1]) == 1:
        return _ESCAPED.get(match[1], match[0])
    return chr(int(match[1][1:], 16))


def either(text: str) -> Any:
    """A text as the number, list or other value that it spells in JSON or Python, or as it is."""
    try:
        reader = Literals(text)
        value = reader.value()
    except ValueError:
        return text
    return value if reader.ends() and not isinstance(value, str) else text
