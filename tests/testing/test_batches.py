"""The fixture `txp` with a handler of batches."""

import pytest

from txpatterns import App, BatchTransaction, Event
from txpatterns.testing.harness import Txp


class Paid(Event, topic="payments", type="payment.made", key="account"):
    account: str
    cents: int


class Booked(Event, topic="bookings", type="payment.booked", key="account"):
    account: str
    cents: int


class Books:
    def __init__(self) -> None:
        self.app = App("books", "sqlite+aiosqlite:///never-made.db")
        self.sizes: list[int] = []
        self.app.on(Paid, batch=100)(self.book)

    async def book(self, events: list[Paid], tx: BatchTransaction) -> None:
        self.sizes.append(len(events))
        if any(event.cents < 0 for event in events):
            raise ValueError("a payment is never negative")
        for event, message in zip(events, tx.messages, strict=True):
            tx.emit(Booked(account=event.account, cents=event.cents), cause=message)


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def txp_app(books: Books) -> App:
    return books.app


async def test_drain_hands_over_what_is_there(books: Books, txp: Txp):
    """P2, P3, H296, H297: in one list, halved for the poison; each event is there by itself for the test, and time
    brings the further attempts."""
    async with books.app.session() as session, session.begin():
        for number in range(5):
            for account in "ab":
                cents = -1 if (account, number) == ("b", 1) else number
                books.app.outbox.add(session, Paid(account=account, cents=cents))
    await txp.drain()
    assert books.sizes[0] == 10
    assert txp.handled(books.book) == [Paid(account="a", cents=n) for n in range(5)] + [Paid(account="b", cents=0)]
    txp.assert_published(Booked, times=6)
    assert "a payment is never negative" in str(txp)
    await txp.advance(hours=2)
    assert [letter.reason for letter in await txp.dead_letters()] == ["exhausted"]
    assert len(txp.handled(books.book)) == 9
    txp.assert_handled(books.book, account="b", cents=4)
