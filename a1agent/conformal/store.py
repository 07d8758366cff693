"""Calibration kept across runs, in one SQLite file that concurrent processes share."""

import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from platformdirs import user_data_path

from a1agent.conformal import store_tables
from a1agent.conformal.store_file import CalibrationWarning, StoreFile, check_file, look_into
from a1agent.conformal.store_tables import CalibrationKey, Row, StoreEntry
from a1agent.conformal.values import turn_bucket

__all__ = [
    "WINDOW",
    "CalibrationKey",
    "CalibrationStore",
    "CalibrationWarning",
    "StoreEntry",
    "check_file",
    "default_store_path",
    "scores_since",
    "summary_of",
]

WINDOW = 10_000  # scores kept per key and turn bucket, the newest
FLUSH_S = 1.0  # a score reaches the disk at most this much later,
FLUSH_SCORES = 1000  # or as soon as this many wait
TIMEOUT_S = 5.0  # how long another process may hold the file

T = TypeVar("T")


def default_store_path() -> Path:
    """Where calibration is kept unless told otherwise: the platform's data folder of this user.

    Of a user without a home it begins with ~, and is no place to keep anything.
    """
    try:
        folder = user_data_path("a1agent", appauthor=False)
    except RuntimeError:
        folder = Path("~", "a1agent")
    return folder / "calibration.sqlite3"


def summary_of(path: Path) -> list[StoreEntry]:
    """What the store in a file holds, the key used last first; the file is left as it is, whatever it is.

    Raises ValueError where it is no store that can be read.
    """
    return _read_of(path, store_tables.summary)


def scores_since(path: Path, moment: float) -> int:
    """How many scores the store in a file holds that came at `moment` (seconds since 1970) or later.

    The file is left as it is. Raises as `summary_of`.
    """
    return _read_of(path, lambda connection: store_tables.count_since(connection, moment))


def _read_of(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    try:
        return look_into(path, work)
    except sqlite3.Error as error:
        raise ValueError(f"{path} cannot be read as a calibration store: {error}") from error


class CalibrationStore:
    """Scores by `CalibrationKey`, the newest `window` of each turn bucket.

    `append` only buffers, in O(1): a background thread writes what has gathered, within about a second; `flush` and
    `close` write at once, and an interpreter that exits closes what is open. A process that is killed loses what it
    had not yet written and nothing else. `load`, `flush`, `close` and `summary` touch the disk: call them in a thread
    where an event loop runs. All methods may be called from any thread.

    A damaged file, and one that another process keeps locked for `timeout_s` seconds, is moved aside (renamed with the
    reason and the time, beside the path) and a fresh one begun. A file that cannot be written, or that a newer version
    or another program wrote, is left alone: what it holds is used where it can be read, and the scores of this process
    stay in memory. Either is told by one `CalibrationWarning`. `path` None is `default_store_path()`; a given one that
    holds something else than a database is refused by a ValueError, and left as it is.

    In a process forked from the one that opened it a store holds and keeps nothing: the scores are the parent's.
    """

    def __init__(self, path: Path | None = None, *, window: int = WINDOW, timeout_s: float = TIMEOUT_S) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, not {window}")
        if path is not None:
            check_file(path)
        self._writer = _Writer(StoreFile(path or default_store_path(), window, timeout_s))
        # Runs at interpreter exit too; the thread refers to the writer only, so that a store can be collected.
        self._finalizer = weakref.finalize(self, self._writer.close)

    @property
    def path(self) -> Path | None:
        """The file in use; None once scores are kept in memory only."""
        return self._writer.file.path

    def __enter__(self) -> "CalibrationStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, key: CalibrationKey) -> list[tuple[int, float]]:
        """(turn, score) of the newest scores of each turn bucket, oldest first."""
        if self._writer.forked:
            return []
        self._writer.flush()
        return self._writer.file.read(key)

    def append(self, key: CalibrationKey, turn: int, score: float) -> None:
        """Keep a score; raises ValueError if it is not finite, or for a negative turn, or once the store is closed."""
        if not math.isfinite(score):
            raise ValueError(f"only finite scores are kept, not {score}")
        self._writer.add(Row(key=key, bucket=turn_bucket(turn), turn=turn, score=score, at=time.time()))

    def flush(self) -> None:
        """Write everything appended so far."""
        self._writer.flush()

    def close(self) -> None:
        """Write everything and close the file; closing twice is harmless."""
        self._finalizer()

    def summary(self) -> list[StoreEntry]:
        """What is stored under each key, the one used last first."""
        if self._writer.forked:
            return []
        self._writer.flush()
        return self._writer.file.summary()


class _Writer:
    """The buffer, and the thread that empties it; started by the first score."""

    def __init__(self, file: StoreFile) -> None:
        self.file = file
        self._pending: list[Row] = []
        self._closed = False
        self._changed = threading.Condition()
        self._flushing = threading.Lock()  # rows reach the file in the order in which they came
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether the file, and the locks, are of the process that this one was forked from."""
        return os.getpid() != self._process

    def add(self, row: Row) -> None:
        if self.forked:
            return
        with self._changed:
            if self._closed:
                raise ValueError("the calibration store is closed")
            self._pending.append(row)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="a1agent-calibration", daemon=True)
                self._thread.start()
            if len(self._pending) in (1, FLUSH_SCORES):
                self._changed.notify()

    def flush(self) -> None:
        if self.forked:
            return
        with self._flushing:
            with self._changed:
                rows, self._pending = self._pending, []
            if rows:
                self.file.write(rows)

    def close(self) -> None:
        if self.forked:
            return
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self.flush()
        self.file.close()

    def _run(self) -> None:
        while self._gather():
            self.flush()

    def _gather(self) -> bool:
        """Wait for a first score, then a moment for others; False once the store closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            self._changed.wait_for(lambda: len(self._pending) >= FLUSH_SCORES or self._closed, timeout=FLUSH_S)
            return not self._closed
