"""When a call on a server is tried again: which errors may pass, how long is waited, and when it is given up."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from a1agent.backends.server_options import ServerOptions
from a1agent.errors import BackendError

__all__ = ["BadReply", "Retryable", "Unreachable", "given_up", "may_pass", "retrying", "retrying_start"]

_log = logging.getLogger(__name__)
_LONGEST_WAIT_S = 60.0
_LONGEST_START_WAIT_S = 4.0
_LONG_S = 10.0
"""A wait that may be longer is told."""


class Retryable(BackendError):
    """May go better next time; callers of `Http` see a plain `BackendError`.

    `retry_after`: seconds the server asked for; `fault`: the server is to blame.
    """

    def __init__(self, what: str, hint: str = "", *, retry_after: float | None = None, fault: bool = True) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after
        self.fault = fault


class BadReply(Retryable):
    """The server answered something that cannot be an answer."""


class Unreachable(Retryable):
    """There is no connection to the server."""


def may_pass(error: BaseException | None) -> bool:
    """Whether a server may only not be ready yet. One that answers what makes no sense is taken for another kind."""
    return isinstance(error, Retryable) and not isinstance(error, BadReply)


def retrying(options: ServerOptions) -> AsyncRetrying:
    """Tries again after a `Retryable`."""
    return AsyncRetrying(
        stop=stop_after_attempt(options.retries + 1),
        wait=_waits(options, _LONGEST_WAIT_S),
        retry=retry_if_exception_type(Retryable),
        before_sleep=_note,
        reraise=True,
    )


def retrying_start(options: ServerOptions) -> AsyncRetrying:
    """Tries again what a server is asked first, for as long as its options say: it may be loading its model."""
    told = False

    def limit_s(state: RetryCallState) -> float:
        return options.reach_s if isinstance(_error(state), Unreachable) else options.patience_s

    def note(state: RetryCallState) -> None:
        nonlocal told
        error = _error(state)
        if not told and isinstance(error, Retryable) and limit_s(state) > _LONG_S:
            _log.warning("%s; waiting for it", error.what)
            told = True
        _note(state)

    return AsyncRetrying(
        stop=lambda state: (state.seconds_since_start or 0.0) >= limit_s(state),
        wait=_waits(options, _LONGEST_START_WAIT_S),
        retry=retry_if_exception(may_pass),
        before_sleep=note,
        reraise=True,
    )


@contextlib.contextmanager
def given_up() -> Generator[None]:
    """What is not tried again is an error like any other."""
    try:
        yield
    except Retryable as error:
        raise BackendError(error.what, error.hint) from error


def _waits(options: ServerOptions, longest_s: float) -> Callable[[RetryCallState], float]:
    first_s = options.retry_wait_s
    waits = wait_exponential(first_s, longest_s) + wait_random(0, first_s)

    def wait(state: RetryCallState) -> float:
        error = _error(state)
        asked = error.retry_after if isinstance(error, Retryable) else None
        return waits(state) + min(asked or 0.0, _LONGEST_WAIT_S)

    return wait


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _note(state: RetryCallState) -> None:
    _log.info("attempt %d failed, trying again: %s", state.attempt_number, _error(state))
