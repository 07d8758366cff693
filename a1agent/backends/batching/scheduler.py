"""What runs in the next forward: one token of every generating sequence, then chunks of pending prefill."""

from __future__ import annotations

import logging
from bisect import bisect_left
from dataclasses import dataclass, field

from a1agent.backends.batching.cache import Cache, Lane, common_prefix
from a1agent.backends.batching.runner import Rows, Runner
from a1agent.backends.batching.tasks import Generate, Holder, Prefill, Task
from a1agent.errors import BackendError

__all__ = ["Plan", "Scheduler", "Share"]

_log = logging.getLogger(__name__)

_WORTH = 16  # tokens in common for which a prompt waits until another has decoded them
_MOVED = 128
"""Tokens whose cells are moved for each token that a call may still write beside its neighbours. Moving a token's cells
costs less than a five-hundredth of a forward; a call may end sooner than it has to."""


@dataclass(slots=True)
class Share:
    """The rows of one task in a forward: positions `start:stop` of a lane, logits wanted from `wanted` on."""

    task: Task
    lane: Lane
    start: int
    stop: int
    wanted: int


@dataclass(slots=True)
class Plan:
    """One forward of `size` rows. `complete`: tasks that found all they wanted in the cache."""

    shares: list[Share] = field(default_factory=list[Share])
    complete: list[Task] = field(default_factory=list[Task])
    size: int = 0
    outputs: int = 0

    def add(self, share: Share) -> None:
        """Lets some rows of a task ride along."""
        self.shares.append(share)
        self.size += share.stop - share.start
        self.outputs += share.stop - share.wanted

    def rows(self) -> Rows:
        """The rows of all shares, which are put in the order of their lanes: models batch neighbours together."""
        self.shares.sort(key=lambda share: share.lane.index)
        rows = Rows()
        for share in self.shares:
            count = share.stop - share.start
            rows.tokens.extend(share.task.ids[share.start : share.stop])
            rows.positions.extend(range(share.start, share.stop))
            rows.lanes.extend([share.lane.index] * count)
            rows.wanted.extend([0] * (share.wanted - share.start))
            rows.wanted.extend([1] * (share.stop - share.wanted))
        return rows


class Scheduler:
    """Holds the running tasks and says who decodes what next. Knows cells and lanes, never the model.

    When cells run out, closed sequences go first; then the youngest sequences lose their cells (their ids stay, and are
    prefilled again later), so the oldest always advances. A sequence without a lane waits while others run.
    """

    def __init__(self, runner: Runner, cache: Cache) -> None:
        self._runner = runner
        self._cache = cache
        self._holders: set[Holder] = set()
        self.tasks: list[Task] = []
        self._moves = True

    @property
    def sequences(self) -> int:
        """Open sequences that may come with work; those that were forked hold a prompt for others, and do not."""
        return sum(not holder.forked for holder in self._holders)

    def add(self, task: Task) -> None:
        """Starts a task; its lane is cut back to the ids that it shares with the task and that need no logits."""
        holder = task.holder
        holder.task = task
        self._holders.add(holder)
        self.tasks.append(task)
        if holder.lane is not None:
            self._cache.trim(holder.lane, min(common_prefix(holder.lane.ids, task.ids), task.wanted))
            self._cache.touch(holder.lane)
            if not self._runner.holds(holder.lane.index, len(holder.lane)):
                self._cache.trim(holder.lane, 0)
            task.cached = len(holder.lane)

    def trim(self, holder: Holder, length: int) -> None:
        """Cuts a sequence's lane to `length` tokens: the text behind them is another from now on."""
        holder.read = min(holder.read, length)
        if holder.lane is not None:
            self._cache.trim(holder.lane, length)

    def remove(self, task: Task, length: int) -> None:
        """Ends a task; its lane keeps the first `length` ids, and the last id of the sequence stays pending."""
        self.tasks.remove(task)
        task.holder.task = None
        self.trim(task.holder, max(0, length - 1))

    def release(self, holder: Holder) -> None:
        """Forgets a closed sequence; what it decoded is kept for prompts to come."""
        self._holders.discard(holder)
        if holder.lane is not None:
            self._cache.retire(holder.lane, holder.resumed)
            holder.lane = None

    def fork(self, parent: Holder, child: Holder, length: int) -> None:
        """Shares the parent's lane with a child of `length` ids; without a free lane the child attaches later."""
        self._holders.add(child)
        parent.forked = True
        child.read = min(parent.read, length - 1)
        if parent.lane is not None:
            child.lane = self._cache.copy(parent.lane, min(len(parent.lane), length - 1), child.prompt)

    def evict(self, holder: Holder) -> None:
        """Takes a sequence's lane away; its ids are decoded again when it is used next."""
        if holder.lane is not None:
            self._cache.drop(holder.lane)
            holder.lane = None

    def schedule(self) -> Plan:
        """The next forward; empty only when there are no tasks."""
        plan = Plan()
        if not self.tasks:
            return plan
        if self._moves and self._runner.swap is not None:
            self._gather()
        ready = [task for task in self.tasks if task.holder.lane is not None and task.remaining() == 1]
        for task in ready:
            self._admit(task, plan)
        early = set(ready)
        for task in [task for task in self.tasks if task not in early]:
            self._admit(task, plan)
        if not plan.shares and not plan.complete:
            self._force(plan)
        if plan.outputs >= self._runner.outputs or plan.size >= self._runner.batch:
            self._rotate(plan)
        return plan

    def squeeze(self) -> bool:
        """The model refused a forward for want of cells: a closed sequence goes, else the youngest. False: none."""
        if self._cache.forget():
            return True
        with_lane = [holder for holder in self._holders if holder.lane is not None]
        if len(with_lane) > 1:
            self.evict(max(with_lane, key=lambda holder: holder.age))
        return len(with_lane) > 1

    def _admit(self, task: Task, plan: Plan) -> None:
        """Adds as many rows of a task as tokens, logits, lanes and cells allow."""
        lane = task.holder.lane if task.holder.lane is not None else self._attach(task, plan)
        if lane is None:
            return
        start = len(lane)
        stop = min(task.goal, start + self._runner.batch - plan.size)
        stop = min(stop, max(task.wanted, start) + self._runner.outputs - plan.outputs)
        stop = start + self._room(task, plan, stop - start)
        if stop > start:
            plan.add(Share(task, lane, start, stop, max(start, min(task.wanted, stop))))

    def _attach(self, task: Task, plan: Plan) -> Lane | None:
        if plan.size >= self._runner.batch:
            return None
        holder = task.holder
        if self._coming(task):
            return None
        if self._runner.copies and plan.shares and self._cache.obtainable < plan.size + task.goal:
            return None  # no use in a copy that would not fit beside those that run
        lane = self._cache.attach(task.ids, task.wanted, holder.prompt)
        if lane is None and self._retire_a_root():
            lane = self._cache.attach(task.ids, task.wanted, holder.prompt)
        if lane is None:
            return None
        needed = plan.size + task.goal - len(lane)
        self._cache.reclaim(needed)
        if plan.shares and self._cache.free < needed:
            self._cache.retire(lane)  # it would not fit beside those that run: it waits
            return None
        holder.lane = lane
        if not task.decoded:
            task.cached = len(lane)
        if task.done:
            plan.complete.append(task)
        return lane

    def _retire_a_root(self) -> bool:
        """Takes the lane of a sequence that was forked and has nothing to run: its forks have what it holds."""
        roots = [h for h in self._holders if h.forked and h.task is None and h.lane is not None]
        if not roots:
            return False
        root = min(roots, key=lambda holder: holder.age)
        assert root.lane is not None
        self._cache.retire(root.lane)
        root.lane = None
        return True

    def _coming(self, task: Task) -> bool:
        """Whether a prompt that is being decoded right now will soon hold much of what this prompt needs."""
        if not isinstance(task, Prefill):
            return False
        found = self._cache.match(task.ids, task.wanted)
        for other in self.tasks:
            lane = other.holder.lane
            if isinstance(other, Prefill) and lane is not None:
                common = min(common_prefix(other.ids, task.ids), task.wanted, other.goal)
                if common > max(found, len(lane)) + _WORTH:
                    return True
        return False

    def _room(self, task: Task, plan: Plan, rows: int) -> int:
        """How many of `rows` fit, after younger sequences that are not in the plan made way."""
        needed = plan.size + rows
        if self._cache.free >= needed:
            return rows
        self._cache.reclaim(needed)
        planned = {share.task.holder for share in plan.shares}
        self._evict_until(needed, [h for h in self._holders if h.age > task.holder.age and h not in planned])
        return max(0, min(rows, self._cache.free - plan.size))

    def _evict_until(self, needed: int, victims: list[Holder]) -> None:
        """Evicts the youngest first, idle ones before running ones."""
        for holder in sorted(victims, key=lambda h: (h.task is not None, -h.age)):
            if self._cache.free >= needed:
                return
            self.evict(holder)
            self._cache.reclaim(needed)

    def _force(self, plan: Plan) -> None:
        """Nothing fits beside the idle sequences: the oldest task gets what it needs from all others."""
        task = min(self.tasks, key=lambda t: t.holder.age)
        others = [holder for holder in self._holders if holder is not task.holder]
        for holder in sorted(others, key=lambda h: (h.task is not None, -h.age)):
            self._admit(task, plan)
            if plan.shares:
                return
            self.evict(holder)
        self._admit(task, plan)

    def _gather(self) -> None:
        """Gives the generating sequences lanes that follow each other: fewest moves, where they pay.

        A model that refuses one is not asked for another; what it lost is decoded again.
        """
        writing: dict[int, tuple[Lane, Generate]] = {}
        for task in self.tasks:
            lane = task.holder.lane
            if isinstance(task, Generate) and lane is not None and task.remaining() == 1:
                writing[lane.index] = lane, task
        places, count = sorted(writing), len(writing)
        if not places or places[-1] - places[0] < count:
            return
        first = max(places, key=lambda place: bisect_left(places, place + count) - bisect_left(places, place))
        start = min(first, self._runner.lanes - count)
        vacant = [index for index in range(start, start + count) if index not in writing]
        try:
            for lane, task in [each for at, each in writing.items() if not start <= at < start + count]:
                index = vacant.pop()
                if len(lane) + self._cache.held(index) <= _MOVED * task.left:
                    self._cache.move(lane, index)
        except BackendError:
            _log.warning("a model did not move its cache; it goes on without", exc_info=True)
            self._moves = False

    def _rotate(self, plan: Plan) -> None:
        """Who was served goes behind who was not, so that a full forward starves nobody."""
        served = {share.task for share in plan.shares}
        self.tasks.sort(key=lambda task: task in served)
