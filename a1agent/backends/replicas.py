"""The servers behind one model: which of them a chain talks to, which are out, and when to stop asking.

A chain stays with its replica, whose cache holds its text. A replica that failed twice in a row is out for a while and
then gets one call as a probe; its chains move to the others. When all are out for long, calls fail at once instead of
waiting: the circuit is open until a probe succeeds. Engines that a server shares requests out to count as replicas.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from a1agent.errors import BackendError

__all__ = ["Replica", "Replicas"]

_FAULTS = 2


class Replica:
    """One server, or the engine `rank` of one. `slots` bounds the requests under way; `chains`: how many live here."""

    def __init__(self, url: str, connections: int, rank: int | None = None) -> None:
        self.url = url
        self.rank = rank
        self.slots = asyncio.Semaphore(connections)
        self.chains = 0
        self.faults = 0
        self.out_until = 0.0

    def out(self, now: float) -> bool:
        """Whether it should be left alone now."""
        return self.faults >= _FAULTS and now < self.out_until


class Replicas:
    """Picks a replica for each call. Used from one event loop. `engines`: of each server. `clock` gives seconds."""

    def __init__(
        self,
        urls: tuple[str, ...],
        connections: int,
        cooldown_s: float,
        patience_s: float,
        engines: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        ranks = range(engines) if engines > 1 else (None,)
        self.all = [Replica(url, connections, rank) for rank in ranks for url in urls]
        self.names = ", ".join(urls)
        self._cooldown_s = cooldown_s
        self._patience_s = patience_s
        self._clock = clock
        self._homes: dict[str, Replica] = {}
        self._failing_since: float | None = None

    def ask_singly(self) -> None:
        """From now on one request is under way at a time, a replica."""
        for replica in self.all:
            replica.slots = asyncio.Semaphore(1)

    def pick(self, session: str | None = None) -> Replica:
        """The replica for a call of a chain. Raises `BackendError` while the circuit is open."""
        now = self._clock()
        replica = self._homes.get(session or "")
        usable = [r for r in self.all if not r.out(now)]
        if replica is None or replica not in usable:
            replica = min(usable or [self._last_hope(now)], key=lambda r: r.chains)
            self._settle(session, replica)
        if replica.faults >= _FAULTS:  # this call is the probe
            replica.out_until = now + self._cooldown_s
        return replica

    def worked(self, replica: Replica) -> None:
        """A call ended well."""
        replica.faults = 0
        self._failing_since = None

    def failed(self, replica: Replica) -> None:
        """A call failed and the server is to blame."""
        now = self._clock()
        replica.faults += 1
        replica.out_until = now + self._cooldown_s
        if self._failing_since is None:
            self._failing_since = now

    def forget(self, session: str) -> None:
        """A chain was closed."""
        replica = self._homes.pop(session, None)
        if replica is not None:
            replica.chains -= 1

    def _settle(self, session: str | None, replica: Replica) -> None:
        if session is not None:
            self.forget(session)
            self._homes[session] = replica
            replica.chains += 1

    def _last_hope(self, now: float) -> Replica:
        """All are out: the one that may be back first, while there is patience left."""
        first = min(self.all, key=lambda r: r.out_until)
        failing_s = now - (self._failing_since if self._failing_since is not None else now)
        if failing_s >= self._patience_s:
            raise BackendError(
                f"{self.names} failed for {failing_s:.0f} s and is left alone",
                f"see to the server; it is tried again in {max(0.0, first.out_until - now):.0f} s",
            )
        return first
