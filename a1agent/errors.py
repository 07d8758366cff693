"""What can go wrong. Every message says what happened, then what to do.

A1Error
├── UsageError                 a mistake in how a1agent was called
│   ├── InvalidOption          an option is unknown or out of range (also a ValueError)
│   ├── InvalidQuestion        a question is empty or malformed (also a ValueError)
│   └── MissingExtra           an optional package is not installed (also an ImportError)
├── ModelError                 a model cannot do what was asked
│   ├── ModelNotFound          no such file, name or address
│   ├── ModelLoadError         it is there and does not load
│   ├── NotEnoughMemory        it would not fit this machine
│   ├── CannotScore            it cannot serve as target
│   ├── CannotRewind           it cannot take a step back
│   └── ContextOverflow        a text is longer than its context
├── BackendError               a backend failed while it ran
│   └── BackendClosed          it was closed
├── CalibrationError           a calibration or its store cannot be used
└── SolveError                 every chain failed; carries the causes and partial statistics
    ├── InvalidAnswer          no chain gave an answer in the asked format; carries the best chain's text
    └── TimedOut               the time limit passed before any chain could begin
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from a1agent.stats import RejectionStats
    from a1agent.types import Usage

__all__ = [
    "A1Error",
    "BackendClosed",
    "BackendError",
    "CalibrationError",
    "CannotRewind",
    "CannotScore",
    "ContextOverflow",
    "InvalidAnswer",
    "InvalidOption",
    "InvalidQuestion",
    "MissingExtra",
    "ModelError",
    "ModelLoadError",
    "ModelNotFound",
    "NotEnoughMemory",
    "SolveError",
    "TimedOut",
    "UsageError",
    "nearest",
    "unreadable",
]


class A1Error(Exception):
    """Base of all errors of a1agent: `what` happened and the `hint` on what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}" if self.hint else self.what


class UsageError(A1Error):
    """A mistake in how a1agent was called."""


class InvalidOption(UsageError, ValueError):
    """An option is unknown or out of range."""


class InvalidQuestion(UsageError, ValueError):
    """A question is empty or malformed; `part` names the field of `Question` that is at fault."""

    def __init__(
        self,
        what: str,
        hint: str = "",
        part: Literal["messages", "tools", "tool_choice", "response_format"] = "messages",
    ) -> None:
        super().__init__(what, hint)
        self.part = part


class MissingExtra(UsageError, ImportError):
    """An optional package is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        UsageError.__init__(self, f"{feature} needs packages that are not installed", f"pip install 'a1agent[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return MissingExtra, (self.feature, self.extra)


class ModelError(A1Error):
    """A model cannot do what was asked."""


class ModelNotFound(ModelError):
    """No such file, name or address."""


class ModelLoadError(ModelError):
    """The model is there and does not load."""


class NotEnoughMemory(ModelError):
    """The models and their caches would not fit this machine."""


class CannotScore(ModelError):
    """The model cannot score a given text, so it cannot serve as target."""


class CannotRewind(ModelError):
    """The model cannot take a step back (recurrent and hybrid models)."""


class ContextOverflow(ModelError):
    """A text is longer than the model's context."""


class BackendError(A1Error):
    """A backend failed while it ran."""


class BackendClosed(BackendError):
    """The backend was closed."""


class CalibrationError(A1Error):
    """A calibration or its store cannot be used."""


class SolveError(A1Error):
    """Every chain failed. `causes` holds one exception a chain, `stats` what was counted until then."""

    def __init__(
        self, what: str, hint: str = "", causes: Sequence[BaseException] = (), stats: RejectionStats | None = None
    ) -> None:
        super().__init__(what, hint)
        self.causes = tuple(causes)
        self.stats = stats

    def __reduce__(self) -> tuple[type[SolveError], tuple[Any, ...]]:
        return type(self), (self.what, self.hint, self.causes, self.stats)


class InvalidAnswer(SolveError):
    """No chain gave an answer in the asked format. `text` is what the best chain wrote, `stats` what was counted.

    `usage`: what each model processed.
    """

    def __init__(
        self,
        what: str,
        hint: str = "",
        text: str = "",
        stats: RejectionStats | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(what, hint, stats=stats)
        self.text = text
        self.usage = usage

    def __reduce__(self) -> tuple[type[InvalidAnswer], tuple[Any, ...]]:
        return InvalidAnswer, (self.what, self.hint, self.text, self.stats, self.usage)


class TimedOut(SolveError):
    """The time limit passed before any chain could begin; later ones give the best answer so far instead."""


def unreadable(path: Path, error: Exception) -> str:
    """That a file cannot be read, and why: of a folder Windows says only that it denies access."""
    reason = "it is a folder" if path.is_dir() else error.strerror if isinstance(error, OSError) else error
    return f"{path} cannot be read: {reason}"


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or all of them when none is near."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(options)}"
