"""Server-sent events: a first byte at once, keep-alive comments, errors in the stream's own words."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Message, Send

from a1agent.server import logs
from a1agent.server.errors import api_error_of
from a1agent.server.jobs import Job
from a1agent.server.service import Service

__all__ = ["event_stream"]

_PATIENCE_S = 0.02
"""How long a stream waits for a call to begin, so that what is wrong with its prompt is still an HTTP status."""

_END = "\n"

Data = dict[str, Any] | str


async def event_stream(service: Service, request: Request, job: Job, data: AsyncGenerator[Data]) -> EventSourceResponse:
    """The response that sends `data`. Raises what the call raises before it begins; the job ends with the reader."""
    try:
        await job.begun(_PATIENCE_S)
    except BaseException:
        job.cancel()
        raise
    settings = service.settings
    response = _Stream(
        _encoded(request, data),
        ping=settings.keep_alive_s,
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep=_END),
        send_timeout=settings.slow_reader_s,
        shutdown_grace_period=math.inf,  # its signal is the process's; the job ends with the service's own grace period
        sep=_END,
    )
    response.job, response.service = job, service
    return response


class _Stream(EventSourceResponse):
    """Cancels its job whenever it ends, also when nothing of it was read. A reader too slow to wait for is cut off."""

    job: Job
    service: Service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, self._timed(send))
        except TimeoutError:
            logs.write(logging.WARNING, "slow reader cut off", id=scope["state"].get("id"))
        finally:
            self.job.cancel()

    def _timed(self, send: Send) -> Send:
        """Tells the metrics when the first part of the body has been handed to the connection."""
        told = False

        async def sent(message: Message) -> None:
            nonlocal told
            await send(message)
            if message["type"] == "http.response.body" and not told:
                told = True
                self.service.metrics.first_byte(self.service.clock() - self.job.admitted)

        return sent


async def _encoded(request: Request, data: AsyncGenerator[Data]) -> AsyncGenerator[ServerSentEvent]:
    async with aclosing(data):
        try:
            async for item in data:
                yield _event(item)
        except Exception as error:
            yield _event(_failure(error, request))


def _failure(error: Exception, request: Request) -> dict[str, Any]:
    """The error as the stream's last event; the log has it with the request."""
    told = api_error_of(error)
    request.state.error = told
    return {"type": "error", "message": told.message, "code": told.code, "param": told.param, **told.body}


def _event(item: Data) -> ServerSentEvent:
    """One `data:` line; of the Responses API with its type as the event's name."""
    if isinstance(item, str):
        return ServerSentEvent(data=item, sep=_END)
    text = json.dumps(item, ensure_ascii=False, allow_nan=False)
    return ServerSentEvent(data=text, event=item.get("type"), sep=_END)
