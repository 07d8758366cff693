"""The SQLite file behind the calibration store, and what happens when it cannot be used."""

import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from a1agent.conformal import store_tables as tables
from a1agent.conformal.store_tables import CalibrationKey, Row, StoreEntry

__all__ = ["CalibrationWarning", "StoreFile", "check_file", "look_into", "without_host"]

RETRY_S = 0.02

_MAGIC = b"SQLite format 3\0"

T = TypeVar("T")


class CalibrationWarning(UserWarning):
    """The stored calibration could not be used as it was; the message says what was done instead."""


class StoreFile:
    """One connection, used by one thread at a time; every failure of the file is handled here."""

    def __init__(self, path: Path, window: int, timeout_s: float) -> None:
        self.path: Path | None = path
        self._window = window
        self._timeout_s = timeout_s
        self._closed = self._moved_aside = False
        self._identity: tuple[int, int] | None = None
        self._rescued: list[Row] = []
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._use(lambda connection: None)  # what is wrong with the file is told now, not in the middle of an answer

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows in one transaction, and drop what is older than the newest `window` of their buckets."""
        self._use(lambda connection: tables.write(connection, rows, self._window))

    def read(self, key: CalibrationKey) -> list[tuple[int, float]]:
        return self._use(lambda connection: tables.read(connection, key))

    def summary(self) -> list[StoreEntry]:
        return self._use(tables.summary)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._disconnect()

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work`, replacing the file where it is unusable: once by a fresh one, then by memory."""
        told: list[str] = []
        give_up_at = time.monotonic() + self._timeout_s
        with self._lock:
            while True:
                try:
                    done = work(self._connect())
                    break
                except (sqlite3.Error, OSError) as error:
                    self._disconnect()
                    if self.path is None:
                        raise  # memory does not fail: this is our mistake, not the file's
                    if _reason(error) == "locked" and time.monotonic() < give_up_at:
                        time.sleep(RETRY_S)  # SQLite does not wait by itself while it changes to WAL or recovers
                    else:
                        told.append(self._replace(self.path, error))
        for message in told:  # after the work is done: a warning may have been made an error
            warnings.warn(message, CalibrationWarning, stacklevel=4)
        return done

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise ValueError("the calibration store is closed")
        if self._connection is None:
            if self.path is not None:
                if self.path.parts[:1] == ("~",):
                    raise FileNotFoundError("this user has no home folder")
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._identity = _identity(self.path)
            self._connection = sqlite3.connect(
                self.path or ":memory:", timeout=self._timeout_s, isolation_level=None, check_same_thread=False
            )
            tables.prepare(self._connection)
            self._identity = _identity(self.path)
            if self._rescued:
                tables.write(self._connection, self._rescued, self._window)
                self._rescued = []
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # a damaged file may fail even here
                self._connection.close()
            self._connection = None

    def _replace(self, path: Path, error: Exception) -> str:
        """Make room for a fresh file, or fall back to memory; gives what to tell the user."""
        reason = _reason(error)
        if reason is not None and not self._moved_aside:
            self._moved_aside = True
            if self._identity is not None and self._identity != _identity(path):
                return f"The calibration file {path} was replaced by another process; going on with the new one."
            with suppress(OSError):
                aside = _move_aside(path, reason)
                return f"The calibration file {path} is {reason} ({error}); moved to {aside.name}, a fresh one begun."
        self.path = None
        with suppress(sqlite3.Error):
            self._rescued = look_into(path, tables.all_rows)
        kept = "what it holds counts, and new scores are" if self._rescued else "scores are"
        return f"The calibration file {path} cannot be used ({error}); {kept} kept in memory for this run only."


def look_into(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """What `work` reads of a store that is left as it is. Raises sqlite3.Error, also where it is no store."""
    address = without_host(path.absolute().as_uri())
    try:
        return _look(f"{address}?mode=rw", work)
    except sqlite3.Error as error:
        if _code(error) != sqlite3.SQLITE_CANTOPEN:
            raise
    return _look(f"{address}?mode=ro&immutable=1", work)  # in a folder that cannot be written a log cannot be opened


def without_host(address: str) -> str:
    """A file's address as SQLite takes it, without a host: a share of Windows is a path with two slashes."""
    return address if address.startswith("file:///") else address.replace("//", "////", 1)


def check_file(path: Path) -> None:
    """Raises ValueError for a file that is neither empty nor a database: it is another one of the user's."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        look_into(path, lambda connection: None)
    except sqlite3.Error as error:
        # Read only when SQLite holds no lock on it: to close a file gives up all locks of the process on it.
        if _code(error) == sqlite3.SQLITE_NOTADB and not _may_be_database(path):
            raise ValueError(
                f"{path} is no calibration store but another kind of file, and is left as it is: "
                "name a store, or a file that is not there yet"
            ) from None


def _may_be_database(path: Path) -> bool:
    """Whether a file begins as one, or another process has just moved it aside to begin a fresh one."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) in (_MAGIC, b"")
    except FileNotFoundError:
        return True


def _look(address: str, work: Callable[[sqlite3.Connection], T]) -> T:
    with closing(sqlite3.connect(address, timeout=1, isolation_level=None, uri=True)) as connection:
        if not tables.check(connection):
            raise sqlite3.NotSupportedError("it is empty")
        return work(connection)


def _reason(error: Exception) -> str | None:
    """Why the file should be moved aside; None if moving it would not help (a full disk, a read-only folder)."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.NotSupportedError):
        return None
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "locked"
    hopeless = (
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    )
    return None if code in hopeless else "damaged"


def _code(error: sqlite3.Error) -> int:
    """SQLite's number of an error, without the extended part."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _move_aside(path: Path, reason: str) -> Path:
    """Rename the file and its write-ahead log, which belongs to it; gives the new path. Raises OSError."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.{reason}-{stamp}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _identity(path: Path | None) -> tuple[int, int] | None:
    """What tells this file from another at the same path."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
