"""Passes A1's events on as LangChain's custom events, so that `astream_events` shows every chain."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
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
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

__all__ = ["EVENT_NAME", "ReportingChatModel", "areporter", "reporter"]

EVENT_NAME = "a1"
"""The name of the custom events; their data is an event of `a1agent.events`."""

_config: ContextVar[RunnableConfig | None] = ContextVar("a1 config", default=None)


def reporter(chat: BaseChatModel, run: CallbackManagerForLLMRun | None) -> Callable[[Event], None]:
    """What hands events to the callbacks of a run, or of the configuration its stream was started with."""
    inherited, run_id = _destination(chat, run)
    manager = CallbackManager.configure(**inherited)
    return lambda event: manager.on_custom_event(EVENT_NAME, event, run_id=run_id)


def areporter(chat: BaseChatModel, run: AsyncCallbackManagerForLLMRun | None) -> Callable[[Event], Awaitable[None]]:
    """As `reporter`, for async callbacks too."""
    inherited, run_id = _destination(chat, run)
    manager = AsyncCallbackManager.configure(**inherited)
    return lambda event: manager.on_custom_event(EVENT_NAME, event, run_id=run_id)


def _destination(
    chat: BaseChatModel, run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None
) -> tuple[dict[str, Any], uuid.UUID | None]:
    """How to configure a manager of callbacks whose events bear tags and metadata of the run, and the run's id."""
    if run is not None:
        heard = {"inheritable_callbacks": list(run.handlers)}
        return {**heard, "inheritable_tags": run.tags, "inheritable_metadata": run.metadata}, run.run_id
    config = _config.get() or ensure_config()
    inherited = {f"inheritable_{name}": config.get(name) for name in ("callbacks", "tags", "metadata")}
    own = {"local_callbacks": chat.callbacks, "local_tags": chat.tags, "local_metadata": chat.metadata}
    return {**inherited, **own}, config.get("run_id")


class ReportingChatModel(BaseChatModel):
    """A chat model whose reporters know the configuration of every call, streamed or not."""

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """The voted message. Where the call is streamed (in an agent, say), events of all chains are custom events."""
        known = _with_run_id(config)
        with _within(known):
            return super().invoke(input, known, **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """As `invoke`."""
        known = _with_run_id(config)
        with _within(known):
            return await super().ainvoke(input, known, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Reasoning of the leading chain while it is written, then the answer; all chains' events as custom events."""
        known = _with_run_id(config)
        chunks = super().stream(input, known, **kwargs)
        with _within(known):
            first = next(chunks, None)
        if first is not None:
            yield first
            yield from chunks

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """As `stream`."""
        known = _with_run_id(config)
        chunks = super().astream(input, known, **kwargs)
        with _within(known):
            first = await anext(chunks, None)
        if first is not None:
            yield first
            async for chunk in chunks:
                yield chunk


def _with_run_id(config: RunnableConfig | None) -> RunnableConfig:
    """The configuration of a run that has an id, so that its custom events can name it."""
    known = ensure_config(config)
    known["run_id"] = known.get("run_id") or uuid.uuid4()
    return known


@contextmanager
def _within(config: RunnableConfig) -> Generator[None]:
    """Makes a configuration the one that reporters report to: LangChain hands it to `_stream` for some calls only."""
    token = _config.set(config)
    try:
        yield
    finally:
        _config.reset(token)
