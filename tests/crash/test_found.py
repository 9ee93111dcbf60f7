"""What the explorer found, each as small as it can be."""

import sqlite3

import pytest

from txpatterns.database.engines import make_engine


def test_a_connection_that_is_closed_in_the_middle_of_reading_gives_its_lock_back(tmp_path):
    """H6, I14: cancelled during a SELECT in a write transaction; the next writer waited for half a minute."""
    engine = make_engine(f"sqlite:///{tmp_path / 'one.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1), (2), (3)")
    pooled = engine.raw_connection(), engine.raw_connection()
    first, second = (held.driver_connection for held in pooled)
    first.execute("BEGIN IMMEDIATE")
    unfinished = first.execute("SELECT x FROM t")
    assert unfinished.fetchone() == (1,)
    first.close()
    second.execute("PRAGMA busy_timeout = 0")
    second.execute("BEGIN IMMEDIATE")
    second.rollback()
    with pytest.raises(sqlite3.ProgrammingError):
        unfinished.fetchone()
    engine.dispose()
