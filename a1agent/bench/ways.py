"""The ways to answer that a run compares, and the agents that go them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from a1agent.agent import A1
from a1agent.config import BaselineName, Options
from a1agent.errors import InvalidOption, nearest
from a1agent.models import SAME

__all__ = ["MODES", "RATED", "Mode", "Way", "agent_of", "chains_of", "modes_of", "shares_of", "ways_of"]

Mode = Literal["draft", "target", "a1", "a1-random", "a1-sync"]
MODES: tuple[Mode, ...] = get_args(Mode)
RATED: dict[Mode, BaselineName] = {"a1": "none", "a1-random": "random", "a1-sync": "ranking"}
"""The modes in which a target takes over at a rate, and what decides about the steps in them."""


@dataclass(frozen=True, slots=True)
class Way:
    """A mode at a rejection rate (0 for a model alone), a number of chains, and a share of steps that are scored.

    `also`: what it differs in from the ways that all modes are compared in, for tables and plots of their own.
    """

    mode: Mode
    rate: float
    chains: int
    verify: float = 1.0
    also: Literal["chains", "scored", None] = None

    @property
    def main(self) -> bool:
        """Whether it is one of those that are compared."""
        return self.also is None

    @property
    def name(self) -> str:
        """Its name in records and tables."""
        rated = f"{self.mode} {self.rate:g}" if self.mode in RATED else self.mode
        return {None: rated, "chains": f"{rated}, {self.chains} chains", "scored": f"{rated}, {self.verify:g} scored"}[
            self.also
        ]


def ways_of(
    modes: Sequence[Mode],
    rates: Sequence[float],
    options: Options,
    *,
    more_chains: Sequence[int] = (),
    scored: Sequence[float] = (),
) -> list[Way]:
    """All ways of a run: every mode at every rate.

    Further ones are at the options' own rejection rate: the target, A1 and its barrier with `more_chains`, and A1 with
    shares of steps `scored`.
    """
    chains, verify, rate = options.chains, options.verify_rate, options.rejection_rate
    ways = [Way(mode, r, chains, verify) for mode in modes for r in (rates if mode in RATED else [0.0])]
    for count in more_chains:
        ways += [
            Way(mode, rate if mode in RATED else 0.0, count, verify, "chains")
            for mode in modes
            if mode in ("target", "a1", "a1-sync") and count != chains
        ]
    return ways + [Way("a1", rate, chains, share, "scored") for share in scored if share != verify and "a1" in modes]


def agent_of(way: Way, draft: str, target: str, options: Options, calibration: Path | None) -> A1:
    """The agent of a way. A model alone is its own target at rate 0, and reads nothing that it wrote."""
    names = asdict(options)
    names |= {"chains": way.chains, "rejection_rate": way.rate, "baseline": RATED.get(way.mode, "none")}
    if way.mode == "a1-sync":
        names["lookahead"] = "off"  # its chains wait for each other
    if way.mode in RATED:
        return A1(draft, target, calibration=calibration, **names | {"verify_rate": way.verify})
    alone = draft if way.mode == "draft" or target == SAME else target
    if options.takeover == "rollback":
        names["takeover"] = "rewrite"  # there is none, and a draft need not tell what its tokens are
    return A1(alone, SAME, calibration=None, **names | {"verify_rate": 0.0, "lookahead": "auto"})


def modes_of(text: str) -> list[Mode]:
    """Modes from a list with commas. Raises `InvalidOption`."""
    words = _words(text, "modes")
    for word in words:
        if word not in MODES:
            raise InvalidOption(f"there is no mode {word!r}", nearest(word, MODES))
    return cast("list[Mode]", words)


def shares_of(text: str, flag: str) -> list[float]:
    """Shares between 0 and 1 from a list with commas. Raises `InvalidOption`."""
    shares: list[float] = []
    for word in _words(text, flag):
        try:
            share = float(word)
        except ValueError:
            raise InvalidOption(f"{word!r} in --{flag} is no number", f"for example --{flag} 0.1,0.3,0.5") from None
        if not 0 <= share <= 1:
            raise InvalidOption(f"{word} in --{flag} is no rate", "a rate is a share between 0 and 1")
        shares.append(share)
    return list(dict.fromkeys(shares))


def chains_of(text: str) -> list[int]:
    """Numbers of chains from a list with commas. Raises `InvalidOption`."""
    words = _words(text, "more-chains")
    for word in words:
        try:
            Options.of(chains=int(word))
        except ValueError as error:
            what = f"{word!r} in --more-chains is no number of chains"
            raise InvalidOption(what, getattr(error, "hint", "for example --more-chains 2,4,16")) from None
    return list(dict.fromkeys(map(int, words)))


def _words(text: str, flag: str) -> list[str]:
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if not words:
        raise InvalidOption(f"--{flag} is empty", "give a list with commas")
    return list(dict.fromkeys(words))
