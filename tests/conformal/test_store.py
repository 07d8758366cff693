import math
import os
import sqlite3
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from a1agent.conformal import store_file
from a1agent.conformal.store import (
    CalibrationKey,
    CalibrationStore,
    CalibrationWarning,
    default_store_path,
    scores_since,
    summary_of,
)
from a1agent.conformal.store_file import check_file, without_host

KEY = CalibrationKey(draft="d", target="t", score="mean_nll", step_tokens=512, min_step_tokens=0, prompt="p")
OTHER = CalibrationKey(draft="d", target="t", score="mean_nll", step_tokens=256, min_step_tokens=0, prompt="p")

PRELUDE = """
import sys
from pathlib import Path
from a1agent.conformal.store import CalibrationKey, CalibrationStore
key = CalibrationKey(draft="d", target="t", score="mean_nll", step_tokens=512, min_step_tokens=0, prompt="p")
store = CalibrationStore(Path(sys.argv[1]))
"""


def start(path: Path, body: str) -> subprocess.Popen[str]:
    code = PRELUDE + textwrap.dedent(body)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "data" / "calibration.sqlite3"


def fill(path: Path, scores: int) -> None:
    with CalibrationStore(path) as store:
        for number in range(scores):
            store.append(KEY, 0, float(number))


def others_beside(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir() if p.name.startswith(path.name + ".")]


def test_scores_come_back_in_the_next_run_oldest_first(path):
    with CalibrationStore(path) as store:
        store.append(KEY, 0, 0.5)
        store.append(KEY, 3, 0.25)
        assert store.load(KEY) == [(0, 0.5), (3, 0.25)]
        store.append(KEY, 0, 0.75)
    with CalibrationStore(path) as store:
        assert store.load(KEY) == [(0, 0.5), (3, 0.25), (0, 0.75)]
        assert store.load(OTHER) == []


def test_only_the_newest_scores_of_each_bucket_are_kept_on_disk_and_loaded(path):
    with CalibrationStore(path, window=10) as store:
        for number in range(25):
            store.append(KEY, 0, float(number))
            store.append(KEY, 1, -float(number))
            if number % 7 == 0:
                store.flush()
        store.append(OTHER, 0, 99.0)
        loaded = store.load(KEY)
        assert [score for turn, score in loaded if turn == 0] == [float(n) for n in range(15, 25)]
        assert len(loaded) == 20
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM scores").fetchone() == (21,)
    connection.close()


def test_tenants_do_not_share_scores(path):
    tenant = CalibrationKey(**{name: getattr(KEY, name) for name in KEY.__slots__ if name != "tenant"}, tenant="alice")
    with CalibrationStore(path) as store:
        store.append(tenant, 0, 1.0)
        assert store.load(KEY) == []
        assert store.load(tenant) == [(0, 1.0)]


def test_a_summary_tells_sizes_and_drift(path):
    with CalibrationStore(path) as store:
        assert store.summary() == []
        for turn, score in ((0, 1.0), (0, 3.0), (17, 5.0)):
            store.append(KEY, turn, score)
        (entry,) = store.summary()
    assert entry.key == KEY
    assert entry.scores == 3
    assert entry.by_turn_bucket == {0: 2, 16: 1}
    assert sum(period.scores for period in entry.periods) == 3
    assert entry.newest.date() == entry.periods[-1].day


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(path, bad):
    with CalibrationStore(path) as store, pytest.raises(ValueError, match="finite"):
        store.append(KEY, 0, bad)


def test_a_closed_store_refuses_scores_and_closing_twice_is_harmless(path):
    store = CalibrationStore(path)
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.append(KEY, 0, 1.0)
    with pytest.raises(ValueError, match="closed"):
        store.load(KEY)


def test_an_append_reaches_the_disk_without_a_flush(path):
    writer = start(path, "store.append(key, 0, 1.0)\nprint('appended', flush=True)\nsys.stdin.read()")
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "appended\n"
        with CalibrationStore(path) as store:
            assert any(store.load(KEY) for _ in iter(lambda: writer.poll() is None, False))
    finally:
        writer.kill()
        writer.communicate()


def test_a_process_that_exits_without_closing_loses_nothing(path):
    writer = start(path, "for n in range(50): store.append(key, 0, float(n))")
    writer.communicate(timeout=60)
    assert writer.returncode == 0
    with CalibrationStore(path) as store:
        assert len(store.load(KEY)) == 50


@pytest.mark.parametrize("lines", [1, 40])
def test_a_process_killed_while_it_writes_loses_nothing_that_was_flushed(path, lines):
    writer = start(
        path,
        """
        number = 0
        while True:
            for _ in range(20):
                store.append(key, 0, float(number))
                number += 1
            store.flush()
            print(number, flush=True)
        """,
    )
    assert writer.stdout is not None
    flushed = [int(writer.stdout.readline()) for _ in range(lines)][-1]
    writer.kill()
    writer.communicate(timeout=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with CalibrationStore(path) as store:
            kept = [score for _, score in store.load(KEY)]
            store.append(KEY, 0, -1.0)
            assert store.load(KEY)[-1] == (0, -1.0)
    assert len(kept) >= flushed
    assert len(kept) % 20 == 0  # a transaction is there as a whole or not at all
    assert kept == [float(n) for n in range(len(kept))]
    assert others_beside(path) == []


def test_processes_that_start_at_once_share_one_store(path):
    body = """
    print("ready", flush=True)
    for number in range(200):
        store.append(key, 0, float(number))
        if number % 20 == 0:
            store.flush()
    store.close()
    """
    writers = [start(path, body) for _ in range(3)]
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with CalibrationStore(path) as store:
        assert len(store.load(KEY)) == 600
    assert others_beside(path) == []


def test_a_damaged_store_is_moved_aside_with_one_warning_and_nothing_lost(path):
    junk = b"SQLite format 3\0" + b"\1" * 4000
    path.parent.mkdir()
    path.write_bytes(junk)
    with pytest.warns(CalibrationWarning, match="damaged") as warned:
        store = CalibrationStore(path)
    with store:
        store.append(KEY, 0, 1.0)
        assert store.load(KEY) == [(0, 1.0)]
    assert len(warned) == 1
    (aside,) = [name for name in others_beside(path) if not name.endswith(("-wal", "-shm"))]
    assert "damaged" in aside
    assert (path.parent / aside).read_bytes() == junk
    with CalibrationStore(path) as store:
        assert store.load(KEY) == [(0, 1.0)]


@pytest.mark.parametrize("junk", [b"{}", b'{"question": "1 + 2"}\n' * 1000, b"SQLite format 4\0" + b"\1" * 4000])
def test_a_file_of_another_kind_is_refused_and_left_alone(path, junk):
    path.parent.mkdir()
    path.write_bytes(junk)
    with pytest.raises(ValueError, match="another kind of file"):
        CalibrationStore(path)
    assert path.read_bytes() == junk
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("begin_anew", [Path.unlink, Path.touch])
def test_a_damaged_file_that_another_process_replaces_meanwhile_is_no_file_of_another_kind(
    path, monkeypatch, begin_anew
):
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + b"\1" * 4000)
    look = store_file.look_into

    def looked_into(path, work):
        try:
            return look(path, work)
        finally:
            path.unlink()
            path.touch()
            begin_anew(path)

    monkeypatch.setattr(store_file, "look_into", looked_into)
    check_file(path)


def test_an_empty_file_becomes_a_store(path):
    path.parent.mkdir()
    path.touch()
    fill(path, 3)
    assert summary_of(path)[0].scores == 3


@pytest.mark.parametrize("junk", [b"overwritten" * 1000, b"\0" * 4096])
def test_the_users_own_store_is_moved_aside_whatever_has_become_of_it(user_folders, junk):
    path = default_store_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(junk)
    with pytest.warns(CalibrationWarning, match="damaged") as warned, CalibrationStore() as store:
        store.append(KEY, 0, 1.0)
    assert len(warned) == 1 and summary_of(path)[0].scores == 1
    assert [(path.parent / name).read_bytes() for name in others_beside(path)] == [junk]


def test_scores_that_came_since_a_moment_are_counted(path):
    fill(path, 3)
    (entry,) = summary_of(path)
    newest = entry.newest.timestamp()
    assert scores_since(path, 0) == 3
    assert scores_since(path, newest + 1) == 0
    with pytest.raises(ValueError, match="cannot be read"):
        scores_since(path.parent / "nowhere", 0)


def test_damage_found_later_is_survived_too(path):
    fill(path, 3000)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xa5" * (size - 4096 * 2))
    with pytest.warns(CalibrationWarning, match="damaged"), CalibrationStore(path) as store:
        store.load(KEY)
        store.append(KEY, 0, 1.0)
        store.flush()
        assert store.load(KEY)[-1] == (0, 1.0)


@pytest.mark.parametrize("version", [0, 1])
def test_the_database_of_another_program_is_left_alone(path, version):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE notes (text); PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    with pytest.warns(CalibrationWarning, match="another program"), CalibrationStore(path) as store:
        store.append(KEY, 0, 1.0)
        assert store.load(KEY) == [(0, 1.0)]
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("junk", [b"Dear diary, today I calibrated a model. " * 100, b""])
def test_looking_into_a_file_that_is_no_store_leaves_it_alone(path, junk):
    path.parent.mkdir()
    path.write_bytes(junk)
    with pytest.raises(ValueError, match=path.name):
        summary_of(path)
    assert path.read_bytes() == junk
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.fixture
def restricted(monkeypatch):
    """Opens files of the store as `restrict` says, as a system without rights or room would."""

    def install(restrict):
        connect = sqlite3.connect

        def restricted(database, **options):
            if database == ":memory:" or options.get("uri"):
                return connect(database, **options)
            return restrict(connect, database, options)

        monkeypatch.setattr(sqlite3, "connect", restricted)

    return install


def read_only(connect, path, options):
    return connect(f"{Path(path).as_uri()}?mode=ro", uri=True, **options)


def without_room(connect, path, options):
    connection = connect(path, **options)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return connection


@pytest.mark.parametrize("restrict", [read_only, without_room])
def test_of_a_file_that_cannot_be_written_what_it_holds_still_counts(path, restricted, restrict):
    fill(path, 50)
    restricted(restrict)
    store = CalibrationStore(path)
    for number in range(50, 1000):
        store.append(KEY, 0, float(number))
    with pytest.warns(CalibrationWarning, match="what it holds counts") as warned:
        store.flush()
    assert [score for _, score in store.load(KEY)] == [float(n) for n in range(1000)]
    store.close()
    assert len(warned) == 1
    assert others_beside(path) == []
    assert summary_of(path)[0].scores == 50


def test_a_folder_that_cannot_be_written_can_be_read(path, monkeypatch):
    fill(path, 5)
    connect = sqlite3.connect

    def no_log(database, **options):
        if database != ":memory:" and "immutable" not in str(database):
            return connect(path.parent / "nowhere" / "log", **options | {"uri": False})
        return connect(database, **options)

    monkeypatch.setattr(sqlite3, "connect", no_log)
    with pytest.warns(CalibrationWarning, match="what it holds counts"):
        store = CalibrationStore(path)
    assert len(store.load(KEY)) == 5
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_writes_no_score_twice(path):
    writer = start(
        path,
        """
        import os, warnings
        warnings.simplefilter("ignore")  # that threads stay behind is the point
        for number in range(50):
            store.append(key, 0, float(number))
        child = os.fork()
        store.append(key, 0, 99.0)  # of the child: dropped
        if child:
            os.waitpid(child, 0)
        """,
    )
    writer.communicate(timeout=60)
    assert writer.returncode == 0
    with CalibrationStore(path) as store:
        assert [score for _, score in store.load(KEY)] == [*map(float, range(50)), 99.0]


def test_a_locked_store_is_moved_aside_without_a_hang_and_keeps_its_scores(path):
    fill(path, 5)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.warns(CalibrationWarning, match="locked|memory") as warned:
        store = CalibrationStore(path, timeout_s=0.1)
    try:
        store.append(KEY, 0, 7.0)
        assert store.load(KEY) == [(0, 7.0)]
        assert len(warned) == 1
    finally:
        store.close()
        holder.execute("ROLLBACK")
        holder.execute("PRAGMA locking_mode = NORMAL")
        holder.close()
    if os.name != "nt":  # an open file cannot be renamed there: the scores stay in memory instead
        (aside,) = [p for p in path.parent.glob("*locked*") if not p.name.endswith(("-wal", "-shm"))]
        with CalibrationStore(aside) as moved:
            assert len(moved.load(KEY)) == 5


def test_a_writer_that_never_lets_go_does_not_stop_a_flush(path):
    fill(path, 5)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store = CalibrationStore(path, timeout_s=0.1)
    assert len(store.load(KEY)) == 5  # readers need not wait
    with pytest.warns(CalibrationWarning, match="locked|memory"):
        store.append(KEY, 0, 7.0)
        store.flush()
    assert store.load(KEY)[-1:] == [(0, 7.0)]
    assert len(store.load(KEY)) == (
        6 if os.name == "nt" else 1
    )  # an open file stays there, and so what it holds counts
    store.close()
    holder.execute("ROLLBACK")
    holder.close()


def test_a_store_of_a_newer_version_is_left_alone(path):
    fill(path, 3)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.warns(CalibrationWarning, match="newer"):
        store = CalibrationStore(path)
    with store:
        store.append(KEY, 0, 1.0)
        assert store.load(KEY) == [(0, 1.0)]
        assert store.path is None
    assert others_beside(path) == []


def test_a_path_that_cannot_be_used_leaves_the_scores_in_memory(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("in the way", encoding="utf-8")
    with pytest.warns(CalibrationWarning, match="memory"):
        store = CalibrationStore(blocker / "calibration.sqlite3")
    with store:
        store.append(KEY, 0, 1.0)
        assert store.load(KEY) == [(0, 1.0)]


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("file:///data/a%20b.sqlite3", "file:///data/a%20b.sqlite3"),
        ("file:///C:/Users/a.sqlite3", "file:///C:/Users/a.sqlite3"),
        ("file://server/home/a.sqlite3", "file:////server/home/a.sqlite3"),
    ],
)
def test_an_address_of_a_file_names_no_host(address, taken):
    assert without_host(address) == taken


@pytest.mark.skipif(os.name == "nt", reason="users have a home there")
def test_a_user_without_a_home_gets_no_folder_in_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.warns(CalibrationWarning, match="no home folder"):
        store = CalibrationStore()
    with store:
        store.append(KEY, 0, 1.0)
        assert store.load(KEY) == [(0, 1.0)]
    assert list(tmp_path.iterdir()) == []


def test_the_default_path_lies_in_the_users_data_folder():
    assert default_store_path().name == "calibration.sqlite3"
    assert "a1agent" in default_store_path().parts
