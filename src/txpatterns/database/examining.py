"""A look at a database server: what of its settings, rights and state would cost messages, or slows everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database.dialects import is_sqlite
from txpatterns.database.engines import qualified
from txpatterns.database.schema import metadata
from txpatterns.findings import Finding, Severity

_LONG = timedelta(minutes=10)
"""A transaction that is open for longer keeps every table of the server from being cleaned."""
_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")

_POSTGRESQL = sa.text(
    "SELECT name, setting FROM pg_settings WHERE name IN "
    "('fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'default_transaction_read_only')"
)
_OPEN = sa.text(
    "SELECT pid, usename, extract(epoch FROM clock_timestamp() - xact_start) AS seconds FROM pg_stat_activity "
    "WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend' "
    "ORDER BY xact_start LIMIT 1"
)
_PREPARED = sa.text("SELECT gid, extract(epoch FROM clock_timestamp() - prepared) AS seconds FROM pg_prepared_xacts")
_SLOTS = sa.text("SELECT slot_name FROM pg_replication_slots WHERE NOT active")
_MAY = sa.text(
    "SELECT CASE WHEN to_regclass(CAST(:name AS text)) IS NULL THEN true "
    "ELSE has_table_privilege(CAST(:name AS text), CAST(:right AS text)) END"
)

_SETTINGS = {
    ("fsync", "off"): Finding(
        Severity.ERROR,
        "fsync",
        "It is off: a crash of the machine loses what was committed, or the whole database.",
        "Set fsync = on.",
    ),
    ("full_page_writes", "off"): Finding(
        Severity.WARNING,
        "full_page_writes",
        "It is off: a crash in the middle of writing a page can destroy it.",
        "Set full_page_writes = on, unless the file system writes whole pages.",
    ),
    ("synchronous_commit", "off"): Finding(
        Severity.ERROR,
        "synchronous_commit",
        "It is off: a crash of the server loses transactions whose commit was confirmed, of which other systems "
        "may have been told.",
        "Set synchronous_commit = on for this user, this database or the server.",
    ),
    ("autovacuum", "off"): Finding(
        Severity.WARNING,
        "autovacuum",
        "It is off: the outbox's table is written and emptied all the time, and only grows.",
        "Set autovacuum = on.",
    ),
    ("default_transaction_read_only", "on"): Finding(
        Severity.ERROR,
        "default_transaction_read_only",
        "Transactions cannot write.",
        "Connect as another user, or set default_transaction_read_only = off.",
    ),
}


def examine(connection: Connection) -> list[Finding]:
    """Look at the server, our rights and what stands in the way. Changes nothing."""
    return _sqlite(connection) if is_sqlite(connection) else _postgresql(connection)


def _postgresql(connection: Connection) -> list[Finding]:
    given = connection.execute(_POSTGRESQL).all()
    found = [_SETTINGS[name, value] for name, value in given if (name, value) in _SETTINGS]
    if connection.execute(sa.text("SELECT pg_is_in_recovery()")).scalar_one():
        words, fix = "This server is a standby and takes no writes.", "Connect to the primary."
        found.append(Finding(Severity.ERROR, "database", words, fix))
    return [*found, *_rights(connection), *_in_the_way(connection)]


def _rights(connection: Connection) -> list[Finding]:
    found = []
    for table in metadata.sorted_tables:
        name = qualified(table, connection)
        missing = [
            right for right in _RIGHTS if not connection.execute(_MAY, {"name": name, "right": right}).scalar_one()
        ]
        if missing:
            words = f"This user may not {', '.join(missing)}."
            found.append(Finding(Severity.ERROR, f"table {name}", words, f"GRANT {', '.join(missing)} ON {name}."))
    return found


def _in_the_way(connection: Connection) -> list[Finding]:
    """Find what keeps the server from cleaning up after the outbox: its table grows, and each page costs more."""
    found = []
    for pid, user, seconds in connection.execute(_OPEN):
        if seconds > _LONG.total_seconds():
            words = (
                f"The transaction of process {pid} (user {user}) is open since {_minutes(seconds)}: nothing that was "
            )
            words += "deleted since then is cleaned up."
            found.append(Finding(Severity.WARNING, "database", words, "Find out what it waits for, and end it."))
    for gid, seconds in connection.execute(_PREPARED):
        if seconds > _LONG.total_seconds():
            words = (
                f"The prepared transaction {gid!r} waits since {_minutes(seconds)}: nothing is cleaned up meanwhile."
            )
            fix = "Commit it or roll it back: COMMIT PREPARED, ROLLBACK PREPARED."
            found.append(Finding(Severity.WARNING, "database", words, fix))
    for (slot,) in connection.execute(_SLOTS):
        words = "Nobody reads this replication slot: the server keeps what it would need, until the disk is full."
        fix = f"Start its reader, or drop it: SELECT pg_drop_replication_slot('{slot}')."
        found.append(Finding(Severity.WARNING, f"slot {slot}", words, fix))
    return found


def _minutes(seconds: Any) -> str:
    return f"{int(seconds) // 60} minutes"


def _sqlite(connection: Connection) -> list[Finding]:
    found = []
    state = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if state != "ok":
        words, fix = f"The file is damaged: {state}", "Restore it from a backup, or save what can be read: .recover"
        found.append(Finding(Severity.ERROR, "database", words, fix))
    mode = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()).lower()
    if mode == "memory":
        words = "It is in memory: everything is gone with this process."
        found.append(Finding(Severity.WARNING, "database", words, "Name a file: sqlite+aiosqlite:///orders.db"))
    elif mode != "wal":
        words = f"Its journal mode is {mode}: readers and the one writer wait for each other."
        found.append(Finding(Severity.WARNING, "database", words, "Run once: PRAGMA journal_mode = WAL"))
    if not connection.exec_driver_sql("PRAGMA synchronous").scalar_one():
        words = "synchronous is OFF: a crash of the machine loses what was committed, or the whole file."
        found.append(Finding(Severity.ERROR, "database", words, "Set PRAGMA synchronous = FULL for each connection."))
    return found
