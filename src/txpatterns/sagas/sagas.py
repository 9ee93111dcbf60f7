"""Starting sagas, and asking what became of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeVar, TypeVarTuple, cast

from sqlalchemy.engine import Connection

from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.database import deferred
from txpatterns.database.database import Database
from txpatterns.database.deferred import AnyTransaction, Entry, Kind, Writer
from txpatterns.database.engines import sync_side
from txpatterns.database.identity import Identity
from txpatterns.errors import SagaDefinitionError, SagaFailed
from txpatterns.hooks import HookList
from txpatterns.messages import Event, new_id
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.definitions import Definition, Definitions
from txpatterns.sagas.schema import Status
from txpatterns.sagas.signal_store import Arrival
from txpatterns.sagas.store import SagaStore, Start
from txpatterns.sagas.values import digest_of

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_ID = re.compile(r"[!-~]{1,200}")
_LOOK = timedelta(milliseconds=100)


class Handle(Generic[R]):
    """One saga, for whoever wants to know what becomes of it."""

    def __init__(self, store: SagaStore, definition: Definition, id_: str) -> None:
        self._store = store
        self._definition = definition
        self.id = id_
        self.type = definition.type

    async def status(self) -> str | None:
        """Say where the saga stands; None: there is none, or what starts it is not committed."""
        found = await self._read()
        return None if found is None else str(found["status"])

    async def result(self, *, timeout: timedelta | None = None) -> R:
        """Wait until the saga has ended; gives what its code has returned.

        Raises:
            SagaFailed: it was undone.
            TimeoutError: it had not ended after that time; it goes on.
        """
        clock, never = self._store.database.clock, asyncio.Event()
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            while True:
                found = await self._read()
                match None if found is None else found["status"]:
                    case Status.COMPLETED:
                        return cast("R", self._definition.result.read(found["result"]))
                    case Status.COMPENSATED:
                        raise SagaFailed(self.id, Status.COMPENSATED, found["error"])
                await clock.wait(never, _LOOK)

    async def _read(self) -> Any:
        find = partial(self._store.find, type_=self.type, id_=self.id)
        return await self._store.database.read(find)

    def __repr__(self) -> str:
        return f"Handle({self.type!r}, {self.id!r})"


class Sagas:
    """Starts sagas in a transaction: they run if, and only if, it commits."""

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        *,
        hooks: HookList,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.definitions = definitions
        self._store = SagaStore(database)
        self._hooks = hooks
        identity = Identity(database)
        self._writer = Writer(Kind.SAGAS, identity, self._write, on_commit, _in_order)
        self._signals: Writer[Arrival] = Writer(Kind.SIGNALS, identity, self._arrive, on_commit, tuple)
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
        if not _ID.fullmatch(id):
            raise SagaDefinitionError(
                f"{id[:40]!r} is no id for a saga.", fix="Use 1 to 200 printable ASCII characters."
            )
        text, _ = definition.arguments.write(args)
        headers = {CORRELATION_ID: id, **current_lineage(), **self._hooks.headers()}
        version = definition.options.version
        start = Start(definition.type, id, version, text, digest_of(args, definition.type), headers)
        deferred.add(deferred.plain(transaction), Entry(self._writer, f"{definition.type} {id}", start))
        return Handle(self._store, definition, id)

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
        """Give the handle of a saga that was started before.

        Raises:
            SagaDefinitionError: the function is no saga of this App.
        """
        return Handle(self._store, self.definitions.of(saga), id)

    def _write(self, connection: Connection, starts: Sequence[Start]) -> None:
        for start in starts:
            self._store.start(connection, start)


def _in_order(start: Start) -> tuple[str, str]:
    """Two transactions that start the same sagas lock them in one order."""
    return start.type, start.id
