"""A small HTTP server in a thread of its own that misbehaves on demand, down to the socket."""

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import h11

Handler = Callable[["Request"], Awaitable["Reply"]]


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Reply:
    """What goes out: JSON, or server-sent events."""

    payload: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    events: AsyncGenerator[Any, None] | None = None
    done: bool = True


@dataclass
class Faults:
    """Which faults strike, how often. `plan` comes first: one entry a request, None for none.

    `after`: when a full server asks to be tried again. `code`: of an error that is said with status 200.
    """

    rate: float = 0.0
    kinds: tuple[str, ...] = ()
    plan: list[str | None] = field(default_factory=list)
    paths: tuple[str, ...] = ()
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    struck: list[str] = field(default_factory=list)
    after: str = "0"
    code: int = 503

    def next(self, path: str) -> str | None:
        if self.paths and path not in self.paths:
            return None
        kind = self.plan.pop(0) if self.plan else None
        if kind is None and self.kinds and self.rng.random() < self.rate:
            kind = self.rng.choice(self.kinds)
        if kind:
            self.struck.append(kind)
        return kind


class SocketServer:
    """Serves `handlers` by path on a port of its own. `log` holds every request that came in. `most`: how many requests
    were served together.
    """

    def __init__(self, handlers: dict[str, Handler], ssl: Any = None) -> None:
        self.handlers = handlers
        self.faults = Faults()
        self.log: list[Request] = []
        self.left_early = 0
        self.most = self._now = 0
        self._ssl = ssl
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="server")
        self._thread.start()
        self.listen()

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self._port}"

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def listen(self) -> None:
        """Accepts connections, on the same port as before."""
        self.run(self._listen())

    def refuse(self) -> None:
        """Breaks all connections off and accepts none, as a server that is being restarted."""
        self.run(self._refuse())

    def drain(self) -> int:
        """Waits until all clients have gone; how many are still there after ten seconds."""
        return self.run(self._drain())

    async def _drain(self) -> int:
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=10)
        return len(self._serving)

    def close(self) -> None:
        self.refuse()
        self.run(_cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._ssl)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            _reset(writer)
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                request = await _read(connection, reader)
                if request is None:
                    break
                self.log.append(request)
                self._now += 1
                self.most = max(self.most, self._now)
                try:
                    await self._answer(request, connection, reader, writer)
                finally:
                    self._now -= 1
                connection.start_next_cycle()
        except (ConnectionError, h11.ProtocolError, _Abort):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError, OSError):
                await writer.wait_closed()

    async def _answer(
        self, request: Request, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        fault = self.faults.next(request.path)
        if fault == "reset":
            _reset(writer)
            raise _Abort
        if fault == "hang":
            await reader.read(1)  # until the client gives up
            raise _Abort
        if (said := self._instead(request, fault)) is not None:
            reply = said
        elif request.path in self.handlers:
            reply = await self.handlers[request.path](request)
        else:
            reply = Reply({"detail": "Not Found"}, status=404)
        if fault == "slow":
            await asyncio.sleep(0.05)
        if reply.events is None:
            await _send_json(reply, fault, connection, writer)
        elif not await self._stream(reply, fault, connection, reader, writer):
            self.left_early += 1
            raise _Abort

    def _instead(self, request: Request, fault: str | None) -> Reply | None:
        """What a fault puts in the place of an answer."""
        if fault in ("429", "502", "503", "504", "500"):
            after = {"Retry-After": self.faults.after}
            return Reply({"error": {"message": "try later"}}, status=int(fault), headers=after)
        if fault == "said":
            return Reply({"error": {"message": "try later", "code": self.faults.code}})
        if fault == "moved":
            return Reply(status=307, headers={"Location": f"https://example.org{request.path}"})
        return Reply("<html>", headers={"content-type": "text/html"}) if fault == "page" else None

    async def _stream(
        self,
        reply: Reply,
        fault: str | None,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the client stayed to the end."""
        assert reply.events is not None
        head = h11.Response(status_code=200, headers=[("content-type", "text/event-stream")])
        writer.write(connection.send(head) or b"")
        gone = asyncio.create_task(reader.read(1))
        pump = asyncio.create_task(_pump(reply, fault, connection, writer))
        try:
            await asyncio.wait([gone, pump], return_when=asyncio.FIRST_COMPLETED)
            return pump.done() and not isinstance(pump.exception(), ConnectionError)
        finally:
            for task in (gone, pump):
                task.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)
            await reply.events.aclose()


class _Abort(Exception):
    """The connection is gone."""


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode().lower(): value.decode() for name, value in head.headers}
            path = head.target.decode().partition("?")[0]
            return Request(head.method.decode(), path, headers, json.loads(body) if body else {})
        else:
            return None


async def _send_json(reply: Reply, fault: str | None, connection: h11.Connection, writer: asyncio.StreamWriter) -> None:
    if fault in ("wrong length", "null"):
        damage(reply.payload, fault)
    data = (reply.payload if fault == "page" else json.dumps(reply.payload)).encode()
    if fault == "truncated":
        data = data[: len(data) // 2]
    headers = list({"content-type": "application/json", "content-length": str(len(data)), **reply.headers}.items())
    for event in (h11.Response(status_code=reply.status, headers=headers), h11.Data(data=data), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()


async def _pump(reply: Reply, fault: str | None, connection: h11.Connection, writer: asyncio.StreamWriter) -> None:
    assert reply.events is not None
    count = 0
    async for event in reply.events:
        count += 1
        if fault == "mid-stream" and count == 2:
            _reset(writer)
            return
        if fault == "stall" and count == 2:
            await asyncio.Event().wait()  # until the client gives up
        if fault in ("wrong length", "null"):
            damage(event, fault)
        if fault == "pings":
            writer.write(connection.send(h11.Data(data=b"retry: 3000\n\nevent: ping\n\n")) or b"")
        text = json.dumps(event)
        if fault == "truncated":
            text = text[: len(text) // 2]
        writer.write(connection.send(h11.Data(data=f"data: {text}\n\n".encode())) or b"")
        await writer.drain()
    if reply.done:
        writer.write(connection.send(h11.Data(data=b"data: [DONE]\n\n")) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


def damage(value: Any, how: str) -> None:
    """Drops the last log-probability of every list of them, or makes the last one null."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key.endswith("logprobs") and isinstance(item, list) and item:
                if how == "wrong length":
                    item.pop()
                else:
                    item[-1] = None
            else:
                damage(item, how)
    elif isinstance(value, list):
        for item in value:
            damage(item, how)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Drops the connection with a reset instead of an orderly end."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
