"""Tables, and how an older file becomes a current one (S13).

Each entry of MIGRATIONS takes the schema one version up. A release must leave the file readable by
the previous minor version: add tables, columns with defaults and indexes; ``readable_from`` in
``meta`` is the oldest schema version whose code may use the file as it is now.

Times are seconds since the epoch. ``events.ref`` is topic * 2**40 + position, so that a topic's events
lie together in order and need no second index. ``agents`` gives a number to each (namespace, topic,
agent), whether or not it is registered yet (``epoch`` is then NULL). ``ready``, ``live`` and
``suspect`` repeat what the rest of a run's row says, for the indexes: ``live`` is 0 for a final run,
else 1 + 2 if it is claimed + 4 if it is in the inbox + 8 if it waits for an answer. Minute -1 is
"since ever".
"""

from __future__ import annotations

import sqlite3

from omnidaemon_sqlite._errors import not_usable

__all__ = ["APPLICATION_ID", "MIGRATIONS", "migrate"]

APPLICATION_ID = 0x4F4D4E49  # "OMNI"

_V1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('readable_from', '1');
CREATE TABLE spaces (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

CREATE TABLE topics (
  id INTEGER PRIMARY KEY AUTOINCREMENT, space INTEGER NOT NULL, name TEXT NOT NULL,
  last INTEGER NOT NULL DEFAULT 0, length INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
  upto INTEGER NOT NULL DEFAULT 0, published REAL NOT NULL DEFAULT 0, UNIQUE (space, name)) STRICT;
CREATE TABLE events (
  ref INTEGER PRIMARY KEY, published REAL NOT NULL, upto INTEGER NOT NULL,
  id TEXT NOT NULL, key TEXT, body BLOB NOT NULL) STRICT;
CREATE TABLE groups (
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, agent TEXT NOT NULL, epoch INTEGER NOT NULL,
  cursor INTEGER NOT NULL, UNIQUE (topic, agent, epoch)) STRICT;
CREATE TABLE pending (
  grp INTEGER NOT NULL, ref INTEGER NOT NULL, until REAL NOT NULL, reader TEXT NOT NULL, key TEXT,
  PRIMARY KEY (grp, ref)) STRICT, WITHOUT ROWID;
CREATE INDEX pending_until ON pending (grp, until);
CREATE INDEX pending_key ON pending (grp, key, ref) WHERE key IS NOT NULL;

CREATE TABLE agents (
  id INTEGER PRIMARY KEY, space INTEGER NOT NULL, topic TEXT NOT NULL, agent TEXT NOT NULL,
  epoch INTEGER, deleted INTEGER NOT NULL DEFAULT 0, data BLOB NOT NULL DEFAULT x'',
  registered_at REAL NOT NULL DEFAULT 0, UNIQUE (space, topic, agent)) STRICT;
CREATE TABLE generations (
  agent INTEGER NOT NULL, epoch INTEGER NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY (agent, epoch)) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, agent INTEGER NOT NULL, event TEXT NOT NULL, epoch INTEGER NOT NULL,
  state TEXT NOT NULL, generation INTEGER NOT NULL, attempt INTEGER NOT NULL, starts INTEGER NOT NULL,
  lost INTEGER NOT NULL, token TEXT, worker TEXT, lease_until REAL NOT NULL, spent TEXT, op TEXT,
  inbox INTEGER NOT NULL, due REAL, blocked INTEGER NOT NULL, lane TEXT, lane_seq REAL, position TEXT NOT NULL,
  question TEXT, dead TEXT, tenant TEXT, created REAL NOT NULL, updated REAL NOT NULL, expires REAL,
  chunks INTEGER NOT NULL, data BLOB NOT NULL, result BLOB, body BLOB NOT NULL, notes BLOB,
  ready REAL, live INTEGER NOT NULL, suspect INTEGER NOT NULL, UNIQUE (agent, event)) STRICT;
CREATE INDEX runs_ready ON runs (agent, epoch, suspect, ready) WHERE ready IS NOT NULL;
CREATE INDEX runs_live ON runs (agent, epoch, live) WHERE live > 0;
CREATE INDEX runs_lane ON runs (agent, epoch, lane, lane_seq) WHERE lane_seq IS NOT NULL;
CREATE INDEX runs_token ON runs (token) WHERE token IS NOT NULL;
CREATE INDEX runs_updated ON runs (agent, updated, event);
CREATE INDEX runs_dead ON runs (agent, updated, event, expires) WHERE dead IS NOT NULL;
CREATE INDEX runs_expires ON runs (expires) WHERE expires IS NOT NULL;
CREATE TABLE marks (
  agent INTEGER NOT NULL, epoch INTEGER NOT NULL, event TEXT NOT NULL, settled REAL NOT NULL, until REAL NOT NULL,
  PRIMARY KEY (agent, epoch, event)) STRICT, WITHOUT ROWID;
CREATE INDEX marks_settled ON marks (agent, epoch, settled);
CREATE TABLE outbox (
  n INTEGER PRIMARY KEY, space INTEGER NOT NULL, id TEXT NOT NULL, topic TEXT NOT NULL, key TEXT,
  body BLOB NOT NULL, due REAL NOT NULL, leased_until REAL NOT NULL, free REAL NOT NULL,
  agent INTEGER, epoch INTEGER, event TEXT NOT NULL, UNIQUE (space, id)) STRICT;
CREATE INDEX outbox_free ON outbox (space, free);
CREATE INDEX outbox_order ON outbox (space, due, n, leased_until, topic, key);
CREATE INDEX outbox_source ON outbox (agent, epoch, event) WHERE agent IS NOT NULL;
CREATE TABLE counts (
  agent INTEGER NOT NULL, minute INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (agent, minute, name)) STRICT, WITHOUT ROWID;
CREATE TABLE streams (
  agent INTEGER NOT NULL, event TEXT NOT NULL, expires REAL NOT NULL,
  PRIMARY KEY (agent, event)) STRICT, WITHOUT ROWID;
CREATE INDEX streams_expires ON streams (expires);
CREATE TABLE chunks (
  agent INTEGER NOT NULL, event TEXT NOT NULL, number INTEGER NOT NULL, chunk BLOB NOT NULL,
  PRIMARY KEY (agent, event, number)) STRICT, WITHOUT ROWID;
CREATE TABLE kv (
  space INTEGER NOT NULL, ns TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
  expires REAL, PRIMARY KEY (space, ns, key)) STRICT, WITHOUT ROWID;
CREATE INDEX kv_expires ON kv (expires) WHERE expires IS NOT NULL;
"""

MIGRATIONS = (_V1,)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to the current schema; whoever comes second finds nothing to do.

    Raises:
        ConfigurationError: The file is of another program, or of a version that is too new.
    """
    if _version(connection, path) >= len(MIGRATIONS):
        return
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for number in range(_version(connection, path), len(MIGRATIONS)):
            for statement in MIGRATIONS[number].split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, path: str) -> int:
    """Return the file's schema version, if it is one that this code may use or migrate."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        if version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise not_usable(path, "it holds the tables of another program")
        return 0
    if version > len(MIGRATIONS):
        row = connection.execute("SELECT value FROM meta WHERE name = 'readable_from'").fetchone()
        if int(row[0]) > len(MIGRATIONS):
            raise not_usable(
                path,
                f"its schema {version} is of a newer omnidaemon-sqlite, this one knows {len(MIGRATIONS)}:"
                " upgrade with `pip install -U omnidaemon-sqlite`",
            )
    return version
