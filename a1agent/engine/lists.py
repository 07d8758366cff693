r"""Takes apart answers of several parts: tuples, intervals, sets, and bare lists: `1, 2`, `x = 1 or x = 2`, `\pm 3`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Parts", "bracketed", "key_of_parts", "several", "unnamed"]

_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "{": "}", "\\langle ": "\\rangle"}
_BRACKET = re.compile(r"\\[{}]|\\[lr]angle|[()\[\]{}]|,")
_OPENERS = frozenset({"(", "[", "{", "\\{", "\\langle"})
_NAME = r"[A-Za-z](?:_(?:[0-9A-Za-z]|\{[0-9A-Za-z]+\})|\([a-z]\))?"
_NAMED = re.compile(rf"({_NAME}|\( ?{_NAME}(?: ?, ?{_NAME})+ ?\)) ?(?:=|\u2248|\\(?:in|approx)(?![A-Za-z])) ?(?=[^ =])")
_AND = re.compile(r",? (?:and|or) ")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_OPENER = re.compile(r"[(\[]|\\\{")
_PADDED = re.compile(r"0[0-9]")
"""10,00,000 is one number, as they group digits in India."""
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}|(?<![A-Za-z\\])[A-Z](?![A-Za-z])")
_RELATION = re.compile(r"[=<>\u2208]|\\(?:leq|geq|neq|lt|gt|in|notin|approx|equiv|ldots|cdots|dots)(?![A-Za-z])|\.\.")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z]) ?")
_MOST = 64
"""Parts. Longer lists are left as written: each comparison of two takes their product."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an answer, the brackets around them (empty for a bare list), and the names before them, if any."""

    opener: str
    closer: str
    texts: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether the order of the parts matters, as in a tuple or an interval."""
        return self.opener in ("(", "[", "\\langle ")


def unnamed(text: str) -> str:
    r"""Without the name before a value: `x = 3`, `x \in [1, 2]`, `(x, y) = (1, 2)`."""
    named = _NAMED.match(text)
    rest = text[named.end() :] if named else text
    return text if _RELATION.search(rest) else rest


def bracketed(text: str) -> Parts | None:
    """The parts of a bracketed list. None: it is no such list, or one without parts."""
    opener = next((left for left in ("\\{", "\\langle ", "\\langle") if text.startswith(left)), text[:1])
    closer = next((right for right in ("\\}", "\\rangle") if text.endswith(right)), text[-1:])
    if opener.startswith("\\langle"):
        inner, opener = text[len(opener) :], "\\langle "
    else:
        inner = text[len(opener) :]
    if opener not in _BRACKETS or closer not in _BRACKETS.values():
        return None
    # Intervals may close with the other bracket, nothing else may.
    if _BRACKETS[opener] != closer and not (opener in "([" and closer in ")]"):
        return None
    texts = _split(inner[: -len(closer)])
    if texts is None or (len(texts) < 2 and opener != "\\{"):
        return None
    if opener not in ("{", "\\{"):
        return Parts(opener, closer, texts)
    return Parts("\\{", "\\}", tuple(signed for text in texts for signed in _signed(text)))


def several(text: str) -> Parts | None:
    r"""The parts of a bare list, with `\pm` for two of them; None where order or words may matter.

    Units, letters of choices, prose and relations may: 2 hours and 30 minutes are not 30 hours and 2 minutes.
    """
    text = _AND.sub(", ", text)
    if ", " in text and not _OPENER.search(text):  # else a comma without a space may be what parts them
        text = _THOUSANDS.sub("", text)
    texts = _split(text)
    if texts is None or any(_PADDED.match(part) for part in texts):
        return None
    pairs = [pair for part in texts for pair in _named_values(part.strip())]
    names, values = tuple(name for name, _ in pairs), tuple(value for _, value in pairs)
    if len(values) < 2 or any(not value or _WORD.search(value) or _RELATION.search(value) for value in values):
        return None
    others = {name for name in names[1:] if name}
    # One name, written before each value or before the first only, names them all.
    return Parts("", "", values, names if others - {names[0]} else ())


def _named_values(part: str) -> list[tuple[str, str]]:
    named = _NAMED.match(part)
    name, value = (named[1], part[named.end() :]) if named else ("", part)
    return [(name, signed) for signed in _signed(value)]


def _signed(value: str) -> list[str]:
    """The two values of one plus-minus; two of them may be meant to have the same sign."""
    return [_PLUS_MINUS.sub(sign, value) for sign in "+-"] if len(_PLUS_MINUS.findall(value)) == 1 else [value]


def key_of_parts(parts: Parts, keys: list[str], *, nested: bool) -> str:
    """A list with the keys of its parts in place of the parts; those of a set, and of a bare list, in order.

    A set of one answer is that answer, unless it is `nested` in another list or holds a set.
    """
    if parts.ordered:
        return parts.opener + ", ".join(keys) + parts.closer
    if parts.names:
        return ", ".join(sorted(f"{name}={key}" if name else key for name, key in zip(parts.names, keys, strict=True)))
    if not parts.opener and len(set(keys)) < len(keys):  # a root that counts twice; a set holds nothing twice
        return ", ".join(sorted(keys))
    if len(set(keys)) == 1 and not (nested or _is_set(keys[0])):  # the only answer
        return keys[0]
    return "\\{" + ", ".join(sorted(set(keys))) + "\\}"


def _is_set(key: str) -> bool:
    return key.startswith(("\\{", "\\emptyset"))


def _split(inner: str) -> tuple[str, ...] | None:
    """The parts between top-level commas; None for an empty one, for brackets that do not match, and for too many."""
    parts: list[str] = []
    start = level = 0
    for token in _BRACKET.finditer(inner):
        if token[0] == ",":
            if level == 0:
                parts.append(inner[start : token.start()])
                start = token.end()
            continue
        level += 1 if token[0] in _OPENERS else -1
        if level < 0:
            return None
    parts.append(inner[start:])
    whole = level == 0 and len(parts) <= _MOST and all(part.strip() for part in parts)
    return tuple(part.strip() for part in parts) if whole else None
