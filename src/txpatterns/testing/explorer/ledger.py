"""The truth about what was committed: triggers note every message that enters the outbox, in its own transaction."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

TABLE = "explorer_ledger"

_COLUMNS = "message_id, position, topic, message_key, payload"
_VALUES = "NEW.message_id, NEW.position, NEW.topic, NEW.key, NEW.payload"
_FIRST = f"INSERT INTO {TABLE} ({_COLUMNS}, scheduled) VALUES ({_VALUES}, {{scheduled}}) ON CONFLICT DO NOTHING"
_NUMBER = (
    f"UPDATE {TABLE} SET position = NEW.position "
    "WHERE message_id = NEW.message_id AND position IS NULL AND scheduled = 1"
)
_CANCEL = f"UPDATE {TABLE} SET cancelled = 1 WHERE message_id = OLD.message_id AND position IS NULL"
_TRIGGERS = {
    "explorer_outbox": ("AFTER INSERT ON txp_outbox", "", (_FIRST.format(scheduled=0), _NUMBER)),
    "explorer_waiting": (
        "AFTER INSERT ON txp_outbox_waiting",
        "NEW.state = 'scheduled'",
        (_FIRST.format(scheduled=1),),
    ),
    "explorer_cancelled": ("AFTER DELETE ON txp_outbox_waiting", "OLD.state = 'scheduled'", (_CANCEL,)),
}


def install(connection: Connection) -> None:
    """Make the table and its triggers; what is in the outbox already is noted as well. Harmless when repeated."""
    present = set(sa.inspect(connection).get_table_names())
    if TABLE in present or "txp_outbox" not in present:
        return
    sqlite = connection.dialect.name == "sqlite"
    body = "BLOB" if sqlite else "BYTEA"
    connection.exec_driver_sql(
        f"CREATE TABLE {TABLE} (message_id VARCHAR(64) PRIMARY KEY, position BIGINT, topic TEXT, message_key TEXT, "
        f"payload {body}, scheduled INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0)"
    )
    for name, (moment, condition, statements) in _TRIGGERS.items():
        work = " ".join(f"{statement};" for statement in statements)
        when = f"WHEN ({condition}) " if condition else ""
        if sqlite:
            connection.exec_driver_sql(f"CREATE TRIGGER {name} {moment} {when}BEGIN {work} END")
        else:
            connection.exec_driver_sql(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {work} RETURN NULL; END $$"
            )
            connection.exec_driver_sql(f"CREATE TRIGGER {name} {moment} FOR EACH ROW {when}EXECUTE FUNCTION {name}()")
