"""A step that the draft writes ahead: while the target reads the last one, at the risk that it is rejected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from a1agent.backends.base import Generated, Mark, Sequence

__all__ = ["Ahead"]


class Ahead:
    """The step of a turn under way in a sequence that stood at `mark` before it; at most `limit` tokens."""

    __slots__ = ("_sequence", "_task", "limit", "mark", "turn")

    def __init__(self, turn: int, limit: int, sequence: Sequence, writing: Coroutine[Any, Any, Generated]) -> None:
        self.turn = turn
        self.limit = limit
        self.mark: Mark = sequence.mark()
        self._sequence = sequence
        self._task = asyncio.create_task(writing)

    async def step(self) -> Generated:
        """The step, once it is written. Raises what the backend raises."""
        return await self._task

    def stop(self) -> None:
        """Tells the draft to write no further, once: a second word would cut short how it winds up."""
        if not self._task.cancelling():
            self._task.cancel()

    async def drop(self) -> Generated | None:
        """Takes the sequence back to where it stood; returns what had been written by then, if it was all of it."""
        self.stop()
        if not self._task.done():
            await self._ended()
        if self._task.cancelled() or self._task.exception() is not None:
            return None  # the sequence is as before the call
        self._sequence.rewind(self.mark)
        return self._task.result()

    async def _ended(self) -> None:
        """Waits for the end of the task, whichever it is; cheaper than `asyncio.wait`, and every rejected step pays."""
        ended = asyncio.get_running_loop().create_future()
        self._task.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
        await ended
