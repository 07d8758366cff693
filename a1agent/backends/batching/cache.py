"""Which lane of the KV cache holds which ids: shared prefixes, cells in use, and what is kept after a sequence closed.

The mirror of the model's cache is exact: every decoded token has a numbered cell with a count of the lanes that share
it, so the scheduler knows before a forward whether it fits. Where lanes hold copies, each has cells of its own.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from a1agent.backends.batching.runner import Runner
from a1agent.errors import BackendError

__all__ = ["Cache", "Lane", "common_prefix", "new_ids"]

_log = logging.getLogger(__name__)


def new_ids(ids: Iterable[int] = ()) -> array[int]:
    """Ids as the batching code keeps them: C ints, four bytes a token, sliced by memcpy, compared by numpy."""
    return array("i", ids)


def common_prefix(a: array[int], b: array[int]) -> int:
    """How many leading ids two texts share."""
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    same = np.frombuffer(a, np.intc, n) == np.frombuffer(b, np.intc, n)
    return n if same.all() else int(same.argmin())


@dataclass(slots=True, eq=False)
class Lane:
    """A sequence id of the model: the ids decoded there, their cells, and whether a sequence owns it (`live`).

    `resumed`: a prompt to come may go on from all of what a closed sequence left in it.
    """

    index: int
    ids: array[int] = field(default_factory=new_ids)
    cells: array[int] = field(default_factory=new_ids)
    live: bool = True
    resumed: bool = False
    prompt: int = 0
    used: int = 0

    def __len__(self) -> int:
        return len(self.cells)


class Cache:
    """Lanes and cells.

    What closed sequences hold stays for prompts to come: as a whole what may be resumed, one text a prompt, and the
    prompts of the others; beside the text resumed last at most `keep` cells. More would slow every forward down, which
    runs over all cells in use.
    """

    def __init__(self, runner: Runner, keep: int) -> None:
        self._runner = runner
        self._keep = keep
        self._shares = np.zeros(runner.cells, np.int32)
        self._free_cells = list(range(runner.cells))
        self._free_lanes = list(range(runner.lanes - 1, -1, -1))
        self._lanes: list[Lane] = []
        self._clock = 0

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return len(self._free_cells)

    @property
    def used(self) -> int:
        """Cells that hold a token, those kept for later prompts included."""
        return len(self._shares) - len(self._free_cells)

    @property
    def obtainable(self) -> int:
        """Cells that hold nothing or what closed sequences left, where lanes hold copies."""
        return self.free + sum(len(lane) for lane in self._lanes if not lane.live)

    def touch(self, lane: Lane) -> None:
        """Marks a lane as used now."""
        self._clock += 1
        lane.used = self._clock

    def match(self, ids: array[int], limit: int) -> int:
        """How much of `ids[:limit]` some lane holds."""
        return self._longest(ids, limit)[1]

    def attach(self, ids: array[int], limit: int, prompt: int) -> Lane | None:
        """A lane that holds as much of `ids[:limit]` as any lane does; None when every lane is taken.

        A closed sequence whose ids all fit is taken over; otherwise the shared prefix is copied (cells are not, but
        where lanes hold copies).
        """
        source, length = self._longest(ids, limit)
        if source is not None and length > source.prompt:
            self._supersede(source)
        self._wither_others(source)
        if source is not None and not source.live and self._takes_over(source, length):
            self.trim(source, length)
            source.live, source.resumed, source.prompt = True, False, prompt
            self.touch(source)
            return source
        if source is not None:
            self.touch(source)
        return self.copy(source, length, prompt)

    def copy(self, source: Lane | None, length: int, prompt: int) -> Lane | None:
        """A new lane with the first `length` tokens of `source`; None when every lane, or every cell, is taken."""
        if self._runner.copies and source is not None and source.live:
            self.reclaim(length)
            if self.free < length:
                return None
        lane = self._vacant(source)
        if lane is None:
            return None
        lane.prompt = prompt
        if source is not None and lane is not source and length:
            self._take_copy(source, lane, length)
        elif lane is source:
            self.trim(lane, length)
        self.touch(lane)
        return lane

    def extend(self, lane: Lane, ids: array[int]) -> None:
        """Notes that `ids` were decoded at the end of a lane."""
        cells = self._free_cells[len(self._free_cells) - len(ids) :]
        del self._free_cells[len(self._free_cells) - len(ids) :]
        self._shares[cells] = 1
        lane.cells.extend(cells)
        lane.ids.extend(ids)

    def move(self, lane: Lane, index: int) -> None:
        """Gives a lane another number; the lane that has it, if any, takes the old one.

        Raises what the model raises when it fails; both lanes are empty then.
        """
        assert self._runner.swap is not None
        other = next((other for other in self._lanes if other.index == index), None)
        try:
            self._runner.swap(lane.index, index)
        except Exception:
            for broken in (lane, other) if other else (lane,):
                self.trim(broken, 0)
            for number in (lane.index, index):  # what was moved before it failed stands in no book
                self._runner.remove(number, 0)
            raise
        if other is None:
            self._free_lanes[self._free_lanes.index(index)] = lane.index
        else:
            other.index = lane.index
        lane.index = index

    def held(self, index: int) -> int:
        """How many tokens the lane of a number holds."""
        return next((len(lane) for lane in self._lanes if lane.index == index), 0)

    def trim(self, lane: Lane, length: int) -> None:
        """Cuts a lane to `length` tokens. A model that cannot rewind loses the lane's content instead."""
        if length >= len(lane):
            return
        if not self._runner.can_rewind:
            length = 0
        self._runner.remove(lane.index, length)
        self._strike(lane, length)

    def _strike(self, lane: Lane, length: int) -> None:
        """Cuts a lane to `length` tokens in the books."""
        cells = np.frombuffer(lane.cells[length:], np.intc)
        self._shares[cells] -= 1
        self._free_cells.extend(cells[self._shares[cells] == 0].tolist())
        del lane.cells[length:], lane.ids[length:]
        lane.resumed = False

    def drop(self, lane: Lane) -> None:
        """Empties a lane and gives its number back."""
        self._runner.remove(lane.index, 0)  # of an empty lane too: what a copy left that failed stands in no book
        self._strike(lane, 0)
        self._lanes.remove(lane)
        self._free_lanes.append(lane.index)

    def retire(self, lane: Lane, resumed: bool = True) -> None:
        """Keeps what a closed sequence decoded for prompts to come, within the bound."""
        lane.live, lane.resumed = False, lane.resumed or resumed
        self.touch(lane)
        if lane.resumed and len(lane) > lane.prompt:
            self._supersede(lane)
        if (other := self._holder(lane)) is not None:
            self._replace(lane, other)
        self._shrink_to_bound()

    def reclaim(self, cells: int) -> None:
        """Drops closed sequences until `cells` are free or none is left."""
        while self.free < cells and (oldest := self._oldest_closed()) is not None:
            self._wither(oldest)

    def forget(self) -> bool:
        """Drops a closed sequence; False when there is none."""
        oldest = self._oldest_closed()
        if oldest is not None:
            self.drop(oldest)
        return oldest is not None

    def _takes_over(self, source: Lane, length: int) -> bool:
        """Whether a closed sequence becomes the new one, all but its first `length` tokens lost."""
        if len(source) == length:
            return True
        return self._runner.copies and (source.prompt <= length or self.free < length)

    def _take_copy(self, source: Lane, lane: Lane, length: int) -> None:
        """What a model does not copy is decoded again. Raises what the model raises when it fails; the lane is free."""
        try:
            self._runner.copy(source.index, lane.index, length)
        except BackendError:
            _log.warning("a model did not copy %d tokens of its cache; they are decoded again", length, exc_info=True)
            self._runner.remove(lane.index, 0)
        except Exception:
            self.drop(lane)
            raise
        else:
            self._hold(lane, source, length)

    def _hold(self, lane: Lane, source: Lane, length: int) -> None:
        if self._runner.copies:
            self.extend(lane, source.ids[:length])
        else:
            lane.ids, lane.cells = source.ids[:length], source.cells[:length]
            self._shares[np.frombuffer(lane.cells, np.intc)] += 1

    def _vacant(self, source: Lane | None) -> Lane | None:
        if not self._free_lanes:
            oldest = self._oldest_closed(spare=source)
            if oldest is None and source is not None and not source.live:
                source.live, source.resumed = True, False
                return source
            if oldest is None:
                return None
            self.drop(oldest)
        lane = Lane(self._free_lanes.pop())
        self._lanes.append(lane)
        return lane

    def _longest(self, ids: array[int], limit: int) -> tuple[Lane | None, int]:
        best, length = None, 0
        for lane in self._lanes:
            shared = min(common_prefix(lane.ids, ids), limit)
            if not self._usable(lane, shared):
                continue
            if shared > length or (shared == length > 0 and not lane.live and len(lane) == shared):
                best, length = lane, shared
        return best, length

    def _usable(self, lane: Lane, length: int) -> bool:
        if length != len(lane) and not self._runner.can_rewind:
            return False
        return length == 0 or self._runner.holds(lane.index, length)

    def _holder(self, lane: Lane) -> Lane | None:
        """Another lane that begins with all that this one holds."""
        for other in self._lanes:
            if other is not lane and len(other) >= len(lane) and common_prefix(other.ids, lane.ids) == len(lane):
                return other
        return None

    def _replace(self, lane: Lane, other: Lane) -> None:
        """Drops a lane of which another one holds all; what was written in it may as well be resumed there."""
        if lane.resumed and len(lane) > lane.prompt:
            other.resumed, other.used = True, lane.used
        self.drop(lane)

    def _supersede(self, lane: Lane) -> None:
        """Of the texts that follow one prompt only that of this lane may be resumed from now on."""
        for other in self._lanes:
            if other is not lane and other.prompt == lane.prompt and common_prefix(other.ids, lane.ids) >= lane.prompt:
                other.resumed = False

    def _spent(self, lane: Lane) -> bool:
        """Whether it holds what a closed sequence wrote and hardly any prompt goes on from."""
        return not lane.live and not lane.resumed and len(lane) > lane.prompt

    def _oldest_closed(self, spare: Lane | None = None) -> Lane | None:
        """The closed lane that goes first: what is spent, then the least recently used."""
        closed = [lane for lane in self._lanes if not lane.live and lane is not spare]
        return min(closed, key=lambda lane: (not self._spent(lane), lane.used), default=None)

    def _wither(self, lane: Lane) -> None:
        """The leaf of a closed sequence goes before its prompt does: the next turn starts with the prompt."""
        if len(lane) > lane.prompt > 0 and self._runner.can_rewind:
            self.trim(lane, lane.prompt)
            if self._holder(lane) is None:
                return
        self.drop(lane)

    def _wither_others(self, source: Lane | None) -> None:
        """A new prompt was matched: what other closed sequences wrote is of use only where it may be resumed."""
        for lane in [lane for lane in self._lanes if lane is not source and self._spent(lane)]:
            self._wither(lane)

    def _shrink_to_bound(self) -> None:
        closed = [lane for lane in self._lanes if not lane.live]
        spare = max(closed, key=lambda lane: (lane.resumed, lane.used), default=None) if self._keep else None
        while self._kept_cells(spare) > self._keep and (oldest := self._oldest_closed(spare)) is not None:
            self._wither(oldest)

    def _kept_cells(self, spare: Lane | None) -> int:
        """Cells that only closed sequences hold, `spare` not counted."""
        in_use = np.zeros(len(self._shares), np.bool_)
        for lane in self._lanes:
            if lane.live or lane is spare:
                in_use[np.frombuffer(lane.cells, np.intc)] = True
        return self.used - int(in_use.sum())
