"""A real server over a real socket, in the test's own event loop."""

import asyncio
import gc
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from fastapi import FastAPI
from openai import AsyncOpenAI

from a1agent import A1
from a1agent.backends.base import Work
from a1agent.backends.scripted import ScriptedBackend
from a1agent.server import ServerSettings, create_app
from a1agent.server.run import Server, bind, server_of
from a1agent.server.service import Service
from tests.doubles import sums_pair

KEY = "a-key-that-nobody-guesses"
SUM = "1 + 2 + 3 + 4"


@dataclass
class Running:
    """A server while it runs."""

    url: str
    service: Service
    server: Server
    agent: A1

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def client(self, key: str = KEY) -> AsyncOpenAI:
        """The official client, which would otherwise try again what is meant to fail."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def http(self, **more: Any) -> httpx2.AsyncClient:
        """A plain client."""
        return httpx2.AsyncClient(base_url=self.url, timeout=60, **more)

    @property
    def alive(self) -> int:
        """Sequences that the models hold."""
        loaded = self.agent.pair.loaded
        assert loaded is not None
        return loaded.draft.counters.sequences_alive + loaded.target.counters.sequences_alive


@asynccontextmanager
async def serving(
    agent: A1 | None = None, *, send_buffer: int | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """A server on a free port; ends in order."""
    chosen = ServerSettings(**settings)
    own = agent or A1(*sums_pair(0.9), calibration=None, min_step_tokens=0)  # so that chance leaves no wrong answer
    listener = bind("127.0.0.1", 0, chosen)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if sys.platform == "linux":  # nor does the kernel look to readers, which other systems leave to the server
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
    app = create_app(own, chosen)
    server = server_of(app, chosen)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started and app.state.service.problem is None)
        host, port = listener.getsockname()[:2]
        yield Running(f"http://{host}:{port}", app.state.service, server, own)
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 60)
        listener.close()
        if agent is None:
            await own.aclose()


def in_process(agent: A1, app: FastAPI | None = None, **settings: Any) -> httpx2.AsyncClient:
    """A client that calls the application without a socket: for what is refused before anything runs."""
    app = app or create_app(agent, ServerSettings(**settings))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost")


async def until(true: Any) -> None:
    """Lets others run until it is so; a test that hangs here fails with its message."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  what it looks at has no event to wait for
            await asyncio.sleep(0.001)


def body(**fields: Any) -> bytes:
    """A request for a chat completion, as it goes over the wire."""
    asked: Any = {"model": "a1", "messages": [{"role": "user", "content": SUM}]}
    return posted(json.dumps(asked | fields).encode())


def posted(content: bytes, **headers: Any) -> bytes:
    """A body with its head; a header that is None is left out."""
    usual = {"host": "localhost", "content-type": "application/json", "content-length": len(content)}
    given = {name: value for name, value in (usual | headers).items() if value is not None}
    lines = ("POST /v1/chat/completions HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", "")
    return "\r\n".join(lines).encode() + content


async def nothing_left(running: Running) -> None:
    """Waits until every request has let go of all it held."""
    await until(lambda: running.service.admission.running == 0 and running.alive == 0)
    await until(lambda: not [t for t in asyncio.all_tasks() if t.get_name().startswith("a1 ")])


@asynccontextmanager
async def leaving_nothing(running: Running) -> AsyncIterator[None]:
    """What happens inside leaves no more sequences, tasks and open files behind than there were before."""

    async def counted() -> tuple[int, int]:
        await nothing_left(running)
        await until(lambda: not running.server.server_state.connections)
        gc.collect()
        return len(asyncio.all_tasks()), open_files()

    async with running.client(KEY) as client:  # what the first stream starts stays for all others
        async for _ in await client.chat.completions.create(
            model="a1", messages=[{"role": "user", "content": SUM}], stream=True
        ):
            pass
    tasks, files = await counted()
    yield
    await counted()
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    await until(lambda: open_files() <= files)


def open_files() -> int:
    """Of this process; 0 where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


@dataclass
class Gate:
    """A model's time: it reads at once, writes `free` steps, and the others once the gate is open."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    free: int = 0
    one: bool = False

    def let_one_pass(self) -> None:
        """Opens it for the one that waits, and closes it behind."""
        assert self.waiting == 1
        self.one = True
        self.open.set()

    async def serve(self, to_read: int, to_write: int) -> Work:
        if to_write and self.free:
            self.free -= 1
        elif to_write:
            self.waiting += 1
            try:
                await self.open.wait()
            finally:
                self.waiting -= 1
                if self.one:
                    self.one = False
                    self.open.clear()
        return Work(decoded_tokens=to_read + to_write)


def held_agent(gate: Gate, **options: Any) -> A1:
    """An agent whose draft waits at the gate with every step."""
    draft, target = sums_pair()
    held = ScriptedBackend(draft.script, name="draft", service=gate)
    return A1(held, target, calibration=None, min_step_tokens=0, **options)


def raw(address: tuple[str, int], *, receive_buffer: int | None = None) -> socket.socket:
    """A connection without manners."""
    connection = socket.socket()
    connection.settimeout(10)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(address)
    return connection
