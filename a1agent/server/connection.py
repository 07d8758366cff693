"""A connection that is given up where no request comes: an idle one counts against all others."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["connections"]


class _Connection(H11Protocol):
    """Uvicorn's, which waits for the head of a request as long as the client likes; `head_s` bounds that."""

    head_s: float
    _given_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """As uvicorn's."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        """Between requests the time runs, from the end of the last; what comes in drops does not put it off."""
        cycle: Any = self.cycle  # None before the first request, which its type does not say
        if cycle is not None and not cycle.response_complete:
            self._forget()
        elif self._given_up is None:
            self._given_up = self.loop.call_later(self.head_s, self.transport.close)

    def _forget(self) -> None:
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None


def connections(head_s: float) -> type[asyncio.Protocol]:
    """What uvicorn makes connections of; the head of a request may take `head_s` seconds to arrive."""
    return type("Connection", (_Connection,), {"head_s": head_s})
