"""The relay while its database comes and goes, and when it is ended in the middle of something."""

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa

from outbox.broker import ScriptedBroker
from outbox.support import ids, open_database, rows
from outbox.test_relay import QUICK, drained, fill, running, until
from txpatterns.coordination import Leases
from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.messages import BUCKETS
from txpatterns.outbox import Outbox, Relay, RelaySettings
from txpatterns.outbox.relay import serving
from txpatterns.outbox.relay.due import DueStore

LONG = RelaySettings(lease=timedelta(hours=1))
MEMBERS = sa.select(member_table)
OWNED = sa.select(lease_table.c.slot).where(lease_table.c.owner.is_not(None))


@pytest.fixture
async def store(any_database):
    async with open_database(any_database) as store:
        yield store


async def refused(*_, **__):
    raise OSError("connection refused")


async def test_who_lived_through_an_outage_goes_on_at_once(store, monkeypatch):
    """P7, H35: what a relay could not give back while the database was away is its own when it is there again."""
    broker = ScriptedBroker()
    relay = Relay(store, broker, settings=LONG)
    async with running(relay):
        await drained(relay)
        for way in ("transact", "read", "execute"):
            monkeypatch.setattr(store, way, refused)
        relay.wake()
        await until(lambda: relay._state.outages._failures > 2)  # so that it could not even say goodbye
        monkeypatch.undo()
        added = await fill(store, Outbox(store), ["k"], 3)
        await drained(relay)
        assert broker.first_of_key == added
        assert len(await rows(store, OWNED)) == BUCKETS
    assert await rows(store, MEMBERS) == []


@pytest.mark.parametrize("written", [False, True])
async def test_a_join_that_failed_leaves_no_second_member(store, monkeypatch, written):
    """P7, H18: whether it was written nobody knows; the next join ends what may be there, and what was there before."""
    leases, transact = Leases(store, "scope", slots=4, ttl=timedelta(hours=1)), store.transact

    async def unanswered(work, **given):
        if written:
            await transact(work, **given)
        raise OSError("the connection broke")

    await leases.join()
    monkeypatch.setattr(store, "transact", unanswered)
    with pytest.raises(OSError, match="broke"):
        await leases.join()
    monkeypatch.undo()
    census = await leases.join()
    assert (census.live, census.stale, len(await rows(store, MEMBERS))) == (1, 0, 1)
    await leases.leave()
    assert await rows(store, MEMBERS) == []


async def test_one_part_that_fails_every_time_is_slowed_down(store, monkeypatch):
    """H35: that other parts of it work meanwhile does not count as the end of the trouble."""
    relay = Relay(
        store, ScriptedBroker(), settings=RelaySettings(lease=timedelta(hours=1), poll=timedelta(milliseconds=10))
    )
    monkeypatch.setattr(DueStore, "due", refused)
    async with running(relay):
        await until(lambda: relay._state.outages._failures > 3)


async def test_a_bucket_is_not_given_away_while_a_retry_of_it_is_claimed(store, monkeypatch):
    """P3, H18: it would go out under a lease that is another's."""
    relay, claiming, go = Relay(store, ScriptedBroker(), settings=QUICK), asyncio.Event(), asyncio.Event()

    async def slow(*_):
        claiming.set()
        await go.wait()
        return []

    async def due(*_):
        return {7}, 0.0

    monkeypatch.setattr(DueStore, "due", due)
    monkeypatch.setattr(DueStore, "claim_due", slow)
    async with running(relay):
        await asyncio.wait_for(claiming.wait(), 120)
        assert relay._serving.membership.under_way({7})
        assert not relay._serving.membership.under_way({8})
        go.set()


async def test_cancelled_twice_it_leaves_nothing_behind(store, monkeypatch):
    """P7, H37, I14: neither a publication that goes on, nor a membership that keeps others out for a lease."""
    monkeypatch.setattr(serving, "_GRACE", 0.2)
    broker = ScriptedBroker()
    broker.before = lambda _: asyncio.Event().wait()  # never answers
    await fill(store, Outbox(store), ["k"], 1)
    others, relay = asyncio.all_tasks(), Relay(store, broker, settings=LONG)
    running_now = asyncio.ensure_future(relay.run())
    await until(lambda: broker.under_way)
    for _ in range(5):
        running_now.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running_now
    assert asyncio.all_tasks() == others
    assert (await rows(store, MEMBERS), await rows(store, OWNED)) == ([], [])
    assert len(await ids(store)) == 1


class CannotConnectNowError(Exception):
    """What a driver raises while it connects; SQLAlchemy 2.0 passes it on as it is."""

    sqlstate = "53300"


async def test_a_drivers_own_error_is_an_outage(store, monkeypatch):
    """P7, H35: the relay waits, and whoever waits for it goes on waiting, in whosever words the database is away."""
    added = await fill(store, Outbox(store), ["k"], 3)
    broker = ScriptedBroker()
    relay = Relay(store, broker, settings=LONG)

    async def full(*_, **__):
        raise CannotConnectNowError("too many connections for role")

    async with running(relay):
        await drained(relay)
        for way in ("transact", "read", "execute"):
            monkeypatch.setattr(store, way, full)
        relay.wake()
        await until(lambda: relay._state.outages._failures > 2)
        monkeypatch.undo()
        more = await fill(store, Outbox(store), ["k"], 3)
        await drained(relay)
        assert broker.first_of_key == {"k": added["k"] + more["k"]}


async def test_an_error_in_what_is_asked_is_no_outage(store, monkeypatch):
    """H35, H147: waiting would mend nothing, so it is raised."""
    relay = Relay(store, ScriptedBroker(), settings=LONG)

    async def wrong(*_, **__):
        raise LookupError("ours")

    monkeypatch.setattr(store, "transact", wrong)
    with pytest.raises(LookupError):
        await relay.run()
