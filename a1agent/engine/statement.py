"""How the chains of a call state their answer, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from a1agent.engine.extract import Answer, Kind, extract_answer, may_answer
from a1agent.prompts import BOX_OPENING

__all__ = ["Statement", "plain_statement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What counts as an answer of a chain, and how one that stated none is made to.

    `read`: the answer in a chain's message, None when it states none. `may_state`: False where it is certain that a
    message states no answer that its beginning, of so many characters, does not state. `early`: whether a chain is done
    as soon as its message holds a box, without ending by itself. `required`: a message that ends without an answer does
    not do. `calls`: it may be a call of a tool. `opening`: put before the statement that a chain is made to give, None:
    nothing; `closing`: ends it, and is dropped; `tokens`: the most it may take; `schema`: the JSON schema that models
    which can be held to one then follow.
    """

    read: Callable[[str], Answer | None]
    tokens: int
    early: bool = False
    required: bool = False
    calls: bool = False
    opening: str | None = None
    closing: str | None = None
    may_state: Callable[[str, int], bool] = lambda _message, _since: True
    schema: Mapping[str, Any] | None = None


def plain_statement(kind: Kind, boxed: bool, tokens: int) -> Statement:
    """An answer of a kind in the chain's own words; with `boxed` the prompt asks for a box."""

    def read(message: str) -> Answer | None:
        return extract_answer(message, kind)

    if not boxed:
        return Statement(read=read, tokens=tokens)
    looked_at: dict[str, Any] = {"may_state": may_answer} if kind in ("auto", "boxed") else {}
    return Statement(read=read, tokens=tokens, early=True, opening=BOX_OPENING, **looked_at)
