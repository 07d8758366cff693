"""A connection that is given up where no request comes, or nobody reads: an idle one counts against all others."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["connections"]


class _Connection(H11Protocol):
    """Uvicorn's, which waits for the head of a request as long as the client likes; `head_s` bounds that.

    It also waits as long until what it has written is read, and closes no sooner: `reader_s` bounds that.
    """

    head_s: float
    reader_s: float
    _given_up: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's."""
        if self.transport.is_closing():  # on Windows the event loop hands over what it had begun to read
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """As uvicorn's."""
        super().on_response_complete()
        self._watch()
        self._expect_reader()

    def pause_writing(self) -> None:
        """As uvicorn's."""
        super().pause_writing()
        self._expect_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        super().connection_lost(exc)
        self._forget()
        if self._unread is not None:
            self._unread.cancel()

    def _watch(self) -> None:
        """Between requests the time runs, from the end of the last; what comes in drops does not put it off."""
        cycle: Any = self.cycle  # None before the first request, which its type does not say
        if cycle is not None and not cycle.response_complete:
            self._forget()
        elif self._given_up is None:
            self._given_up = self.loop.call_later(self.head_s, self.transport.close)

    def _expect_reader(self) -> None:
        """Looks again and again whether what is written is read, until all of it is."""
        unread = self.transport.get_write_buffer_size()
        if unread and self._unread is None:
            self._unread = self.loop.call_later(self.reader_s, self._end_unread, unread)

    def _end_unread(self, before: int) -> None:
        self._unread = None
        answering = not self.transport.is_closing() and self.cycle and not self.cycle.response_complete
        if self.transport.get_write_buffer_size() < before or answering:  # who answers looks to its reader itself
            self._expect_reader()
        else:
            self.transport.abort()

    def _forget(self) -> None:
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None


def connections(head_s: float, reader_s: float) -> type[asyncio.Protocol]:
    """What uvicorn makes connections of.

    The head of a request may take `head_s` seconds to arrive, a part of an answer `reader_s` seconds to be taken.
    """
    return type("Connection", (_Connection,), {"head_s": head_s, "reader_s": reader_s})
