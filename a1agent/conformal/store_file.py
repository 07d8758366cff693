"""The SQLite file behind the calibration store: its schema, and what happens when it cannot be used."""

import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TypeVar

__all__ = ["CalibrationKey", "CalibrationWarning", "Row", "StoreEntry", "StoreFile", "StorePeriod"]

SCHEMA_VERSION = 1
RETRY_S = 0.02


class CalibrationWarning(UserWarning):
    """The stored calibration could not be used as it was; the message says what was done instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationKey:
    """What scores must have in common to be compared. Fingerprints are opaque strings."""

    draft: str
    target: str
    score: str
    step_tokens: int
    min_step_tokens: int
    prompt: str
    tenant: str = ""  # name of an API key, so that no client shifts another's rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One score as it is stored; `at` in seconds since 1970."""

    key: CalibrationKey
    bucket: int
    turn: int
    score: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePeriod:
    """The scores that came on one day (UTC): a mean that moves from day to day is drift."""

    day: date
    scores: int
    mean_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreEntry:
    """What is stored under one key."""

    key: CalibrationKey
    scores: int
    by_turn_bucket: dict[int, int]
    newest: datetime
    periods: tuple[StorePeriod, ...]  # oldest first


_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS keys (id INTEGER PRIMARY KEY, draft TEXT NOT NULL, target TEXT NOT NULL, "
    "score TEXT NOT NULL, step_tokens INTEGER NOT NULL, min_step_tokens INTEGER NOT NULL, prompt TEXT NOT NULL, "
    "tenant TEXT NOT NULL, UNIQUE (draft, target, score, step_tokens, min_step_tokens, prompt, tenant))",
    "CREATE TABLE IF NOT EXISTS scores (id INTEGER PRIMARY KEY AUTOINCREMENT, key_id INTEGER NOT NULL, "
    "bucket INTEGER NOT NULL, turn INTEGER NOT NULL, score REAL NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS scores_by_age ON scores (key_id, bucket, id)",
)
_KEY_COLUMNS = ", ".join(field.name for field in fields(CalibrationKey))
_SAME_KEY = " AND ".join(f"{field.name} = ?" for field in fields(CalibrationKey))

T = TypeVar("T")


class StoreFile:
    """One connection, used by one thread at a time; every failure of the file is handled here."""

    def __init__(self, path: Path, window: int, timeout_s: float) -> None:
        self.path: Path | None = path
        self._window = window
        self._timeout_s = timeout_s
        self._closed = self._moved_aside = False
        self._identity: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._use(lambda connection: None)  # what is wrong with the file is told now, not in the middle of an answer

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows in one transaction, and drop what is older than the newest `window` of their buckets."""
        self._use(lambda connection: _write(connection, rows, self._window))

    def read(self, key: CalibrationKey, limit_per_bucket: int) -> list[tuple[int, float]]:
        return self._use(lambda connection: _read(connection, key, limit_per_bucket))

    def summary(self) -> list[StoreEntry]:
        return self._use(_summary)

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
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._identity = _identity(self.path)
            self._connection = sqlite3.connect(
                self.path or ":memory:", timeout=self._timeout_s, isolation_level=None, check_same_thread=False
            )
            _prepare(self._connection)
            self._identity = _identity(self.path)
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
        return f"The calibration file {path} cannot be used ({error}); scores are kept in memory for this run only."


def _prepare(connection: sqlite3.Connection) -> None:
    """Settings and schema; raises sqlite3.Error if the file is not a calibration store of this version."""
    connection.execute(
        "PRAGMA journal_mode = WAL"
    )  # readers never wait for the writer; a killed process leaves no harm
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.NotSupportedError(f"written by a newer a1agent, schema {version}")
    if version == SCHEMA_VERSION:
        connection.execute("SELECT 1 FROM scores, keys LIMIT 1")
        return
    with _Transaction(connection):
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


class _Transaction:
    """A write transaction that takes its lock at once: two processes never deadlock by upgrading theirs."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _write(connection: sqlite3.Connection, rows: Sequence[Row], window: int) -> None:
    with _Transaction(connection):
        ids = {key: _key_id(connection, key) for key in {row.key for row in rows}}
        connection.executemany(
            "INSERT INTO scores (key_id, bucket, turn, score, at) VALUES (?, ?, ?, ?, ?)",
            [(ids[row.key], row.bucket, row.turn, row.score, row.at) for row in rows],
        )
        for group in {(ids[row.key], row.bucket) for row in rows}:
            connection.execute(
                "DELETE FROM scores WHERE key_id = ? AND bucket = ? AND id <= ("
                "SELECT id FROM scores WHERE key_id = ? AND bucket = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (*group, *group, window),
            )


def _key_id(connection: sqlite3.Connection, key: CalibrationKey) -> int:
    values = astuple(key)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR IGNORE INTO keys ({_KEY_COLUMNS}) VALUES ({marks})", values)
    (key_id,) = connection.execute(f"SELECT id FROM keys WHERE {_SAME_KEY}", values).fetchone()
    return int(key_id)


def _read(connection: sqlite3.Connection, key: CalibrationKey, limit_per_bucket: int) -> list[tuple[int, float]]:
    found = connection.execute(f"SELECT id FROM keys WHERE {_SAME_KEY}", astuple(key)).fetchone()
    if found is None:
        return []
    return connection.execute(
        "SELECT turn, score FROM (SELECT id, turn, score, ROW_NUMBER() OVER (PARTITION BY bucket ORDER BY id DESC) "
        "AS age FROM scores WHERE key_id = ?) WHERE age <= ? ORDER BY id",
        (found[0], limit_per_bucket),
    ).fetchall()


def _summary(connection: sqlite3.Connection) -> list[StoreEntry]:
    keys = connection.execute(f"SELECT id, {_KEY_COLUMNS} FROM keys").fetchall()
    entries = [_entry(connection, key_id, _key(values)) for key_id, *values in keys]
    return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.newest, reverse=True)


def _key(values: Sequence[str | int]) -> CalibrationKey:
    named = dict(zip((field.name for field in fields(CalibrationKey)), values, strict=True))
    return CalibrationKey(**named)  # pyright: ignore[reportArgumentType]  # types are the columns'


def _entry(connection: sqlite3.Connection, key_id: int, key: CalibrationKey) -> StoreEntry | None:
    buckets = connection.execute(
        "SELECT bucket, COUNT(*), MAX(at) FROM scores WHERE key_id = ? GROUP BY bucket ORDER BY bucket", (key_id,)
    ).fetchall()
    if not buckets:
        return None
    days = connection.execute(
        "SELECT date(at, 'unixepoch') AS day, COUNT(*), AVG(score) FROM scores "
        "WHERE key_id = ? GROUP BY day ORDER BY day",
        (key_id,),
    ).fetchall()
    return StoreEntry(
        key=key,
        scores=sum(count for _, count, _ in buckets),
        by_turn_bucket={bucket: count for bucket, count, _ in buckets},
        newest=datetime.fromtimestamp(max(at for _, _, at in buckets), UTC),
        periods=tuple(
            StorePeriod(day=date.fromisoformat(day), scores=count, mean_score=mean) for day, count, mean in days
        ),
    )


def _reason(error: Exception) -> str | None:
    """Why the file should be moved aside; None if moving it would not help (a full disk, a read-only folder)."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.NotSupportedError):
        return None
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extended part
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
