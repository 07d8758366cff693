"""The end of the HTTP transport: after the grace period what still runs is cut off in a form that clients read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from a1agent.server.errors import ApiError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Ending"]


class Ending:
    """A middleware. `drain` begins the grace period of `grace_s` seconds and calls `close`, `hurry` ends it.

    After it a request that was not answered yet raises `ApiError` 503, and a stream that has begun ends.
    """

    def __init__(self, app: ASGIApp, grace_s: float, close: Callable[[], None]) -> None:
        self._app = app
        self._grace_s = grace_s
        self._close = close
        self._over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        if await self._in_time(scope, receive, sent):
            return
        if not begun:
            raise ApiError(503, "the server shut down before the answer was ready", code="shutting_down")
        await send({"type": "http.response.body", "body": b""})

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether the application was done with the request before the end; otherwise it was cancelled."""
        work, over = asyncio.create_task(self._serve(scope, receive, send)), asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return True
            return False
        finally:
            over.cancel()
            work.cancel()
            await asyncio.wait({work})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def drain(self) -> None:
        """The server takes no more requests."""
        self._close()
        asyncio.get_running_loop().call_later(self._grace_s, self.hurry)

    def hurry(self) -> None:
        """Ends what still runs."""
        self._over.set()
