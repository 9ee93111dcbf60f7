"""A child that handles messages from Kafka and stops itself in the middle of one, as SIGSTOP stops a process anywhere.

python -m inbox.pausing DATABASE BOOTSTRAP TOPIC PLACE [batches]
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from rig.stopping import stop
from txpatterns import App, BatchTransaction, Event, Transaction
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.database import engines
from txpatterns.inbox.attempts import Attempts
from txpatterns.inbox.claims import Claims
from txpatterns.inbox.lane_store import LaneStore
from txpatterns.inbox.processing import Processing
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.retries import FailurePolicies, FailurePolicy, RetryLadder
from txpatterns.runtime.signals import stop_on_signals
from txpatterns.settings import AppSettings

TABLE = "CREATE TABLE effect (place bigserial PRIMARY KEY, key text, number int, who text)"
EFFECT = sa.text("INSERT INTO effect (key, number, who) VALUES (:key, :number, :who)")
SESSION = timedelta(seconds=6)
"""The shortest that Kafka allows: so long a stopped consumer keeps its partitions."""
_QUICK = FailurePolicies(FailurePolicy(ladder=RetryLadder((timedelta(milliseconds=50),) * 100)))

_fails: list[str] = []


class Told(Event):
    key: str
    number: int


class PausingApp(App):
    """The App of both processes, whose handler calls ``before`` and ``after``: they may hold it up."""

    told: type[Told]
    before: Callable[[Told], Awaitable[None]]
    after: Callable[[Told], Awaitable[None]]


def application(url: str, bootstrap: str, topic: str, who: str, batches: str = "") -> PausingApp:
    """An App whose handler leaves a row for each message."""
    broker = KafkaBroker.from_url(
        f"kafka://{bootstrap}", consumer={"session.timeout.ms": int(SESSION.total_seconds() * 1000)}
    )
    settings = AppSettings(consumer=ConsumerSettings(takeover=timedelta(milliseconds=100)))
    app = PausingApp("shop", url, broker, policies=_QUICK, settings=settings)

    class ToldHere(Told, topic=topic, type="told", key="key"):
        pass

    async def nothing(event: Told) -> None:
        """Nothing, but for a test."""

    async def do(event: Told, session: AsyncSession, *, alone: bool) -> None:
        await app.before(event)
        if is_the_one(event) and _fails:
            if alone:
                _fails.clear()
            raise ValueError("the first attempt fails")
        await session.execute(EFFECT, {"key": event.key, "number": event.number, "who": who})
        await app.after(event)

    if batches:

        @app.on(ToldHere, name="note", batch=100)
        async def note_all(events: list[ToldHere], tx: BatchTransaction) -> None:
            for event in events:
                await do(event, tx.session, alone=len(events) == 1)

    else:

        @app.on(ToldHere, name="note")
        async def note(event: ToldHere, tx: Transaction) -> None:
            await do(event, tx.session, alone=True)

    app.told, app.before, app.after = ToldHere, nothing, nothing
    return app


def is_the_one(event: Told) -> bool:
    return (event.key, event.number) == ("a", 2)


def around(
    owner: object,
    name: str,
    *,
    before: Callable[..., bool] = lambda *_: False,
    after: Callable[[Any], bool] = lambda _: False,
) -> None:
    real = getattr(owner, name)

    def replaced(*given: Any, **named: Any) -> Any:
        stop(before(*given, *named.values()))
        found = real(*given, **named)
        stop(after(found))
        return found

    setattr(owner, name, replaced)


def concerns(*given: Any) -> bool:
    """Whether a call is about the one."""
    flat = [each for one in given for each in (one if isinstance(one, list) else [one])]
    messages = [each.message for each in flat if hasattr(each, "message")]
    return any(message.key == "a" and b'"number":2' in message.payload.replace(b" ", b"") for message in messages)


def in_the_handler(app: PausingApp) -> None:
    async def after(event: Told) -> None:
        stop(is_the_one(event))

    app.after = after


def before_the_commit(app: PausingApp) -> None:
    reached = noted(app)
    around(Session, "commit", before=lambda *_: bool(reached))


def after_the_commit(app: PausingApp) -> None:
    reached = noted(app)
    around(Session, "commit", after=lambda _: bool(reached))


def noted(app: PausingApp) -> list[str]:
    """A list that has something once the handler has dealt with the one."""
    reached: list[str] = []

    async def after(event: Told) -> None:
        reached.extend(["it"] if is_the_one(event) else [])

    app.after = after
    return reached


def before_a_failure_is_stored(_app: PausingApp) -> None:
    _fails.append("once")
    around(LaneStore, "admit", before=concerns)


def in_a_transaction_of_the_librarys_own(_app: PausingApp) -> None:
    _fails.append("once")
    engines.IDLE = timedelta(seconds=1)
    around(Attempts, "claim", after=lambda found: bool(found[0]))


def with_an_attempt_claimed(_app: PausingApp) -> None:
    _fails.append("once")
    around(Processing, "run", before=lambda _self, *given: bool(given[-1] > 1))


def before_the_claim(_app: PausingApp) -> None:
    around(Claims, "take", before=concerns)
    around(Claims, "take_all", before=concerns)


PLACES: dict[str, Callable[[PausingApp], None]] = {
    "before the claim": before_the_claim,
    "in the handler": in_the_handler,
    "before the commit": before_the_commit,
    "after the commit": after_the_commit,
    "before a failure is stored": before_a_failure_is_stored,
    "in a transaction of the library's own": in_a_transaction_of_the_librarys_own,
    "with an attempt claimed": with_an_attempt_claimed,
}


async def main(url: str, bootstrap: str, topic: str, place: str, batches: str = "") -> None:
    app = application(url, bootstrap, topic, "first", batches)
    PLACES[place](app)
    with stop_on_signals() as stopping:
        async with app.running(relay=False):
            await stopping.wait()
    await app.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
