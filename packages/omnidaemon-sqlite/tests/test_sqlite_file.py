"""The file: how it is named, made, opened, migrated and refused."""

import asyncio
import contextlib
import os
import pathlib
import sqlite3
import stat
import threading

import pytest

from omnidaemon.model.errors import BackendUnavailable, Closed, ConfigurationError
from omnidaemon.model.run import Group, Start
from omnidaemon.ports.store import Put, Query
from omnidaemon_sqlite import SQLiteEventBus, SQLiteStore, _database, _gate, _schema
from omnidaemon_sqlite._errors import CommitUnknown, translate
from omnidaemon_sqlite._gate import Gate

FIXTURE = pathlib.Path(__file__).with_name("fixtures") / "schema-0.2.0.sql"


def opening(path, **options):
    """Open a store, write and read back, close."""

    async def run():
        store = SQLiteStore(path, **options)
        await store.open()
        await store.put("ns", [Put("k", b"v")])
        value = (await store.get("ns", ["k"]))[0].value
        await store.close()
        return value

    return asyncio.run(run())


def execute(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({}, "./.omnidaemon/omnidaemon.db"),
        ({"environ": {"SQLITE_PATH": "work.db"}}, "work.db"),
        ({"url": "sqlite:///data/work.db", "environ": {"SQLITE_PATH": "other"}}, "data/work.db"),
        ({"url": "sqlite:////var/data/my%20work.db"}, "/var/data/my work.db"),
        ({"url": "sqlite:work.db"}, "work.db"),
        ({"url": "~/work.db"}, "~/work.db"),
    ],
)
def test_settings_name_the_file(settings, path):
    expected = str(pathlib.Path(path).expanduser().absolute())
    for adapter in (SQLiteEventBus, SQLiteStore):
        made = adapter.from_settings(settings)
        assert made.location == expected
        assert made.scope == "machine"
        assert expected in repr(made)
        assert made.twin().location == expected


@pytest.mark.parametrize("url", ["sqlite://host/path.db", "sqlite:", "sqlite:///", ":memory:", "file:x?mode=memory"])
def test_what_names_no_file_is_refused(url):
    with pytest.raises(ConfigurationError, match="no file"):
        SQLiteStore.from_settings({"url": url})


def test_the_file_is_made_with_its_folder_for_this_user_only(tmp_path):
    path = tmp_path / "a" / "b" / "omni.db"

    async def run():
        store = SQLiteStore(path)
        await store.open()
        await store.open()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        await store.close()
        await store.close()
        return modes

    modes = asyncio.run(run())
    assert modes == dict.fromkeys(["omni.db", "omni.db-shm", "omni.db-wal", "omni.db.lock"], 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {file.name for file in path.parent.iterdir()} == {"omni.db", "omni.db.lock"}, "closing leaves one file"


def test_the_constructor_does_no_io(tmp_path):
    SQLiteStore(tmp_path / "x" / "omni.db")
    SQLiteEventBus(tmp_path / "x" / "omni.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no database at all\n" * 300)
    with pytest.raises(ConfigurationError, match=r"notes\.txt cannot be used: .* no SQLite database.*SQLITE_PATH"):
        opening(path)
    assert path.read_text().startswith("no database"), "it is left as it was"


def test_a_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.db"
    execute(path, "CREATE TABLE users (id INTEGER)")
    with pytest.raises(ConfigurationError, match="tables of another program"):
        opening(path)


def test_a_folder_and_a_path_below_a_file_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="it is a folder"):
        opening(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        opening(tmp_path / "file" / "omni.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "omni.db"
    opening(path)
    path.chmod(0o400)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        opening(path)


def test_sqlite_errors_say_what_happened_where_and_what_to_do(tmp_path):
    path = tmp_path / "omni.db"
    opening(path)
    read_only = contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True))
    with read_only as connection, pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("DELETE FROM kv")
    for now, kind in ((True, ConfigurationError), (False, BackendUnavailable)):
        error = translate(caught.value, str(path), opening=now)
        assert type(error) is kind
        assert str(path) in str(error)
        assert "writable" in str(error)
    missing = tmp_path / "missing" / "omni.db"
    with pytest.raises(sqlite3.OperationalError) as caught, contextlib.closing(sqlite3.connect(missing)):
        pass
    assert "its folder" in str(translate(caught.value, str(missing), opening=True))
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR | (4 << 8)
    assert type(translate(failed, "x")) is BackendUnavailable
    assert type(translate(failed, "x", committing=True)) is CommitUnknown
    own = TypeError("mine")
    assert translate(own, "x") is own


def test_a_full_disk_refuses_and_leaves_what_was_there(tmp_path):
    async def run():
        store = SQLiteStore(tmp_path / "omni.db")
        await store.open()
        await store.put("ns", [Put("before", b"v")])
        file = store._file
        pages = await file.read(lambda session: session.connection.execute("PRAGMA page_count").fetchone()[0])
        await file.read(lambda session: session.connection.execute(f"PRAGMA max_page_count = {pages + 4}").fetchone())
        large, small = Put("large", b"x" * 200_000), Put("small", b"v")
        outcomes = await asyncio.gather(
            *[store.put("ns", [item]) for item in (small, large, small)], return_exceptions=True
        )
        stored = await store.get("ns", ["before", "small", "large"])
        for item, outcome in zip((small, large, small), outcomes, strict=True):
            if isinstance(outcome, BackendUnavailable):
                assert "disk is full" in str(outcome)
            else:
                assert item is small
        assert isinstance(outcomes[1], BackendUnavailable)
        assert stored[0] is not None
        assert stored[2] is None
        assert (stored[1] is not None) == (outcomes[0] == [True] or outcomes[2] == [True])
        await file.read(lambda session: session.connection.execute("PRAGMA max_page_count = 100000").fetchone())
        assert await store.put("ns", [large]) == [True]
        await store.close()

    asyncio.run(run())


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"21 1 8:1 / / rw - ext4 /dev/sda rw\n22 1 0:5 / {tmp_path}/net rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(_database, "_MOUNTS", mounts)
    with pytest.raises(ConfigurationError, match=r"network file system \(nfs4\)"):
        opening(tmp_path / "net" / "omni.db")
    assert opening(tmp_path / "network" / "omni.db") == b"v"


def test_a_file_system_without_locks_is_refused_where_they_are_needed(tmp_path, monkeypatch):
    def cannot_lock(_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(_gate, "_lock", cannot_lock)
    monkeypatch.setattr(_gate, "AFFECTED", True)
    with pytest.raises(ConfigurationError, match=r"cannot lock \(Operation not supported\)"):
        opening(tmp_path / "one.db")
    monkeypatch.setattr(_gate, "AFFECTED", False)
    assert opening(tmp_path / "two.db") == b"v"


def test_a_lock_that_is_not_let_go_is_a_backend_that_is_unavailable(tmp_path):
    path = tmp_path / "omni.db"
    opening(path)
    other = Gate(str(path))

    async def run():
        store = SQLiteStore(path, timeout=0.05)
        await store.open()
        with other.held(1):
            with pytest.raises(BackendUnavailable, match=r"another process has held the database for 0\.05 s"):
                await store.put("ns", [Put("k", b"w")])
            assert (await store.get("ns", ["k"]))[0].value == b"v", "reading goes on"
            with pytest.raises(BackendUnavailable):
                await SQLiteEventBus(path, namespace="other").open()
        assert await store.put("ns", [Put("k", b"w")]) == [True]
        with other.held(1):
            await store.close()

    with contextlib.closing(other):
        asyncio.run(run())
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if name.startswith("omnidaemon-sqlite")]


def test_a_file_that_is_deleted_while_open_takes_no_more_writes(tmp_path):
    path = tmp_path / "omni.db"

    async def run():
        store = SQLiteStore(path)
        await store.open()
        path.unlink()
        with pytest.raises(BackendUnavailable, match="deleted or replaced while it was open"):
            await store.put("ns", [Put("k", b"v")])
        await asyncio.to_thread(opening, path)
        with pytest.raises(BackendUnavailable, match="deleted or replaced"):
            await store.put("ns", [Put("k", b"w")])
        await store.close()
        await store.open()
        assert (await store.get("ns", ["k"]))[0].value == b"v"
        await store.close()

    asyncio.run(run())


def test_a_forked_process_must_open_for_itself(tmp_path):
    async def run():
        store = SQLiteStore(tmp_path / "omni.db")
        await store.open()
        store._file._process += 1
        with pytest.raises(Closed, match="forked"):
            await store.ping()
        store._file._process -= 1
        await store.close()

    asyncio.run(run())


def test_a_loop_that_ended_without_closing_lets_go_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("omnidaemon_sqlite._file._IDLE", 0.01)
    store = SQLiteStore(tmp_path / "omni.db")
    asyncio.run(store.open())
    thread = store._file._thread
    thread.join(5)
    assert not thread.is_alive()
    assert opening(tmp_path / "omni.db") == b"v"


def schema(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        return rows, [connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")]


def test_a_file_of_0_2_0_opens_and_ends_up_like_a_new_one(tmp_path):
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.executescript(FIXTURE.read_text())
    opening(new)

    async def run():
        group = Group("news", "a", 1)
        bus, store = SQLiteEventBus(old), SQLiteStore(old)
        await bus.open()
        await store.open()
        records = (await store.records(Query())).items
        assert [(record.event_id, record.state, record.result) for record in records] == [
            ("e1", "completed", b'{"ok":true}'),
            ("e2", "working", None),
        ]
        assert await store.notes(group, "e2") == {"step": b"1"}
        assert await store.follow("news", "a", "e2", 0, 9) == [(1, b"half")]
        assert (await store.metrics())[0].counts == {"completed": 1.0}
        assert (await store.get("config", ["k"]))[0].value == b"v"
        assert [event.id for event in (await store.outbox("w", 9, 15))[0]] == ["f1"]
        assert [(await bus.info("news")).groups[0].lag.value, (await bus.info("news")).length.value] == [1, 3]
        assert [body async for _, body in bus.history("news", Start("beginning"), Start("now"))] == [b"1", b"2", b"3"]
        await store.close()
        await bus.close()

    asyncio.run(run())
    assert schema(old) == schema(new)


def test_a_migration_is_one_step_for_all_who_come_at_once(tmp_path, monkeypatch):
    path = tmp_path / "omni.db"
    opening(path)
    step = "CREATE TABLE extra (id INTEGER PRIMARY KEY) STRICT;\nALTER TABLE kv ADD COLUMN extra TEXT;\n"
    monkeypatch.setattr(_schema, "MIGRATIONS", (*_schema.MIGRATIONS, step))
    threads = [threading.Thread(target=opening, args=(path,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows, versions = schema(path)
    assert "extra" in [row[1] for row in rows]
    assert versions[0] == (2,)
    monkeypatch.undo()
    assert opening(path) == b"v", "the version before still can"


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "omni.db"
    opening(path)
    before = schema(path)
    monkeypatch.setattr(_schema, "MIGRATIONS", (*_schema.MIGRATIONS, "CREATE TABLE extra (id INTEGER);\nNONSENSE;\n"))
    with pytest.raises(BackendUnavailable, match="syntax error"):
        opening(path)
    monkeypatch.undo()
    assert schema(path) == before


def test_a_schema_that_is_too_new_says_what_to_upgrade(tmp_path):
    path = tmp_path / "omni.db"
    opening(path)
    execute(path, "PRAGMA user_version = 9", "UPDATE meta SET value = '1'")
    assert opening(path) == b"v"
    execute(path, "UPDATE meta SET value = '9'")
    with pytest.raises(ConfigurationError, match="pip install -U omnidaemon-sqlite"):
        opening(path)
