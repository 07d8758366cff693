"""Values that the calibrators take and give, and the randomness they share."""

from collections.abc import Iterable
from difflib import get_close_matches
from hashlib import blake2b
from typing import Literal, NamedTuple

__all__ = [
    "Coverage",
    "Decision",
    "Observed",
    "check_rate",
    "hashed_uniform",
    "turn_bucket",
    "unknown_name",
]

Coverage = Literal["marginal", "conditional"]

_SINGLE_TURN_BUCKETS = 16


class Decision(NamedTuple):
    """What a calibrator decided about one step: without `forced`, `rejected` is `p_value <= level`.

    A tuple, as what is made for every step is: a frozen dataclass takes several times as long to make.
    """

    p_value: float  # nan when the score was not finite
    level: float  # the level it was compared with
    rejected: bool
    calibration_size: int  # scores it was compared with
    forced: bool  # overruled by a bound on the rate, or taken over because the score was not finite


class Observed(NamedTuple):
    """What is known of one verified step.

    `question` names one call's instance of a question, so that the same question asked twice does not mix. It also
    feeds the hash behind the smoothed p-value: a key that is stable between runs makes runs repeatable.
    """

    score: float
    question: str
    chain: int
    turn: int
    attempt: int = 0


def turn_bucket(turn: int) -> int:
    """Group of a turn: one per turn below 16, then one per doubling (16 to 31, 32 to 63, ...).

    Raises ValueError for a negative turn.
    """
    if turn < 0:
        raise ValueError(f"turn must be 0 or more, not {turn}")
    return turn if turn < _SINGLE_TURN_BUCKETS else _SINGLE_TURN_BUCKETS - 5 + turn.bit_length()


def hashed_uniform(seed: int, step: Observed) -> float:
    """Uniform on (0, 1], a function of the seed and the step's identity alone: arrival order does not change it."""
    identity = f"{seed}\0{step.question}\0{step.chain}\0{step.turn}\0{step.attempt}"
    # surrogatepass: text from outside may hold a lone surrogate, which must not stop a decision
    digest = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") + 1) / 2**64


def check_rate(rejection_rate: float) -> float:
    """The rate itself; raises ValueError outside [0, 1] (nan included)."""
    if not 0.0 <= rejection_rate <= 1.0:
        raise ValueError(f"rejection_rate must lie in [0, 1], not {rejection_rate}")
    return rejection_rate


def unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among `known`: it suggests the nearest one and lists all."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {what} {name!r}: {hint}Known: {', '.join(names)}")
