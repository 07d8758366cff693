"""Which calibration a call uses: one calibrator per tenant, model pair, score, step length and prompt.

It is kept across runs. What was measured for no tenant (by the operator of a server) is where each tenant starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Literal

from a1agent.backends.base import ModelInfo
from a1agent.config import Options
from a1agent.conformal.calibrators import Calibrator, make_calibrator
from a1agent.conformal.store import CalibrationKey, CalibrationStore, check_file
from a1agent.embedded import shipped
from a1agent.errors import CalibrationError
from a1agent.types import Question

__all__ = ["Calibrations", "key_of", "store_path"]

_MOST_CALIBRATORS = 64
"""Calibrators kept in memory for each tenant; its least recently used goes first, whose scores are in the store."""

_Identity = tuple[CalibrationKey, str, str]


def key_of(
    options: Options, question: Question, draft: ModelInfo, target: ModelInfo, *, tenant: str = "", screen: bool = False
) -> CalibrationKey:
    """What scores must share to be comparable: both models, the score, the step length and the kind of prompt.

    `tenant` keeps the calibration of one client of a server apart from that of others. With `screen`: of the scores
    that the draft gives its own steps.
    """
    frame = [m.content for m in question.messages if m.role == "system"]
    tools = [str(tool) for tool in question.tools]
    digest = hashlib.blake2b(repr((frame, tools, options.takeover, options.temperature)).encode(), digest_size=8)
    return CalibrationKey(
        draft=draft.fingerprint,
        target=target.fingerprint,
        score=_name_of_score(options, screen),
        step_tokens=options.step_tokens,
        min_step_tokens=options.min_step_tokens or 0,
        prompt=digest.hexdigest(),
        tenant=tenant,
    )


def _name_of_score(options: Options, screen: bool) -> str:
    if screen:
        return f"{options.score} of the draft"
    name = "random" if options.baseline == "random" else options.score
    # Of strange steps only, scores are others.
    return name if options.verify_rate == 1 else f"{name} of {options.verify_rate:g}"


def store_path(where: Path | str | None) -> Path | None:
    """The file that `where` names; None for none and for `"default"`.

    Raises `CalibrationError` for a file of another kind, and for the folder of a user that there is none of.
    """
    if where is None or where == "default":
        return None
    known = os.path.expanduser(where)
    if str(known).startswith("~"):
        raise CalibrationError(f"{str(known)!r} is in nobody's folder", "check the name, or give an absolute path")
    path = Path(known)
    try:
        check_file(path)
    except ValueError as error:
        raise CalibrationError(str(error)) from None
    return path


class Calibrations:
    """The calibrators of an agent. `where`: `"default"` (the user's data folder), a path, or None (memory only)."""

    def __init__(self, where: Path | str | Literal["default"] | None = "default") -> None:
        self.where = where
        self._store: CalibrationStore | None = None
        self._closed = False
        self._calibrators: dict[str, OrderedDict[_Identity, Calibrator]] = {}
        self._lock, self._opening = threading.Lock(), threading.Lock()

    def calibrator(self, key: CalibrationKey, options: Options) -> Calibrator:
        """The calibrator of a key, made on first use from what is stored. Reads the disk: call it in a thread.

        Raises `CalibrationError` when a static calibration is asked of a given file that holds none of this pair.
        """
        identity = (key, options.calibrator, options.coverage)
        with self._lock:
            own = self._calibrators.setdefault(key.tenant, OrderedDict())
            known = own.get(identity)
            if known is not None:
                own.move_to_end(identity)
                return known
            made = self._make(key, options)
            own[identity] = made
            while len(own) > _MOST_CALIBRATORS:
                own.popitem(last=False)
            return made

    def open(self) -> CalibrationStore | None:
        """The store, if there is one, and none once it was closed; the first call opens it, others meanwhile wait.

        Reads the disk. Raises `CalibrationError` where the file is of another kind.
        """
        if self._store is None and self.where is not None:
            with self._opening:
                if self._store is None and not self._closed:
                    self._store = CalibrationStore(store_path(self.where))
        return self._store

    def _make(self, key: CalibrationKey, options: Options) -> Calibrator:
        store = self.open()
        everybodys = dataclasses.replace(key, tenant="")
        stored = [pair for each in dict.fromkeys((everybodys, key)) for pair in store.load(each)] if store else []
        initial = shipped.calibration(key)
        if options.calibrator == "static" and options.baseline == "none" and store and not (stored or initial):
            self._check_static(store)  # chance and a ranking need none: without scores a p-value is uniform
        return make_calibrator(
            options.calibrator,
            rejection_rate=options.rejection_rate,
            coverage=options.coverage,
            initial=[*initial, *stored],
            on_score=None if store is None else lambda turn, score: self._keep(key, turn, score),
        )

    def _keep(self, key: CalibrationKey, turn: int, score: float) -> None:
        """Stores a score; one of a call that outlives the store stays with its calibrator."""
        with self._opening:
            if self._store is not None:
                self._store.append(key, turn, score)

    def _check_static(self, store: CalibrationStore) -> None:
        if self.where != "default" and store.summary():
            raise CalibrationError(
                f"the calibration in {self.where} is of other models, score, step length or prompt",
                'calibrate this pair first, or use calibrator="adaptive", which needs no calibration',
            )

    def close(self) -> None:
        """Writes what is still in memory and closes the store, for good."""
        with self._opening:
            store, self._store, self._closed = self._store, None, True
        if store is not None:
            store.close()
        with self._lock:
            self._calibrators.clear()
