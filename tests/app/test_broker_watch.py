"""The look at the broker that an App takes by itself: on every broker, and whatever the broker does."""

import asyncio
import logging
from dataclasses import replace
from functools import partial

import pytest

from rig.ports import free_port
from rig.waiting import until
from txpatterns import App, Event
from txpatterns.admin.broker_watch import LOOK_AGAIN, LOOK_AGAIN_IF_WRONG, BrokerWatch
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.setup import create_missing
from txpatterns.errors import AddRefused, UnsafeSettings
from txpatterns.findings import Finding, Severity
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.messages import new_id
from txpatterns.testing.clock import ManualClock

MISSING = Finding(Severity.ERROR, "topic orders", "It does not exist.", "Make it.")
WEAK = Finding(Severity.WARNING, "topic orders", "It has one copy.", "Give it three.")


class Looked(MemoryBroker):
    """A broker at which a test says what is found."""

    def __init__(self, *found):
        super().__init__()
        self.found, self.asked = found, []

    async def check(self, topics, group=None):
        self.asked.append((list(topics), group))
        if isinstance(self.found, Exception):
            raise self.found
        return list(self.found)


@pytest.fixture
def told(caplog):
    """What was said of brokers, as level and text."""
    caplog.set_level(logging.INFO, "txpatterns.broker")
    return lambda: [(each.levelname, each.message) for each in caplog.records if each.name == "txpatterns.broker"]


async def looks(broker, clock, number):
    """Wait until it has looked so often and waits for the next time."""

    async def done():
        return len(broker.asked) >= number and clock.next_deadline

    await until(done, f"look {number}")


async def test_each_finding_is_said_once_and_errors_are_shown_until_they_are_mended(told):
    """H419: looked at again, sooner where something is wrong; what was told is not told again."""
    broker, clock = Looked(MISSING, WEAK), ManualClock()
    watch = BrokerWatch(broker, lambda: ["orders"], "billing", ConsumerSettings(), clock)
    running = asyncio.create_task(watch.run())
    await looks(broker, clock, 1)
    first = [
        ("ERROR", "broker, error: topic orders: It does not exist. Make it."),
        ("WARNING", "broker, warning: topic orders: It has one copy. Give it three."),
    ]
    assert told() == first
    assert watch.attention() == [str(MISSING)]
    clock.advance(LOOK_AGAIN_IF_WRONG)
    await looks(broker, clock, 2)
    assert told() == first
    broker.found = (WEAK,)
    clock.advance(LOOK_AGAIN_IF_WRONG)
    await looks(broker, clock, 3)
    assert told()[2:] == [("INFO", "broker: what was wrong is mended")]
    assert watch.attention() == []
    broker.found = KeyError("a mistake of the adapter")
    clock.advance(LOOK_AGAIN)
    await looks(broker, clock, 4)
    assert "could not be looked at: KeyError" in told()[3][1]
    assert broker.asked == [(["orders"], "billing")] * 4
    watch.stop()
    await running


async def test_a_look_that_does_not_end_holds_nobody_up(any_database, caplog):
    """H419: messages flow meanwhile, and the App stops at once."""
    broker, handled = Looked(), []

    async def check(topics, group=None):
        await asyncio.Event().wait()

    broker.check = check
    app = App("billing", any_database, broker)
    await app.database.transact(create_missing)

    @app.on(Placed)
    async def bill(event: Placed, tx):
        handled.append(event.order)

    async with app.running():
        async with app.transaction() as session:
            app.outbox.add(session, Placed(order="one"))
        await app.drained()
        assert handled == ["one"]
        assert app.health().alive
    assert "not finished" not in caplog.text


async def test_the_broker_in_this_process_has_nothing_to_be_looked_at(any_database, told):
    """H419: no part, no line."""
    app = App("billing", any_database, "memory://")
    await app.database.transact(create_missing)
    app.on(Placed)(ignore)
    async with app.running():
        assert "broker watch" not in [part.name for part in app.health().parts]
    assert told() == []


async def test_what_is_wrong_on_kafka_is_logged_at_the_start(kafka, database, told):
    """H63, H419: one copy of each partition, and a topic that is not there."""
    there, missing = kafka.create(), f"{kafka.create()}-missing"
    app = await started(database.url("asyncpg"), kafka.url, there, missing)
    async with app.running():
        await until(partial(said, told, 2), "the look")
        assert shown(app) == [f"topic {missing}: It does not exist. Make it, or set create_topics."]
    assert sorted(level for level, _ in told()) == ["ERROR", "WARNING"]
    assert any(f"topic {there}: It has one copy" in text for _, text in told())


async def test_what_is_wrong_on_rabbitmq_is_logged_at_the_start(rabbitmq, database, told):
    """H419: an exchange that is missing, where the adapter makes none."""
    app = await started(database.url("asyncpg"), f"{rabbitmq.url}?declare=false", f"missing-{new_id()}")
    async with app.running():
        await until(partial(shown_of, app), "the look")
    assert any("It is not there." in text for level, text in told() if level == "ERROR")


async def test_what_is_wrong_on_sqs_is_logged_at_the_start(elasticmq, database, told):
    """H415, H419: a queue that is missing is an error where the adapter makes none, and good to know where it does."""
    where = f"sqs://eu-central-1?fan_out=false&poll=1&endpoint={elasticmq.url}&create="
    app = await started(database.url("asyncpg"), f"{where}false", topic := f"missing-{new_id()}")
    async with app.running():
        await until(partial(shown_of, app), "the look")
    assert [level for level, text in told() if topic in text] == ["ERROR"]
    async with App("looking", database.url("asyncpg"), f"{where}true").broker as broker:
        assert [each.severity for each in await broker.check([topic], "billing")] == [Severity.INFO]


async def test_what_is_wrong_in_the_database_as_broker_is_logged_at_the_start(any_database, told):
    """H423, H419: a topic that is still given to a group that has no handler for it any more."""
    app = await started(any_database, "database://", "orders", "returns")
    async with app.running():
        await until(partial(members, app), "a member")
    app = await started(any_database, "database://", "orders")
    async with app.running():
        await until(partial(said, told, 1), "the look")
    assert [level for level, text in told() if "returns and has no handler for it" in text] == ["WARNING"]


@pytest.mark.parametrize(
    "url", ["kafka://127.0.0.1:{}", "amqp://127.0.0.1:{}", "sqs://eu-central-1?endpoint=http://127.0.0.1:{}"]
)
async def test_a_broker_that_is_away_is_said_once_and_holds_up_no_start(url, database, told, monkeypatch):
    """H419: however many topics there are."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setattr("txpatterns.brokers.kafka.examining.ANSWER_WITHIN", 0.5)
    app = await started(database.url("asyncpg"), url.format(free_port()), "orders", "returns")
    async with app.running():
        assert app.health().alive
        await until(partial(shown_of, app), "the look")
        assert len(shown(app)) == 1
    assert [level for level, _ in told()] == ["ERROR"]


class Moved(Event, topic="moves", type="moved", key="shelf", order="strict"):
    shelf: str


async def test_strict_order_is_refused_where_the_broker_keeps_none(any_database, told):
    """P3: at the definition and when it is added, before anything is lost; without it a warning is enough."""
    broker = Looked()
    broker.capabilities = replace(broker.capabilities, ordered=False)
    app = App("billing", any_database, broker)
    await app.database.transact(create_missing)
    with pytest.raises(UnsafeSettings, match="keeps no order"):
        app.on(Moved)(ignore)
    async with app.transaction() as session:
        with pytest.raises(AddRefused, match="keeps no order"):
            app.outbox.add(session, Moved(shelf="7"))
        app.outbox.add(session, Placed(order="one"))
    await app.close()
    app = App("billing", any_database, broker)
    app.on(Placed)(ignore)
    async with app.running():
        await until(partial(said, told, 1), "the look")
    assert [level for level, text in told() if "keeps no order" in text] == ["WARNING"]


class Placed(Event, topic="orders", type="order.placed", key="order"):
    order: str


async def ignore(event, tx):
    pass


async def started(url, broker, *topics):
    """Make an App that reads these topics."""
    app = App("billing", url, broker)
    await app.database.transact(create_missing)
    for number, topic in enumerate(topics):
        event = type(f"Placed{number}", (Event,), {"__annotations__": {}}, topic=topic, type=f"placed.{number}")
        app.on(event, name=f"handler-{number}")(ignore)
    return app


def shown(app):
    return [text for part in app.health().parts if part.name == "broker watch" for text in part.attention]


async def shown_of(app):
    return shown(app)


async def said(told, number):
    return len(told()) >= number


async def members(app):
    return any(each.readers for each in await app.broker.depths(["returns"], "billing"))
