"""a1agent: asynchronous test-time scaling.

A small draft model reasons in parallel chains, a large target model scores each drafted step, and conformal prediction
decides per chain whether the target takes over, at a rejection rate that you set and that is kept.

    >>> from a1agent import A1
    >>> with A1() as a1:                                    # the pair of models that ships with a1agent
    ...     a1.solve("What is 47 * 28 + 783?").answer
    '2099'
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # known by its name; importing typing takes longer than all else before a1 minds an interrupt
if TYPE_CHECKING:
    from typing import Any

    from a1agent.agent import A1
    from a1agent.config import Options
    from a1agent.errors import (
        A1Error,
        BackendClosed,
        BackendError,
        CalibrationError,
        CannotRewind,
        CannotScore,
        ContextOverflow,
        InvalidAnswer,
        InvalidOption,
        InvalidQuestion,
        MissingExtra,
        ModelError,
        ModelLoadError,
        ModelNotFound,
        NotEnoughMemory,
        SolveError,
        TimedOut,
        UsageError,
    )
    from a1agent.events import (
        ChainFinished,
        ChainStarted,
        Event,
        QuestionOpened,
        StepAccepted,
        StepDrafted,
        StepDropped,
        StepTakenOver,
        StepVerified,
        VoteClosed,
    )
    from a1agent.stats import RejectionStats
    from a1agent.types import (
        ChainResult,
        InvalidToolCall,
        Message,
        Question,
        Result,
        Step,
        ToolCall,
        Turn,
        Usage,
        Verdict,
    )

__version__ = "0.1.0"

__all__ = [
    "A1",
    "A1Error",
    "BackendClosed",
    "BackendError",
    "CalibrationError",
    "CannotRewind",
    "CannotScore",
    "ChainFinished",
    "ChainResult",
    "ChainStarted",
    "ContextOverflow",
    "Event",
    "InvalidAnswer",
    "InvalidOption",
    "InvalidQuestion",
    "InvalidToolCall",
    "Message",
    "MissingExtra",
    "ModelError",
    "ModelLoadError",
    "ModelNotFound",
    "NotEnoughMemory",
    "Options",
    "Question",
    "QuestionOpened",
    "RejectionStats",
    "Result",
    "SolveError",
    "Step",
    "StepAccepted",
    "StepDrafted",
    "StepDropped",
    "StepTakenOver",
    "StepVerified",
    "TimedOut",
    "ToolCall",
    "Turn",
    "Usage",
    "UsageError",
    "Verdict",
    "VoteClosed",
]

_HOMES = ("errors", "config", "types", "stats", "events", "agent")


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: a command that is interrupted before has nothing to end."""
    if name in __all__:
        homes = (import_module(f"{__name__}.{home}") for home in _HOMES)
        globals()[name] = found = next(getattr(home, name) for home in homes if name in home.__all__)
        return found
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
