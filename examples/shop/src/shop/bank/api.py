"""What the bank answers when it is called. The rest it tells by webhook."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.bank.domain import Method, accepts, plan
from shop.bank.models import ChargeRow
from shop.events import WebhookDue
from shop.money import Money
from shop.ports import Charge
from shop.problems import Problem
from txpatterns import App, new_id


@dataclass(frozen=True, slots=True)
class Temper:
    """How the bank behaves: the seed of its luck, and how long it thinks."""

    seed: int
    think: timedelta


class BankApi:
    """The pretended bank, over its own database.

    Args:
        app: Its App; webhooks to come are durable timers in its outbox.
        temper: Its luck and its slowness.
    """

    def __init__(self, app: App, temper: Temper) -> None:
        self.app = app
        self.temper = temper

    async def charge(self, key: str, amount: Money, method: str, window_seconds: float) -> Charge:
        """Charge an amount; the answer comes by webhook. The same key again gives the charge of the first time.

        Raises:
            Problem: ``invalid`` for a method that it does not know.
        """
        if method not in set(Method):
            raise Problem("invalid", f"There is no way to pay called {method!r}.")
        return await _twice_at_most(
            lambda: self._charge(key, amount, Method(method), timedelta(seconds=window_seconds))
        )

    async def _charge(self, key: str, amount: Money, method: Method, window: timedelta) -> Charge:
        async with self.app.transaction() as session:
            found = await session.scalar(select(ChargeRow).where(ChargeRow.key == key))
            if found is not None:
                return _view(found)
            row = ChargeRow(id=new_id(), key=key, amount_minor=amount.minor, currency=amount.currency, failed=False)
            session.add(row)
            await session.flush()
            accepted = accepts(self.temper.seed, row.number)
            course = plan(method, accepted, window, self.temper.think)
            row.failed = course.failed
            if course.captured_after is not None:
                row.captured_at = datetime.now(UTC) + course.captured_after
            for answer in course.answers:
                self._tell_later(session, row, f"{answer.event}", answer.kind, answer.after)
            return _view(row)

    async def find(self, key: str) -> Charge | None:
        """Say how the charge of a key stands; none: nobody has asked for it under this key."""
        async with self.app.session() as session:
            row = await session.scalar(select(ChargeRow).where(ChargeRow.key == key))
            return None if row is None else _view(row)

    async def stop(self, key: str, amount: Money) -> Charge:
        """Begin nothing under this key from now on; says how the charge stands.

        ``captured``: it is too late. ``pending``: money is being moved, which nobody can stop; ask again. ``failed``:
        nothing is charged, also if it was never asked for: whoever asks later, because the network was slow or a
        process stood still, finds it failed.
        """
        return await _twice_at_most(lambda: self._stop(key, amount))

    async def _stop(self, key: str, amount: Money) -> Charge:
        async with self.app.transaction() as session:
            row = await session.scalar(select(ChargeRow).where(ChargeRow.key == key).with_for_update())
            if row is None:
                row = ChargeRow(id=new_id(), key=key, amount_minor=amount.minor, currency=amount.currency, failed=True)
                session.add(row)
            elif row.captured_at is None:
                row.failed = True
            return _view(row)

    async def refund(self, key: str, charge_id: str) -> Charge:
        """Give a charge back; the news comes by webhook. The same key again changes nothing.

        Raises:
            Problem: ``not-found``, or ``conflict`` when nothing was captured.
        """
        async with self.app.transaction() as session:
            row = await session.scalar(select(ChargeRow).where(ChargeRow.id == charge_id).with_for_update())
            if row is None:
                raise Problem("not-found", "There is no such charge.")
            if row.refund_key == key:
                return _view(row)
            if row.status(datetime.now(UTC)) != "captured":
                raise Problem("conflict", "Nothing was captured that could be given back.")
            row.refund_key = key
            self._tell_later(session, row, "refund", "charge.refunded", self.temper.think)
            return _view(row)

    def _tell_later(self, session: AsyncSession, row: ChargeRow, event: str, kind: str, after: timedelta) -> None:
        webhook_id = f"evt_{row.id}_{event}"
        body = {
            "id": webhook_id,
            "type": kind,
            "charge_id": row.id,
            "reference": row.key,
            "amount": Money.of_minor(row.amount_minor, row.currency).model_dump(mode="json"),
        }
        due = WebhookDue(charge_id=row.id, webhook_id=webhook_id, body=json.dumps(body))
        self.app.outbox.add(session, due, deliver_after=after)


async def _twice_at_most(work: Callable[[], Awaitable[Charge]]) -> Charge:
    """Do something with a key; once more, when the same key came twice at once, and the other was first."""
    try:
        return await work()
    except IntegrityError:
        return await work()


def _view(row: ChargeRow) -> Charge:
    amount = Money.of_minor(row.amount_minor, row.currency)
    return Charge(id=row.id, status=row.status(datetime.now(UTC)), amount=amount)
