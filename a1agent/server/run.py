"""Runs the server: the address is bound before the models load, and an end is orderly."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.server import HANDLED_SIGNALS

from a1agent.agent import A1
from a1agent.errors import UsageError
from a1agent.server import logs
from a1agent.server.app import create_app
from a1agent.server.connection import connections
from a1agent.server.settings import ServerSettings

__all__ = ["Server", "announced", "bind", "config_of", "opened_here", "serve", "server_of"]

_MOST_CONNECTIONS = 1000
_AFTER_GRACE_S = 2


def bind(host: str, port: int, settings: ServerSettings) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises `UsageError` for an address outside this machine without a key, and for one that cannot be bound.
    """
    if not _is_loopback(host) and not settings.keys:
        raise UsageError(
            f"{host} can be reached from outside this machine, and there is no API key",
            "give --api-keys FILE or A1_API_KEYS (name=key), or keep to 127.0.0.1",
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"cannot use the address {host}: {error.strerror or error}", "for example 127.0.0.1") from None
    try:
        if sys.platform == "win32":  # SO_REUSEADDR lets two processes listen at one port there
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":  # else a client that is gone without a word is missed after a quarter of an hour
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.slow_reader_s * 1000))
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", "choose another --port (0: a free one)"
        ) from None
    return listener


async def serve(
    agent: A1, settings: ServerSettings, listener: socket.socket, ready: Callable[[], None] = lambda: None
) -> None:
    """Serves until a signal ends it; calls `ready` once the models are there. The agent stays the caller's.

    While the models load, `/healthz` answers and requests wait. Raises what loading the models raises.
    """
    logs.configure()
    server = server_of(create_app(agent, settings), settings)
    serving, loading = asyncio.create_task(server.serve(sockets=[listener])), asyncio.create_task(agent.load())
    try:
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            ready()
            await asyncio.wait({serving})
    finally:
        loading.cancel()
        server.should_exit = True
        await serving


def server_of(app: FastAPI, settings: ServerSettings) -> Server:
    """What serves an application of `create_app`."""
    return Server(config_of(app, settings), app.state.service)


def config_of(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """How an application behind the guard is served: limits on connections, no log but the guard's."""
    return uvicorn.Config(
        app,
        http=connections(settings.body_timeout_s, settings.slow_reader_s),
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=int(settings.grace_s) + _AFTER_GRACE_S,
        ws="none",
    )


class Drained(Protocol):
    """What a server serves, as far as its end goes: a grace period begins, and ends."""

    def drain(self) -> None:
        """Begins it."""
        ...

    def hurry(self) -> None:
        """Ends it, whether it has begun or not."""
        ...


class Server(uvicorn.Server):
    """Ends with a signal, and only itself: what the process holds is still to be closed after it.

    Tells the service when the end begins, so that who waits is sent away at once. A second signal ends the grace
    period, still in order; after a further Ctrl-C nothing is waited for.
    """

    def __init__(self, config: uvicorn.Config, service: Drained) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurries = False

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals end the server while this lasts; other threads get none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to serve."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes a signal."""
        if self.should_exit and not self._hurries and self._loop is not None:
            self._hurries = True
            self._loop.call_soon_threadsafe(self._service.hurry)
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops listening, lets requests finish within the grace period, cancels the rest."""
        self._service.drain()
        await super().shutdown(sockets)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def announced(listener: socket.socket) -> str:
    """The address of a listening socket, as clients write it."""
    return _address(*listener.getsockname()[:2])


def opened_here(listener: socket.socket) -> str:
    """As `announced`, for this machine: the address of a socket that listens on all is none that a client opens."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return _address(host, port)


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
