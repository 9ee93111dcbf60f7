"""How an App's consumer brings events to the sagas that wait for them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.engine import Engine

from txpatterns.database import Database
from txpatterns.inbox.handlers import Handlers
from txpatterns.inbox.transaction import SyncTransaction, Transaction
from txpatterns.messages import Event, describe
from txpatterns.sagas.sagas import Sagas
from txpatterns.sagas.signals import Signal


def hear(signals: Iterable[Signal], sagas: Sagas, handlers: Handlers, database: Database) -> None:
    """Handle each event that a saga may wait for: it is kept, and who waits for it is woken."""

    async def bring(event: Event, tx: Transaction) -> None:
        sagas.bring(tx.session, event, tx.message.id)

    def bring_plainly(event: Event, tx: SyncTransaction) -> None:
        sagas.bring(tx.session, event, tx.message.id)

    known = {handler.consumer for handler in handlers}
    for event in dict.fromkeys(signal.event for signal in signals):
        name = f"sagas.{describe(event).type}"
        if f"{handlers.group}.{name}" not in known:
            is_plain = isinstance(database.engine, Engine)
            handlers.add(event, bring_plainly if is_plain else bring, name=name)
