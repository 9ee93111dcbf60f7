"""What was added to a unit of work and is not written yet, kept right through savepoints, and the writing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from txpatterns.database.deferred.entries import Entry, Writer
from txpatterns.database.dialects import READ_ONLY, sqlstate
from txpatterns.database.engines import refuse_autocommit
from txpatterns.errors import NotTransactional, SavepointsUnsafe, WrongDatabase

Scope = tuple[object, ...]
"""The savepoints around an entry: a session's as objects, a connection's as ``connection_savepoint`` gives them."""

_UNIT = "txpatterns.deferred"


class Unit:
    """The entries of one session's or connection's transaction, each with the savepoints around it.

    A cancellation is kept in the same way: a savepoint that is rolled back takes it along.
    """

    def __init__(self, session: Session | None = None) -> None:
        self.session = session
        self.entries: list[tuple[Scope, Entry[Any]]] = []
        self.cancelled: list[tuple[Scope, tuple[int, str]]] = []
        self.written: dict[Writer[Any], list[Any]] = {}
        """What is written, and not committed yet."""
        self.is_committing = False
        """Whether the commit has begun: a listener may add entries while it runs."""
        self.has_failed = False
        """Whether writing the entries has failed: some of them may be written, so only a rollback is left."""

    @property
    def live(self) -> list[Entry[Any]]:
        """The entries that would be written now."""
        if not self.cancelled:
            return [entry for _, entry in self.entries]
        gone = {which for _, which in self.cancelled}
        return [entry for _, entry in self.entries if (entry.writer.kind, entry.id) not in gone]

    def at_home(self, connection: Connection) -> bool:
        """Whether a connection is one of an engine that an entry's writer works on."""
        return any(entry.writer.identity.is_home(connection) for _, entry in self.entries)

    def cancel(self, kind: int, id_: str, scope: Scope) -> bool:
        """Do not write an entry after all; says whether it was going to be written."""
        found = any((entry.writer.kind, entry.id) == (kind, id_) for entry in self.live)
        if found:
            self.cancelled.append((scope, (kind, id_)))
        return found

    def release(self, savepoint: object) -> None:
        self.entries[:] = [(_without(scope, savepoint), entry) for scope, entry in self.entries]
        self.cancelled[:] = [(_without(scope, savepoint), gone) for scope, gone in self.cancelled]

    def drop(self, savepoint: object) -> None:
        self.entries[:] = [(scope, entry) for scope, entry in self.entries if savepoint not in scope]
        self.cancelled[:] = [(scope, gone) for scope, gone in self.cancelled if savepoint not in scope]
        self.has_failed = self.has_failed and bool(self.entries)

    def forget(self) -> None:
        """Let go of what is not written."""
        self.entries.clear()
        self.cancelled.clear()

    def clear(self) -> None:
        self.forget()
        self.written.clear()
        self.is_committing = self.has_failed = False

    def settle(self, writer: Writer[Any]) -> None:
        """What this writer was to write is written."""
        left = [(scope, entry) for scope, entry in self.entries if entry.writer is not writer]
        if len(left) < len(self.entries):
            self.hand(writer, [entry.content for entry in self.live if entry.writer is writer])
            self.entries[:] = left
        if not left:
            self.cancelled.clear()

    def hand(self, writer: Writer[Any], contents: Sequence[Any]) -> None:
        """Take what is written already, to tell of its commit."""
        self.written.setdefault(writer, []).extend(contents)

    def committed(self) -> None:
        """Tell the writers of what was written that it is committed."""
        told, self.written = self.written, {}
        for writer, contents in told.items():
            writer.committed(contents)


class Commit:
    """The units that the commit of one connection writes."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self._writing: int | None = None

    def own_unit(self) -> Unit:
        """Give the unit of the connection itself, which outlives the sessions on it; made if need be."""
        for unit in self.units:
            if unit.session is None:
                return unit
        self.units.append(made := Unit())
        return made

    def write(self, connection: Connection, which: Callable[[Unit], bool]) -> None:
        """Write what is left in some of the units, kind by kind, the entries of each writer together.

        What could not be written stays, so that whoever goes on in spite of the error cannot commit without it.

        Raises:
            NotTransactional: writing some of it has failed before.
        """
        while chosen := [unit for unit in self.units if unit.entries and which(unit)]:
            if any(unit.has_failed for unit in chosen):
                raise NotTransactional(
                    "Writing what was added to this transaction has failed before.", fix="Roll the transaction back."
                )
            waiting = [entry for unit in chosen for entry in unit.live]
            if not waiting:  # the rest is cancelled
                for unit in chosen:
                    unit.forget()
                return
            writer = min((entry.writer for entry in waiting), key=_kind_of)
            entries = [entry for entry in waiting if entry.writer is writer]
            if writer.sort_key is not None:
                key = writer.sort_key
                entries.sort(key=lambda entry: key(entry.content))
            self._writing = writer.kind
            try:
                _write(connection, writer, [entry.content for entry in entries])
            except BaseException:
                for unit in chosen:
                    unit.has_failed = True
                raise
            finally:
                self._writing = None
            for unit in chosen:
                unit.settle(writer)

    def accept(self, entry: Entry[Any]) -> None:
        """Refuse an entry whose turn is over. Raises NotTransactional."""
        if self._writing is not None and entry.writer.kind <= self._writing:
            raise NotTransactional(
                "This was added while the commit writes what was added before.",
                fix="Add it before the commit, or in a listener of the session's flush.",
            )


_commits: WeakKeyDictionary[Connection, Commit] = WeakKeyDictionary()
"""What a connection's commit writes; an entry goes with its connection."""


def commit_of(connection: Connection) -> Commit | None:
    """Give what a connection's commit writes; None: nothing was ever added."""
    return _commits.get(connection)


def new_commit_of(connection: Connection) -> Commit:
    """The same, made if need be."""
    commit = _commits.get(connection)
    if commit is None:
        commit = _commits[connection] = Commit()
    return commit


def unit_of(session: Session) -> Unit | None:
    """Give the entries of a session that are not written yet."""
    return session.info.get(_UNIT)


def new_unit_of(session: Session) -> Unit:
    """The same, made if need be."""
    unit: Unit | None = session.info.get(_UNIT)
    if unit is None:
        unit = session.info[_UNIT] = Unit(session)
    return unit


def refuse_unsafe_savepoints(connection: Connection) -> None:
    """Raise SavepointsUnsafe on a SQLite connection whose driver begins transactions by itself."""
    if connection.dialect.name != "sqlite":
        return
    driver: Any = connection.connection.driver_connection
    if driver is not None and driver.isolation_level is not None:
        raise SavepointsUnsafe


def _write(connection: Connection, writer: Writer[Any], contents: list[Any]) -> None:
    if connection.in_nested_transaction():
        refuse_unsafe_savepoints(connection)
    refuse_autocommit(connection)
    try:
        writer.identity.check(connection)
        writer.write(connection, contents)
    except DBAPIError as error:
        if sqlstate(error) != READ_ONLY:
            raise
        raise WrongDatabase(
            "What was added would be written on a connection that only reads, such as a replica's.",
            fix="Let the session's get_bind() send an UPDATE to the primary; what was added follows it there.",
        ) from error


def _kind_of(writer: Writer[Any]) -> int:
    return writer.kind


def _without(scope: Scope, savepoint: object) -> Scope:
    return tuple(one for one in scope if one is not savepoint) if savepoint in scope else scope
