"""What the calibration store holds, as tables of an SQLite file: the schema, and what is written and read."""

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, date, datetime

__all__ = [
    "CalibrationKey",
    "Row",
    "StoreEntry",
    "StorePeriod",
    "all_rows",
    "check",
    "count_since",
    "prepare",
    "read",
    "summary",
    "write",
]

SCHEMA_VERSION = 1


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
_BEGIN = "BEGIN IMMEDIATE"  # takes the lock at once: two processes never deadlock by upgrading theirs
_KEY_COLUMNS = ", ".join(field.name for field in fields(CalibrationKey))
_SAME_KEY = " AND ".join(f"{field.name} = ?" for field in fields(CalibrationKey))


def check(connection: sqlite3.Connection) -> bool:
    """Whether the tables are there; raises sqlite3.Error if the file is neither empty nor a store of this version."""
    connection.execute("BEGIN")  # both are read at one moment: another process may be making the tables
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.rollback()
    if version > SCHEMA_VERSION:
        raise sqlite3.NotSupportedError(f"written by a newer a1agent, schema {version}")
    found.discard("sqlite_sequence")
    if not version and not found:
        return False
    if not version or not found >= {"keys", "scores"}:
        raise sqlite3.NotSupportedError("it is the database of another program")
    return True


def prepare(connection: sqlite3.Connection) -> None:
    """Settings and schema. Raises as `check`, and changes nothing then."""
    ready = check(connection)
    # Readers never wait for the writer; a killed process leaves no harm.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if ready:
        return
    with connection:
        connection.execute(_BEGIN)
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def write(connection: sqlite3.Connection, rows: Sequence[Row], window: int) -> None:
    """Appends rows in one transaction, and drops what is older than the newest `window` of their buckets."""
    with connection:
        connection.execute(_BEGIN)
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


def read(connection: sqlite3.Connection, key: CalibrationKey) -> list[tuple[int, float]]:
    """(turn, score) of what is kept under a key, oldest first."""
    return connection.execute(
        f"SELECT turn, score FROM scores WHERE key_id = (SELECT id FROM keys WHERE {_SAME_KEY}) ORDER BY id",
        astuple(key),
    ).fetchall()


def all_rows(connection: sqlite3.Connection) -> list[Row]:
    """Every score, oldest first."""
    columns = ", ".join(f"keys.{field.name}" for field in fields(CalibrationKey))
    rows = connection.execute(
        f"SELECT {columns}, bucket, turn, scores.score, at FROM scores JOIN keys ON keys.id = key_id ORDER BY scores.id"
    )
    return [
        Row(key=_key(values), bucket=bucket, turn=turn, score=score, at=at) for *values, bucket, turn, score, at in rows
    ]


def count_since(connection: sqlite3.Connection, moment: float) -> int:
    """How many scores came at `moment` or later."""
    (count,) = connection.execute("SELECT COUNT(*) FROM scores WHERE at >= ?", (moment,)).fetchone()
    return int(count)


def summary(connection: sqlite3.Connection) -> list[StoreEntry]:
    """What is stored under each key, the one used last first."""
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
