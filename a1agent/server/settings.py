"""What the operator of a server decides: who may come in, how much one request may take, how many run."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field

from a1agent.errors import InvalidOption
from a1agent.server.keys import Keys

__all__ = ["ServerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server is run; no request can change any of it. Raises `InvalidOption` for impossible values.

    `max_*` cap what one request may ask for: `max_chains` its chains over all `n` answers, `max_tokens` those of a
    chain, `max_seconds` its whole time, waiting included. `grace_s`: how long requests may still run at shutdown.
    `running` requests run at a time and `waiting` may wait. API keys that have requests waiting take turns, and each
    may always have its share of `waiting` in the queue.
    """

    name: str = "a1"
    keys: Keys = field(default_factory=Keys)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_n: int = 8
    max_chains: int = 64
    max_turns: int = 64
    max_tokens: int = 32768
    max_seconds: float = 300.0
    max_body_bytes: int = 2**20
    running: int = 16
    waiting: int = 64
    keep_alive_s: float = 5.0
    slow_reader_s: float = 30.0
    body_timeout_s: float = 30.0
    grace_s: float = 10.0
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(f.default, bool) or not isinstance(f.default, int | float):
                continue
            least = 0 if f.name in ("waiting", "grace_s") else 1 if isinstance(f.default, int) else 0.001
            if not least <= value < math.inf:
                raise InvalidOption(f"{f.name} is {value}", f"use {least} or more")
        if not re.fullmatch(r"[\w./:-]{1,128}", self.name, re.ASCII):
            raise InvalidOption(f"the model name {self.name!r}", "use letters, digits and . / : _ -")
        for origin in self.allowed_origins:
            if not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise InvalidOption(f"the origin {origin!r}", "write it as browsers do: https://example.org")
