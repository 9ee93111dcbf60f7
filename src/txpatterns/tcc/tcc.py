"""Participants and transactions of one application."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Literal, overload

from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.database.database import Database
from txpatterns.errors import TccDefinitionError
from txpatterns.execution import Execution
from txpatterns.hooks import HookList, Hooks
from txpatterns.messages import new_id
from txpatterns.outbox.emitting import Emitter
from txpatterns.retries import LONGEST_WAIT
from txpatterns.tcc.barrier import Barrier
from txpatterns.tcc.claims import Beginning
from txpatterns.tcc.decisions import Told, told_of
from txpatterns.tcc.overdue import Overdue
from txpatterns.tcc.participants import Intent, Local, Mode, Participants
from txpatterns.tcc.parts import Tools
from txpatterns.tcc.schema import Status
from txpatterns.tcc.serving import Serving
from txpatterns.tcc.settings import TccSettings
from txpatterns.tcc.store import TccStore
from txpatterns.tcc.transaction import TccTransaction

_ID = re.compile(r"[!-~]{1,200}")


class Tcc:
    """Runs transactions that participants reserve for, and that are confirmed or cancelled as a whole.

    ``app`` is the application's name: every process of it has the same. ``outbox`` is where participants send to.
    ``wake`` is called when something is left to a coordinator.
    """

    def __init__(
        self,
        app: str,
        database: Database,
        outbox: Emitter | None = None,
        *,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
        settings: TccSettings | None = None,
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        self.app = app
        self.participants = Participants()
        self._settings = settings or TccSettings()
        self._wake = wake
        self.tools = Tools(
            database,
            TccStore(database),
            Execution(database),
            self.participants,
            outbox,
            HookList.of(hooks),
            self._settings,
        )
        barrier = Barrier(database, self._settings.keep_ended)
        self.serving = Serving(self.tools, barrier)
        """Does what coordinators elsewhere ask the local participants for."""
        self.overdue = Overdue(database, barrier, self.serving)
        """Asks coordinators elsewhere for what they have left reserved here."""

    @overload
    def participant(self, name: str, *, mode: Literal["local"] = "local") -> Local: ...
    @overload
    def participant(self, name: str, *, mode: Literal["intent"]) -> Intent: ...
    def participant(self, name: str, *, mode: Literal["local", "intent"] = "local") -> Local | Intent:
        """Register, as a decorator, what tries, and then with ``@it.confirm`` and ``@it.cancel`` the other two.

        ``local`` takes a ``BranchTransaction``, or as a ``def`` a ``SyncBranchTransaction``, and writes in this
        database: each of the three has its effect once. ``intent`` takes a ``BranchCall`` and asks somebody outside,
        with ``call.key``: each may be made more than once, and it may have to cancel what never came. A ``def`` does
        that in a thread; one that is longer than ``call_timeout`` is not waited for, and goes on.

        All three take the same arguments, and stay what they are for as long as transactions are open. What confirms
        or cancels must succeed at last: it is repeated, and a person is told.

        Raises:
            TccDefinitionError: the name is taken, or the functions do not fit each other.
        """
        return (Local if Mode(mode) == Mode.LOCAL else Intent)(name, self.participants.add)

    def transaction(self, id: str, *, timeout: timedelta | None = None) -> TccTransaction:
        """Give a transaction, for ``async with``. It begins with its first try.

        ``id`` is yours, and tells it from all others of this application. It is cancelled when it is not decided within
        ``timeout``, which is ``settings.timeout`` if left out: then its process has died, or is too slow.

        Raises:
            TccDefinitionError: the id is none, or the timeout.
        """
        if not _ID.fullmatch(id):
            raise TccDefinitionError(
                f"{id[:40]!r} is no id for a transaction.", fix="Use 1 to 200 printable ASCII characters."
            )
        time = self._settings.timeout if timeout is None else timeout
        if not timedelta(0) < time <= LONGEST_WAIT:
            raise TccDefinitionError("A timeout is more than no time, and no more than a hundred years.")
        headers = {CORRELATION_ID: id, **current_lineage(), **self.tools.hooks.headers()}
        return TccTransaction(self.tools, Beginning(self.app, id, new_id(), time, headers), self._wake)

    async def told(self, xid: str, branch: str) -> Told:
        """Say to a participant elsewhere what becomes of a branch that it has reserved for."""
        store = self.tools.store
        return await self.tools.database.read(lambda connection: told_of(connection, store, self.app, xid, branch))

    async def status(self, id: str) -> Status | None:
        """Say where a transaction stands; None: there is none with this id."""
        found = await self.tools.database.read(lambda connection: self.tools.store.find(connection, self.app, id))
        return None if found is None else found.status
