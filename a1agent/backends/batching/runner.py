"""What a model offers to be batched: a `Vocabulary` and a `Runner`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from a1agent.backends.base import Sampling

__all__ = ["END", "NoCells", "Rows", "Runner", "Vocabulary"]

END = -1
"""The target that stands for "any token that ends the turn"."""


class NoCells(Exception):
    """The model found no free cells for a forward; nothing was decoded."""


@dataclass(slots=True)
class Rows:
    """One forward, a row a token: its id, its position, its lane, and whether its logits are wanted (0 or 1)."""

    tokens: list[int] = field(default_factory=list[int])
    positions: list[int] = field(default_factory=list[int])
    lanes: list[int] = field(default_factory=list[int])
    wanted: list[int] = field(default_factory=list[int])

    def __len__(self) -> int:
        return len(self.tokens)


class Vocabulary(Protocol):
    """Text to ids and back."""

    @property
    def fingerprint(self) -> str:
        """Equal for vocabularies that give equal ids for any text."""
        ...

    @property
    def size(self) -> int:
        """How many ids there are."""
        ...

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a turn."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text that continues another: no BOS, no added space, control tokens are plain text."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for a control token."""
        ...


class Runner(Protocol):
    """A loaded model with a KV cache of `cells` tokens shared by `lanes` sequences. Called from one thread only.

    `device`: what it runs on; `share`: which part of it a forward keeps busy, 1 for all. Models that do not fit beside
    each other take turns. `batch`: most rows of a forward; `outputs`: most rows with logits.
    `copies`: lanes hold copies of what they have in common, so that each takes cells for all of its tokens.
    `swap`: exchanges what two lanes hold, where a forward is cheaper for lanes that follow each other; else None.
    """

    device: str
    share: float
    cells: int
    lanes: int
    batch: int
    outputs: int
    can_rewind: bool
    copies: bool
    swap: Callable[[int, int], None] | None

    def forward(self, rows: Rows) -> None:
        """Runs the model; logits of the wanted rows stay readable until the next forward. Raises `NoCells`."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives lane `target` the first `length` tokens of lane `source`: the same cells, or copies."""
        ...

    def remove(self, lane: int, start: int) -> None:
        """Drops the cells of a lane from position `start` on."""
        ...

    def holds(self, lane: int, length: int) -> bool:
        """Whether a lane still has all that a next token at position `length` attends to."""
        ...

    def sampler(self, sampling: Sampling) -> Any:
        """What draws the tokens of one call; freed when garbage collected."""
        ...

    def sample(self, picks: list[tuple[int, Any]]) -> list[int]:
        """One token for each pair of a wanted row's index and a sampler."""
        ...

    def log_probabilities(self, targets: list[int]) -> list[float]:
        """Log-probability of one target for each wanted row, in order; `END` is any token that ends the turn."""
        ...

    def free(self) -> None:
        """Frees the model."""
        ...
