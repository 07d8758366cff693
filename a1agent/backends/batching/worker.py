"""The thread that runs the models of one device, and the engine that batches the calls of one model.

Models that share a processor take turns, a forward each, in one thread: there is never a second thread pool that spins
while it waits. Models that leave part of a processor idle run side by side as far as their parts fit on it. A forward
costs its weights once, however many sequences ride in it, so a model waits for company while another has work (`due`).
Coroutines hand work over through a queue and get results through their event loop.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeVar

from a1agent.backends.base import Counters
from a1agent.backends.batching.cache import Cache
from a1agent.backends.batching.runner import NoCells, Runner
from a1agent.backends.batching.scheduler import Plan, Scheduler
from a1agent.backends.batching.tasks import Generate, Holder, Task
from a1agent.errors import A1Error, BackendClosed, BackendError

__all__ = ["Contender", "Engine", "due"]

_log = logging.getLogger(__name__)
_Command = Callable[[], None]
C = TypeVar("C", bound="Contender")

_PATIENCE = 500
_RECENT = 0.1
"""What the last forward counts for in the seconds that one is expected to take."""


class _Device:
    """A thread that steps every engine of a device, or of a part of it, that has work, in turn.

    `shares`: which part of the device each of its engines keeps busy.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.shares: dict[Engine, float] = {}
        self._commands: SimpleQueue[_Command | None] = SimpleQueue()
        self._engines: list[Engine] = []
        self._thread = threading.Thread(target=self._run, name=f"a1agent-{name}", daemon=True)
        self._thread.start()

    def post(self, command: _Command) -> None:
        """Runs `command` on the thread, after those posted before. Never blocks."""
        self._commands.put(command)

    def attach(self, engine: Engine) -> None:
        """Steps an engine from now on."""
        self.post(lambda: self._engines.append(engine))

    def detach(self, engine: Engine) -> None:
        """Steps an engine no more; called on the thread."""
        if engine in self._engines:
            self._engines.remove(engine)

    def stop(self) -> None:
        """Ends the thread after the present forward: the interpreter is about to exit."""
        self._commands.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while self._obey():
            busy = [engine for engine in self._engines if engine.busy]
            now = due(busy)
            for engine in busy:
                engine.passed_over = 0 if engine in now else engine.passed_over + 1
            for engine in now:
                engine.step()

    def _obey(self) -> bool:
        """Runs the commands that came in; waits for one when no engine has work. False ends the thread."""
        idle = not any(engine.busy for engine in self._engines)
        while idle or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            try:
                command()
            except Exception:  # it concerns one sequence; the thread serves all models of the device
                _log.exception("a command of a sequence failed")
            idle = False
        return True


class Contender(Protocol):
    """A model with work, as `due` sees it."""

    @property
    def gathered(self) -> float:
        """Share of its open sequences that have something to run."""
        ...

    @property
    def forward_s(self) -> float:
        """Seconds that a forward takes, of late."""
        ...

    @property
    def passed_over(self) -> int:
        """How often in a row others ran in its place."""
        ...


def due(busy: list[C]) -> list[C]:
    """Which of the models that have work run now: those where enough sequences have come together.

    Chains go from one model to another and back, and a forward costs its weights once, however many ride in it. If
    forwards of model i take c_i seconds, it is due once a share c_i^(1/4) / (sum of all c^(1/4)) of its open sequences
    has work: dear forwards gather more company. Of two models that chains alternate between one is always due; one
    whose sequences all have work never waits, so models that have nothing to do with each other take turns; and none
    is passed over more than `_PATIENCE` times in a row.

    The exponent is near the best where dear forwards take 2 to 30 times as long as cheap ones
    (`tests/benchmarks/bench_scheduling.py`), and forgives a poor estimate of c.
    """
    weights = [math.sqrt(math.sqrt(model.forward_s)) for model in busy]
    beyond = [model.gathered * sum(weights) - weight for model, weight in zip(busy, weights, strict=True)]
    ready = [m for m, more in zip(busy, beyond, strict=True) if more >= 0 or m.passed_over >= _PATIENCE]
    return ready or [model for model, more in zip(busy, beyond, strict=True) if more == max(beyond)][:1]


_devices: dict[str, list[_Device]] = {}
_devices_lock = threading.Lock()


def _begin_anew() -> None:
    """In a forked process: the threads stayed in the parent."""
    global _devices_lock
    _devices_lock = threading.Lock()
    _devices.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _take_device(engine: Engine, name: str, share: float) -> _Device:
    """The thread that is to run an engine: one of its own while all shares together fit the device, else the first."""
    with _devices_lock:
        known = _devices.setdefault(name, [])
        used = sum(max(device.shares.values()) for device in known if device.shares)
        idle = next((device for device in known if not device.shares), None)
        if known and used and used + share > 1 + 1e-9:
            chosen = next(device for device in known if device.shares)
        else:
            chosen = idle or _new_device(known, name)
        chosen.shares[engine] = share
        return chosen


def _new_device(known: list[_Device], name: str) -> _Device:
    device = _Device(f"{name}-{len(known)}")
    known.append(device)
    atexit.register(device.stop)
    return device


class Engine:
    """Batches the calls on one model. `keep`: most cells that closed sequences may go on holding.

    `forward_s`: seconds that a forward takes, of late. `passed_over`: how often in a row other models ran instead.

    Methods named here may be called from any thread and return at once; what they ask for happens on the device's
    thread, in order.
    """

    def __init__(self, runner: Runner, keep: int) -> None:
        self.closed = False
        self._runner = runner
        self._cache = Cache(runner, keep)
        self._scheduler = Scheduler(runner, self._cache)
        self._decoded = 0
        self._forwards = 0
        self._alive = 0
        self.forward_s = 0.0
        self.passed_over = 0
        self._device = _take_device(self, runner.device, runner.share)
        self._device.attach(self)

    @property
    def thread(self) -> str:
        """The name of the thread that runs it: engines of different ones do not wait for each other."""
        return self._device.name

    @property
    def counters(self) -> Counters:
        """What was done so far; `cells_used` includes what is kept of closed sequences."""
        return Counters(
            decoded_tokens=self._decoded,
            forwards=self._forwards,
            sequences_alive=self._alive,
            cells_used=0 if self.closed else self._cache.used,
            cells=self._runner.cells,
        )

    def opened(self) -> None:
        """Counts a sequence."""
        self._alive += 1

    def start(self, task: Task) -> None:
        """Runs a call."""
        self._device.post(lambda: self._start(task))

    def cancel(self, task: Task) -> None:
        """Ends a call whose coroutine was cancelled, and brings the lane back to where it was."""
        self._device.post(lambda: self._end(task, task.base))

    def trim(self, holder: Holder, length: int) -> None:
        """Frees what a sequence decoded beyond its first `length` ids."""
        self._device.post(lambda: self._trim(holder, length))

    def fork(self, parent: Holder, child: Holder, length: int) -> None:
        """Shares the parent's prefix with a new sequence of `length` ids."""
        self.opened()
        self._device.post(lambda: self._fork(parent, child, length))

    def release(self, holder: Holder) -> None:
        """Closes a sequence."""
        self._alive -= 1
        self._device.post(lambda: self._release(holder))

    def settle(self, then: Callable[[], None]) -> None:
        """Calls `then` on the device's thread once everything asked for so far was done."""
        self._device.post(then)

    def close(self, then: Callable[[], None]) -> None:
        """Ends running calls with `BackendClosed`, frees the model, and calls `then`."""
        self.closed = True
        self._device.post(lambda: self._close(then))

    @property
    def busy(self) -> bool:
        """Whether there is something to run."""
        return bool(self._scheduler.tasks)

    @property
    def gathered(self) -> float:
        """Share of the open sequences that have something to run."""
        return len(self._scheduler.tasks) / max(1, self._scheduler.sequences)

    def step(self) -> None:
        """One forward: schedule, run, publish. A failure ends the calls that were in it, never the thread."""
        try:
            plan = self._scheduler.schedule()
            for task in plan.complete:
                self._finish(task)
        except Exception as error:
            self._give_up(list(self._scheduler.tasks), error)
            return
        if not plan.shares:
            return
        try:
            self._run(plan)
            self._publish(plan)
        except NoCells as error:
            if not self._scheduler.squeeze():
                self._give_up([share.task for share in plan.shares], error)
        except Exception as error:
            self._give_up([share.task for share in plan.shares], error)

    def _run(self, plan: Plan) -> None:
        rows = plan.rows()
        began = time.perf_counter()
        self._runner.forward(rows)
        took = time.perf_counter() - began
        self.forward_s += (took - self.forward_s) * (_RECENT if self._forwards else 1)
        self._forwards += 1
        self._decoded += plan.size
        for share in plan.shares:
            holder, count = share.task.holder, share.stop - share.start
            self._cache.extend(share.lane, share.task.ids[share.start : share.stop])
            share.task.decoded += count
            share.task.reread += max(0, min(holder.read, share.stop) - share.start)
            holder.read = max(holder.read, share.stop)
            share.task.forward_s += took
            share.task.compute_s += took * count / plan.size

    def _publish(self, plan: Plan) -> None:
        tokens, logprobs = self._read(plan)
        at = 0
        for share in plan.shares:
            count = share.stop - share.wanted
            if count:
                share.task.accept(tokens[at : at + count], logprobs[at : at + count])
                at += count
            if share.task.done:
                self._finish(share.task)
            else:
                self._scheduler.trim(share.task.holder, share.task.wanted)  # a stop may have fallen inside a token

    def _read(self, plan: Plan) -> tuple[list[int], list[float]]:
        """The token of each wanted row (given or sampled) and its log-probability."""
        targets: list[int | None] = []
        picks: list[tuple[int, Task]] = []
        for share in plan.shares:
            if share.stop > share.wanted:
                wanted = share.task.targets(share.wanted, share.stop)
                picks.extend((len(targets) + i, share.task) for i, t in enumerate(wanted) if t is None)
                targets.extend(wanted)
        if not targets:
            return [], []
        tokens = [0 if target is None else target for target in targets]
        read = list(tokens)
        sampled = self._runner.sample([(row, task.sampler) for row, task in picks])
        for (row, task), token in zip(picks, sampled, strict=True):
            tokens[row], read[row] = token, task.reads(token)
        return tokens, self._runner.log_probabilities(read)

    def _start(self, task: Task) -> None:
        if self.closed or task.holder.closed:
            task.resolve(BackendClosed("the backend was closed", "open it again"))
            return
        try:
            if isinstance(task, Generate):
                task.sampler = self._runner.sampler(task.sampling)
            self._scheduler.add(task)
        except Exception as error:
            self._give_up([task], error)
            return
        if task.done:
            self._finish(task)

    def _finish(self, task: Task) -> None:
        self._scheduler.remove(task, len(task.ids))
        task.resolve(task.result())

    def _end(self, task: Task, length: int) -> None:
        if task in self._scheduler.tasks:
            self._scheduler.remove(task, length)
        elif not self.closed:
            self._trim(task.holder, length)

    def _give_up(self, tasks: list[Task], error: Exception) -> None:
        """What the cache holds of them is unknown after a failure: their lanes are decoded again when used next."""
        _log.debug("calls on a model failed", exc_info=error)
        failure = error if isinstance(error, A1Error) else BackendError(f"the model failed: {error!r}", "see the log")
        for task in tasks:
            try:
                self._scheduler.evict(task.holder)
            except Exception:  # a model that lets go of nothing: its calls end all the same
                _log.exception("a model did not let go of a sequence")
                task.holder.lane = None
            if task in self._scheduler.tasks:
                self._scheduler.remove(task, task.base)
            task.resolve(failure)

    def _trim(self, holder: Holder, length: int) -> None:
        if holder.task is None:
            self._scheduler.trim(holder, max(0, length - 1))

    def _fork(self, parent: Holder, child: Holder, length: int) -> None:
        if not self.closed and not child.closed:
            self._scheduler.fork(parent, child, length)

    def _release(self, holder: Holder) -> None:
        holder.closed = True
        if self.closed:
            return
        if holder.task is not None:
            task = holder.task
            self._scheduler.remove(task, task.base)
            task.resolve(BackendClosed("the sequence was closed while a call ran on it", "await the call first"))
        self._scheduler.release(holder)

    def _close(self, then: Callable[[], None]) -> None:
        for task in list(self._scheduler.tasks):
            task.resolve(BackendClosed("the backend was closed while a call ran on it", "open it again"))
        self._scheduler.tasks.clear()
        self._device.detach(self)
        with _devices_lock:
            del self._device.shares[self]
        try:
            self._runner.free()
        finally:
            then()
