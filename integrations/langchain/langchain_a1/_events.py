"""Passes A1's events on as LangChain's custom events, so that `astream_events` shows every chain."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from a1agent import Event
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

__all__ = ["EVENT_NAME", "areporter", "reporter", "with_run_id", "within"]

EVENT_NAME = "a1"
"""The name of the custom events; their data is an event of `a1agent.events`."""

_config: ContextVar[RunnableConfig | None] = ContextVar("a1 config", default=None)


def with_run_id(config: RunnableConfig | None) -> RunnableConfig:
    """The configuration of a run that has an id, so that its custom events can name it."""
    known = ensure_config(config)
    known["run_id"] = known.get("run_id") or uuid.uuid4()
    return known


@contextmanager
def within(config: RunnableConfig) -> Generator[None]:
    """Makes a configuration the one that reporters report to: LangChain does not hand it to `_stream`."""
    token = _config.set(config)
    try:
        yield
    finally:
        _config.reset(token)


def reporter(run: CallbackManagerForLLMRun | None) -> Callable[[Event], None]:
    """What hands events to the callbacks of a run, or of the configuration its stream was started with."""
    callbacks, run_id = _destination(run)
    manager = CallbackManager.configure(inheritable_callbacks=callbacks)
    return lambda event: manager.on_custom_event(EVENT_NAME, event, run_id=run_id)


def areporter(run: AsyncCallbackManagerForLLMRun | None) -> Callable[[Event], Awaitable[None]]:
    """As `reporter`, for async callbacks too."""
    callbacks, run_id = _destination(run)
    manager = AsyncCallbackManager.configure(inheritable_callbacks=callbacks)
    return lambda event: manager.on_custom_event(EVENT_NAME, event, run_id=run_id)


def _destination(run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> tuple[Any, uuid.UUID | None]:
    if run is not None:
        return list(run.handlers), run.run_id
    config = _config.get() or ensure_config()
    return config.get("callbacks"), config.get("run_id")
