"""Starting sagas, and asking what became of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar, TypeVarTuple

from sqlalchemy.engine import Connection

from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.database import deferred
from txpatterns.database.database import Database
from txpatterns.database.deferred import AnyTransaction, Entry, Kind, Writer
from txpatterns.database.engines import sync_side
from txpatterns.database.identity import Identity
from txpatterns.errors import SagaDefinitionError
from txpatterns.hooks import HookList
from txpatterns.messages import Event, new_id
from txpatterns.sagas.claims import Claimed, Start
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.definitions import Definitions, check_id
from txpatterns.sagas.handles import Ends, Handle, Origin
from txpatterns.sagas.signal_store import Arrival
from txpatterns.sagas.store import SagaStore
from txpatterns.sagas.values import digest_of

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class Runner(Protocol):
    """Who runs sagas in this process."""

    def owner_of(self, sagas: int) -> str | None:
        """Give who owns so many sagas that start now; None: they are to be claimed. From any thread."""

    def adopt(self, sagas: Sequence[Claimed]) -> None:
        """Run what has been started with this owner. From any thread."""


class Sagas:
    """Starts sagas in a transaction: they run if, and only if, it commits."""

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        *,
        hooks: HookList,
        on_commit: Callable[[], None] = lambda: None,
        runner: Callable[[], Runner | None] = lambda: None,
    ) -> None:
        self.definitions = definitions
        self._on_commit = on_commit
        self._runner = runner
        self._store = SagaStore(database)
        self.ends = Ends()
        self._hooks = hooks
        identity = Identity(database)
        self._writer = Writer(Kind.SAGAS, identity, self._write, self._committed, _in_order)
        self._signals: Writer[Arrival] = Writer(Kind.SIGNALS, identity, self._arrive, self._arrived, tuple)
        deferred.watch(sync_side(database.engine))

    def start(
        self,
        transaction: AnyTransaction,
        saga: Callable[[SagaContext, *Ts], Awaitable[R]],
        *args: *Ts,
        id: str,
    ) -> Handle[R]:
        """Start a saga with this transaction; gives its handle.

        Does no I/O: the row is written at the commit. ``id`` is yours: a second start with the same id and the same
        arguments is the same saga, with others the commit is refused.

        Raises:
            SagaDefinitionError: the function is no saga of this App, or the id is none.
            SagaValueRefused: an argument would not come back from JSON as it is.
            NotTransactional, WrongDatabase, SavepointsUnsafe: here or at the commit; nothing is committed then.
            IdReused: at the commit: there is a saga with this id and other arguments.
        """
        definition = self.definitions.of(saga)
        check_id(id)
        text, _ = definition.arguments.write(args)
        headers = {CORRELATION_ID: id, **current_lineage(), **self._hooks.headers()}
        version = definition.options.version
        digest, deadline = digest_of(args, definition.type), definition.options.deadline
        start = Start(definition.type, id, version, text, digest, headers, deadline=deadline)
        plain = deferred.plain(transaction)
        deferred.add(plain, Entry(self._writer, f"{definition.type} {id}", start))
        return Handle(self._store, self.ends, definition, id, Origin(plain, start))

    def signal(self, transaction: AnyTransaction, event: Event) -> None:
        """Bring an event to the sagas that wait for it, with this transaction.

        It is for what comes by another way than the broker, by a webhook for example. What comes by the broker the App
        hears by itself, for each event of ``signals=``. Does no I/O.

        Raises:
            SagaDefinitionError: no saga of this App declares such an event.
            SagaValueRefused: it would not come back from JSON as it is.
        """
        self.bring(transaction, event, new_id())

    def bring(self, transaction: AnyTransaction, event: Event, message_id: str) -> None:
        """Do what ``signal`` does for an event that a message has carried: the same message again brings nothing."""
        for arrival in self._arrivals(event, message_id):
            entry: Entry[Arrival] = Entry(self._signals, f"{arrival.channel} {message_id}", arrival)
            deferred.add(deferred.plain(transaction), entry)

    def _arrivals(self, event: Event, message_id: str) -> list[Arrival]:
        signals = [signal for signal in self.definitions.signals() if signal.event is type(event)]
        if not signals:
            raise SagaDefinitionError(
                f"No saga waits for {type(event).__name__}.", fix="Write: @app.saga(signals=[...])."
            )
        arrivals = []
        for signal in signals:
            key, (payload, _) = signal.key_of(event), signal.form.write(event)
            if key is not None:
                arrivals.append(Arrival(signal.channel, key, message_id, payload))
        return arrivals

    def _arrive(self, connection: Connection, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            self._store.signals.arrive(connection, arrival)

    def handle(self, saga: Callable[[SagaContext, *Ts], Awaitable[R]], id: str) -> Handle[R]:
        """Give the handle of a saga whose start is committed.

        Raises:
            SagaDefinitionError: the function is no saga of this App.
        """
        return Handle(self._store, self.ends, self.definitions.of(saga), id)

    def _write(self, connection: Connection, starts: Sequence[Start]) -> None:
        runner = self._runner()
        owner = None if runner is None else runner.owner_of(len(starts))
        for start in starts:
            self._store.start(connection, start, owner)

    def _committed(self, starts: Sequence[Start]) -> None:
        """Let what runs here begin at once, and tell of the rest."""
        claimed = [start.claimed for start in starts if start.claimed is not None]
        runner = self._runner()
        if claimed and runner is not None:
            runner.adopt(claimed)
            for start in starts:
                start.has_begun_here = start.claimed is not None
        if len(claimed) < len(starts):
            self._on_commit()

    def _arrived(self, _arrivals: Sequence[Arrival]) -> None:
        self._on_commit()


def _in_order(start: Start) -> tuple[str, str]:
    """Two transactions that start the same sagas lock them in one order."""
    return start.type, start.id
