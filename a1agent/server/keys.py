"""API keys: several, named, read from a file or the environment, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path

from a1agent.errors import InvalidOption, UsageError, unreadable

__all__ = ["VARIABLE", "Keys", "read_keys"]

VARIABLE = "A1_API_KEYS"
"""`name=key` pairs, separated by commas or line ends."""

_LEAST = 16
_COMMENT = re.compile(r"(?:^|\s)#")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Keys:
    """Named keys, of which only digests are kept. Without any, everybody is let in, under no name."""

    def __init__(self, keys: Mapping[str, str] | None = None) -> None:
        self._digests = {name: _digest(key) for name, key in (keys or {}).items()}

    def __len__(self) -> int:
        return len(self._digests)

    def name_of(self, authorization: str | None) -> str | None:
        """Whose key the `Authorization` header holds, None for nobody's; `""` where no keys are asked for.

        Every key is compared, and each in constant time: how long it takes tells nothing.
        """
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        found: str | None = None
        for name, digest in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found if scheme.lower() == "bearer" else None


def read_keys(path: Path | None = None) -> Keys:
    """The keys of a file (`name=key`, one a line; `#` at the beginning of a line or after a space
    begins a comment) and of the environment.

    Raises `UsageError` for a file that cannot be read, and `InvalidOption` for a line that is no key.
    """
    found: dict[str, str] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the key file {unreadable(path, error)}", "it is text, name=key on a line") from None
        _parse(text.splitlines(), str(path), found)
    _parse(re.split(r"[,\n]", os.environ.get(VARIABLE, "")), VARIABLE, found)
    return Keys(found)


def _parse(lines: list[str], source: str, found: dict[str, str]) -> None:
    for number, line in enumerate(lines, 1):
        text = _COMMENT.split(line, maxsplit=1)[0].strip()
        if not text:
            continue
        name, equals, key = (part.strip() for part in text.partition("="))
        if not equals or not _NAME.fullmatch(name):  # the line may be a key: it is never repeated
            raise InvalidOption(f"entry {number} of {source} is not name=key", "a name has letters, digits and . _ -")
        if len(key) < _LEAST:
            raise InvalidOption(
                f"the key of {name!r} in {source} has fewer than {_LEAST} characters", "make a long, random one"
            )
        if name in found:
            raise InvalidOption(f"there are two keys named {name!r} in {source}", "give each its own name")
        found[name] = key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
