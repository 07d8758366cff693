"""What every request passes first: its id, Host and Origin, its key, the kind and size of its body; and the log.

A plain ASGI middleware around the whole application, so that nothing of it runs before these checks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from a1agent.server import logs
from a1agent.server.errors import ApiError, api_error_of, client_gone
from a1agent.server.settings import ServerSettings

__all__ = ["Guard"]

_OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""Paths that need no key; what is under `/page/` needs none either."""

_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_MOST_USER = 512
Count = Callable[[str, int, str, float], None]


class Guard:
    """The middleware; `count(route, status, key, seconds)` is told of every answer."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, count: Count) -> None:
        self._app = app
        self._settings = settings
        self._count = count
        self._hosts = {"localhost", socket.gethostname().lower(), *(h.lower() for h in settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked_id = headers.get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["id"] = asked_id if _ID.fullmatch(asked_id) else f"req_{secrets.token_hex(12)}"
        answer = _Answer(send, state["id"], self._cors(headers.get("origin")))
        try:
            state["key"] = self._check(scope, headers)
            body = await self._body(scope, headers, receive)
            if self._settings.log_prompts and body:
                logs.write(logging.INFO, "body", id=state["id"], body=body.decode(errors="replace"))
            await self._app(scope, _replay(body, receive), answer)
        except Exception as error:
            state["error"] = await answer.fail(api_error_of(error))
        finally:
            self._report(scope, answer)

    def _check(self, scope: Scope, headers: Headers) -> str:
        """The name of the request's key. Raises `ApiError`."""
        host = headers.get("host", "")
        if not self._is_host(host):
            raise ApiError(
                403, f"this server is not called {host[:100]!r}; its operator can allow the name", code="unknown_host"
            )
        self._check_origin(scope, headers.get("origin"), host)
        path: str = scope["path"]
        if scope["method"] == "OPTIONS" or path in _OPEN or path.startswith("/page/"):
            return ""
        name = self._settings.keys.name_of(headers.get("authorization"))
        if name is None:
            raise ApiError(401, "no valid API key: send Authorization: Bearer KEY", code="invalid_api_key")
        return name

    def _is_host(self, host: str) -> bool:
        """Names are checked, since a foreign page may point its own name here; addresses cannot be made to lie."""
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d{1,5})?", host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def _check_origin(self, scope: Scope, origin: str | None, host: str) -> None:
        own = (f"http://{host}", f"https://{host}")
        if origin is not None and origin not in own and origin not in self._settings.allowed_origins:
            raise ApiError(403, f"pages of {origin[:100]!r} may not call this server", code="forbidden_origin")

    def _cors(self, origin: str | None) -> dict[str, str]:
        """What lets a page of an allowed site read the guard's own refusals; those behind it are the application's."""
        if origin is None or origin not in self._settings.allowed_origins:
            return {}
        return {"access-control-allow-origin": origin, "vary": "origin"}

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return b""
        kind = headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "send JSON, with content-type: application/json", code="unsupported_media_type")
        most = self._settings.max_body_bytes
        if int(headers.get("content-length", "0")) > most:
            raise _too_large(most)
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await _read(receive, most)
        except TimeoutError:
            raise ApiError(408, "the body took too long to arrive", code="request_timeout") from None

    def _report(self, scope: Scope, answer: _Answer) -> None:
        state, route = scope["state"], getattr(scope.get("route"), "path", "other")
        self._count(route, answer.status, state.get("key", ""), answer.seconds)
        job = state.get("job")
        fields: dict[str, Any] = {}
        if job is not None:
            stats, usage = job.stats, job.usage
            fields = {
                "n": job.asked.n,
                "chains": stats.chains_started,
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "asked_rate": stats.asked_rate,
                "observed_rate": stats.observed_rate,
            }
        logs.write(
            _level(answer.status),
            "request",
            id=state["id"],
            key=state.get("key") or None,
            user=logs.clean(state.get("user") or "", _MOST_USER) or None,
            method=scope["method"],
            path=logs.clean(scope["path"]) if route == "other" else route,
            status=answer.status,
            seconds=round(answer.seconds, 4),
            **self._told(state.get("error")),
            **fields,
        )

    def _told(self, error: ApiError | None) -> dict[str, Any]:
        """What the log may hold of an error: not its message, unless the operator wants prompts in it."""
        if error is None:
            return {}
        cause = error.__cause__
        return {
            "code": error.code,
            "type": error.kind,
            "param": error.param,
            "cause": type(cause).__name__ if cause is not None else None,
            "traceback": logs.frames(cause) if cause is not None and error.code == "internal_error" else None,
            "error": str(cause or error) if self._settings.log_prompts else None,
        }


def _level(status: int) -> int:
    """503 passes by itself (loading, full, ending); probes of `/readyz` see it whenever a server starts."""
    if status == 503:
        return logging.WARNING
    return logging.INFO if status < 500 else logging.ERROR


class _Answer:
    """The response on its way out: adds headers, and remembers what became of it."""

    def __init__(self, send: Send, request_id: str, cors: Mapping[str, str]) -> None:
        self._send = send
        self._id = request_id
        self._cors = cors
        self._came = time.perf_counter()
        self._begun = False
        self.status = 499

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.perf_counter() - self._came

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            headers["x-content-type-options"] = "nosniff"
        await self._send(message)

    async def fail(self, told: ApiError) -> ApiError:
        """Answers with the error, where nothing was sent yet; returns it."""
        if not self._begun:
            await self._tell(told)
        return told

    async def _tell(self, told: ApiError) -> None:
        body = json.dumps(told.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **told.headers, **self._cors}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": told.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise client_gone()
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body, read before, and then whatever comes."""
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes, which is all this server reads", code="too_large")
