"""How much waits: read from the database by the App itself, for whoever listens."""

import asyncio
from dataclasses import fields
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from txpatterns import App, Database, Event, Hooks, Transaction
from txpatterns.admin.depths import read_depths
from txpatterns.admin.queues import QUEUES
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.cli.status import SEE
from txpatterns.database.schema import metadata
from txpatterns.database.setup import create_missing
from txpatterns.errors import BrokerUnavailable
from txpatterns.hooks import on
from txpatterns.inbox.schema import State, inbox_waiting_table
from txpatterns.messages import EPOCH
from txpatterns.outbox.schema import Waiting, waiting_table
from txpatterns.runtime.moments import Depths, DepthsSeen, QueuesSeen
from txpatterns.telemetry.failures import FailureLog
from txpatterns.telemetry.metrics import GAUGES, MetricsHooks
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.remains import what_is_left
from txpatterns.transport import Depth


class Stored(Event, topic="stored", type="stored", key="number"):
    number: int


class Told(Hooks):
    """Keeps what it was told; ``came`` is set each time."""

    def __init__(self):
        self.all = []
        self.came = asyncio.Event()

    @on(DepthsSeen)
    def depths(self, moment):
        self.all.append(moment.depths)
        self.came.set()


async def test_everything_that_waits_is_counted(any_database):
    """P7, H257: pending with the age of the oldest, scheduled, failed and waiting, dead; and nothing."""
    app = App("depths", any_database, "memory://")
    await app.database.transact(create_missing)

    async def depths():
        return await app.database.read(lambda connection: read_depths(connection, app.database.now()))

    nothing = await depths()
    assert (nothing.depth, nothing.oldest_age, nothing.scheduled, nothing.waiting, nothing.dead) == (
        *(0, timedelta(0)),
        *(0, 0, 0),
    )

    @app.on(Stored)
    async def refuse(event: Stored, tx: Transaction) -> None:
        if event.number == 1:
            raise ValueError("permanent")
        raise KeyError("again")

    app.on(Stored, name="strict", permanent=[ValueError])(refuse)
    async with app.session() as session, session.begin():
        app.outbox.add(session, Stored(number=1))
        app.outbox.add(session, Stored(number=2))
        app.outbox.add(session, Stored(number=3), deliver_after=timedelta(hours=1))
    before = await depths()
    assert (before.depth, before.scheduled) == (2, 1)
    assert timedelta(0) <= before.oldest_age < timedelta(minutes=10)
    async with app.running():
        await app.drained()
        after = await depths()
    assert (after.depth, after.scheduled) == (0, 1)
    assert timedelta(0) < after.oldest_age < timedelta(minutes=10)  # of what waits at the handlers
    assert (after.waiting, after.dead) == (3, 1)  # two handlers, two messages, one failure of which is permanent
    await app.close()


async def test_the_app_tells_its_listeners(tmp_path):
    """P7: told while the App runs, with nothing to wire; the end of the App is told, too."""
    told = Told()
    app = App("depths", f"sqlite+aiosqlite:///{tmp_path}/told.db", "memory://", hooks=[told])
    async with app.running():
        await asyncio.wait_for(told.came.wait(), 120)
        assert told.all[0].depth == 0
    assert told.all[-1] is None


async def test_a_database_that_is_away_is_told_as_unknown(tmp_path, monkeypatch):
    """P7: the last good figures must not hide an outage."""
    told = Told()
    app = App("depths", f"sqlite+aiosqlite:///{tmp_path}/away.db", "memory://", hooks=[told])

    async def away(*_args, **_options):
        raise sa.exc.OperationalError("SELECT", {}, Exception("away"))

    async with app:
        monkeypatch.setattr(app.database, "read", away)
        async with app._parts.running(app.consumer, None, None, {"consume": False}):
            await asyncio.wait_for(told.came.wait(), 120)
    assert told.all[0] is None


@pytest.mark.parametrize(("hooks", "watched"), [((), False), ((FailureLog(),), False), ((Told(),), True)])
async def test_nobody_is_asked_for_nobody(tmp_path, hooks, watched):
    """Without a listener that wants them, the figures cost nothing."""
    app = App("depths", f"sqlite+aiosqlite:///{tmp_path}/quiet.db", "memory://", hooks=hooks)
    async with app.running():
        assert ("depths" in {part.name for part in app.health().parts}) is watched


async def test_metrics_show_them_without_any_wiring(tmp_path):
    """P7: `App(hooks=[MetricsHooks()])` is all there is to do."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    told, reader = Told(), InMemoryMetricReader()
    hooks = [MetricsHooks(MeterProvider([reader])), told]
    app = App("depths", f"sqlite+aiosqlite:///{tmp_path}/shown.db", "memory://", hooks=hooks)
    async with app, app.session() as session, session.begin():
        app.outbox.add(session, Stored(number=1), deliver_after=timedelta(hours=1))
    async with app.running():
        await asyncio.wait_for(told.came.wait(), 120)
        metrics = [m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics]
    (scheduled,) = (metric for metric in metrics if metric.name == "txpatterns.outbox.scheduled")
    assert [point.value for point in scheduled.data.data_points] == [1]


class Measured(MemoryBroker):
    """Tells how much waits, and the first time that it is away."""

    def __init__(self):
        super().__init__()
        self.asked = []

    async def depths(self, topics, group):
        self.asked.append((list(topics), group))
        if len(self.asked) == 1:
            raise BrokerUnavailable("away")
        return [Depth("stored", group, "stored/0", ready=3)]


async def test_the_broker_is_asked_for_who_listens(tmp_path):
    """H431: where handlers run and somebody wants to know; a broker that is away is told as unknown."""
    told, clock, broker = list[object](), ManualClock(), Measured()
    came = asyncio.Event()

    class Heard(Hooks):
        @on(QueuesSeen)
        def queues(self, moment):
            told.append(moment.depths)
            came.set()

    database = Database(f"sqlite+aiosqlite:///{tmp_path}/asked.db", clock=clock)
    app = App("depths", database, broker, hooks=[Heard()])

    @app.on(Stored)
    async def keep(event: Stored, tx: Transaction) -> None: ...

    async with app.running():
        await asyncio.wait_for(came.wait(), 120)
        assert told == [None]
        came.clear()
        clock.advance(timedelta(seconds=15))
        await asyncio.wait_for(came.wait(), 120)
    assert told == [None, (Depth("stored", "depths", "stored/0", ready=3),), None]
    assert broker.asked == [(["stored"], "depths")] * 2
    async with App("quiet", f"sqlite+aiosqlite:///{tmp_path}/quiet.db", broker).running() as quiet:
        assert "queues" not in {part.name for part in quiet.health().parts}


def test_every_table_in_which_something_waits_is_in_the_one_list():
    """P7, H295: what is due in a table that nobody lists is counted by no figure, and no drain waits for it."""
    listed = {queue.table.name for queue in QUEUES}
    assert {table.name for table in metadata.tables.values() if "due_at" in table.columns} <= listed
    assert all((queue.due is None) != ("due_at" in queue.table.columns) for queue in QUEUES)
    figures = {field.name for field in fields(Depths)}
    assert figures == {*(queue.figure for queue in QUEUES), "oldest_age"} == set(GAUGES)
    assert set(SEE) == {queue.figure for queue in QUEUES}


async def test_what_a_person_decides_about_is_not_left_over(any_database):
    """P7, I15, H295: parked messages, and those behind them, wait for a person; the rest is to be done."""
    database = Database(any_database)
    await database.transact(create_missing)
    carried = {"topic": "t", "type": "t", "payload": b"", "headers": "{}", "content_type": "c", "occurred_at": EPOCH}
    parked = {"out": Waiting.PARKED, "out behind": Waiting.BEHIND}
    at_handlers = {"in": ("one", State.PARKED), "in behind": ("one", State.BEHIND), "in other": ("two", State.BEHIND)}

    def fill(connection):
        for name, state in parked.items():
            connection.execute(sa.insert(waiting_table).values(message_id=name, bucket=0, state=state, **carried))
        for name, (lane, state) in at_handlers.items():
            given = {"consumer": "c", "fingerprint": "f", "attempts": 1, "message_id": name, "lane": lane}
            connection.execute(sa.insert(inbox_waiting_table).values(state=state, **given, **carried))

    await database.transact(fill)
    everything = {left.message_id for left in await database.read(what_is_left)}
    assert everything == {*parked, *at_handlers}
    to_be_done = {left.message_id for left in await database.read(partial(what_is_left, but_held=True))}
    assert to_be_done == {"out behind", "in other"}
    await database.close()
