"""Counters, ages and gauges, seen through the SDK's reader in memory."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from txpatterns.deadletters.moments import Dead
from txpatterns.hooks import HookList
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed, Handling
from txpatterns.outbox.moments import Added, Published, PublishFailed
from txpatterns.resilience.moments import (
    BulkheadWasFull,
    CacheHit,
    CacheMissed,
    CallRefused,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    Limited,
    LoadShared,
)
from txpatterns.runtime.moments import BrokerAway, Depths, DepthsSeen, Ownership, QueuesSeen
from txpatterns.sagas.moments import SagaEnded, SagaNeedsAttention, StepRaised, StepRuns
from txpatterns.tcc.moments import BranchRaised, BranchRuns, TccEnded, TccNeedsAttention
from txpatterns.telemetry.metrics import OTHER, MetricsHooks
from txpatterns.transport import Depth


@pytest.fixture
def hooks(metrics):
    return HookList([MetricsHooks(metrics.provider)])


def test_everything_that_happens_is_counted(hooks, metrics, make):
    """P1, P2: published, refused, handled, prevented, failed, dead, each by topic and consumer."""
    orders, stock = make(), make(topic="stock")
    hooks.tell(Added(orders))
    hooks.tell(Published([orders, orders, stock], timedelta(seconds=2)))
    hooks.tell(PublishFailed(stock, ValueError("no"), 1))
    hooks.tell(BrokerAway("relay", None))
    with hooks.within(Handling(orders, "packing", 1)):
        hooks.tell(Handled(orders, "packing"))
    hooks.tell(DuplicatePrevented(orders, "packing"))
    hooks.tell(HandlerFailed(orders, "packing", KeyError("x"), 1))
    hooks.tell(Dead(orders, "packing", "gave up"))
    hooks.tell(Dead(stock, None, "too large"))
    hooks.tell(Ownership("outbox", 128))
    topic, consumer = ("topic", "orders"), ("consumer", "packing")
    assert metrics.values("txpatterns.messages.added") == {(topic,): 1}
    assert metrics.values("txpatterns.messages.published") == {(topic,): 2, (("topic", "stock"),): 1}
    assert metrics.values("txpatterns.publish.failures") == {(("error", "ValueError"), ("topic", "stock")): 1}
    assert metrics.values("txpatterns.broker.unavailable") == {(): 1}
    assert metrics.values("txpatterns.messages.handled") == {(consumer, topic): 1}
    assert metrics.values("txpatterns.duplicates.prevented") == {(consumer, topic): 1}
    assert metrics.values("txpatterns.handler.failures") == {(consumer, ("error", "KeyError"), topic): 1}
    assert metrics.values("txpatterns.dead_letters") == {(consumer, topic): 1, (("topic", "stock"),): 1}
    assert metrics.values("txpatterns.buckets.owned") == {(("scope", "outbox"),): 128}


def test_guards_of_calls_are_counted(hooks, metrics):
    """H176, H328, H343: openings, refusals by their reason, and what came of a cache; a breaker is a lamp."""
    for moment in (
        CircuitOpened("bank", timedelta(seconds=30), TimeoutError()),
        CircuitOpened("post", timedelta(seconds=30)),
        CallRefused("bank"),
        BulkheadWasFull("bank"),
        Limited("login"),
        CircuitHalfOpened("bank"),
        CircuitClosed("bank"),
        CacheHit("product"),
        CacheMissed("product"),
        LoadShared("product"),
        LoadShared("product"),
    ):
        hooks.tell(moment)
    bank, post = (("breaker", "bank"),), (("breaker", "post"),)
    assert metrics.values("txpatterns.breaker.opened") == {bank: 1, post: 1}
    assert metrics.values("txpatterns.breaker.open") == {bank: 0, post: 1}
    assert metrics.values("txpatterns.calls.refused") == {
        (("guard", "bank"), ("reason", "open")): 1,
        (("guard", "bank"), ("reason", "full")): 1,
        (("guard", "login"), ("reason", "limited")): 1,
    }
    cache = ("cache", "product")
    results = {(cache, ("result", "hit")): 1, (cache, ("result", "miss")): 1, (cache, ("result", "shared")): 2}
    assert metrics.values("txpatterns.cache.requests") == results


def test_the_age_at_publication_is_in_seconds(hooks, metrics, make):
    """P7: how long a committed message waited, in buckets that fit seconds."""
    hooks.tell(Published([make()], timedelta(seconds=2)))
    (point,) = metrics.points()["txpatterns.publish.age"]
    assert (point.count, point.sum) == (1, 2.0)
    assert point.bucket_counts[point.explicit_bounds.index(2.5)] == 1


class SteppingClock:
    """Three seconds go by from one look to the next."""

    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        self.seconds += 3
        return self.seconds


def test_an_attempt_that_fails_is_timed_as_well(metrics, make):
    """The slow attempts are often the failing ones."""
    hooks = HookList([MetricsHooks(metrics.provider, clock=SteppingClock())])
    with pytest.raises(ValueError, match="x"), hooks.within(Handling(make(), "packing", 1)):
        raise ValueError("x")
    (point,) = metrics.points()["txpatterns.handler.duration"]
    assert (point.count, point.sum) == (1, 3.0)


def test_labels_stay_few_whatever_arrives(metrics, make):
    """S48: 10^4 keys, ids, topics, consumers and errors leave a bounded number of series, and the total is right."""
    hooks = HookList([MetricsHooks(metrics.provider, max_labels=50)])
    for number in range(10_000):
        message = make(key=f"k{number}", topic=f"t{number}")
        hooks.tell(Published([message], timedelta(0)))
        hooks.tell(Handled(message, f"c{number}"))
        hooks.tell(HandlerFailed(message, "packing", type(f"E{number}", (Exception,), {})(), 1))
    published = metrics.values("txpatterns.messages.published")
    assert len(published) == 51
    assert published[(("topic", OTHER),)] == 9_950
    assert len(metrics.values("txpatterns.messages.handled")) == 51
    assert len(metrics.values("txpatterns.handler.failures")) == 51


def test_keys_and_ids_make_no_series(hooks, metrics, make):
    """S48: 10^4 keys on one topic are one series, and no label holds a key or an id."""
    for number in range(10_000):
        hooks.tell(Published([make(key=f"customer-{number}")], timedelta(0)))
    assert metrics.values("txpatterns.messages.published") == {(("topic", "orders"),): 10_000}


DEPTHS = Depths(depth=7, oldest_age=timedelta(seconds=1.5), scheduled=3, waiting=2, dead=1, sagas=4, tcc=5)


def test_gauges_show_what_was_told_last(hooks, metrics):
    """P7: how much waits, and for how long; nothing before it is known."""
    assert metrics.points() == {}
    hooks.tell(DepthsSeen(DEPTHS))
    assert {name: point.value for name, (point,) in metrics.points().items()} == {
        "txpatterns.outbox.depth": 7,
        "txpatterns.outbox.oldest_age": 1.5,
        "txpatterns.outbox.scheduled": 3,
        "txpatterns.inbox.waiting": 2,
        "txpatterns.dead_letters.open": 1,
        "txpatterns.sagas.active": 4,
        "txpatterns.tcc.active": 5,
    }


def test_gauges_of_a_database_that_is_away_are_left_out(hooks, metrics, make):
    """An outage must show as missing figures, not as the last good ones."""
    hooks.tell(DepthsSeen(DEPTHS))
    hooks.tell(DepthsSeen(None))
    hooks.tell(Handled(make(), "packing"))
    assert set(metrics.points()) == {"txpatterns.messages.handled"}


def test_gauges_of_queues_are_over_all_of_a_topic(hooks, metrics):
    """H431: what one partition has says little; what the broker cannot tell is left out, and so is one that is away."""
    hour = timedelta(hours=1)
    told = [
        Depth("orders", "g", "orders/0", ready=2, oldest=hour, readers=1),
        Depth("orders", "g", "orders/1", ready=5, oldest=2 * hour, readers=0),
        Depth("payments", "g", "payments/0", ready=0),
    ]
    hooks.tell(QueuesSeen(tuple(told)))
    assert metrics.values("txpatterns.queue.ready") == {(("topic", "orders"),): 7, (("topic", "payments"),): 0}
    assert metrics.values("txpatterns.queue.oldest_age") == {(("topic", "orders"),): 7200}
    assert metrics.values("txpatterns.queue.readers") == {(("topic", "orders"),): 1}
    assert "txpatterns.queue.in_flight" not in metrics.points()
    hooks.tell(QueuesSeen(None))
    assert metrics.points() == {}


def test_several_apps_in_one_process_are_told_apart(metrics, make):
    """One provider, two Apps: no figure of one hides that of the other."""
    for name, depth in (("orders", 3), ("stock", 5)):
        hooks = HookList([MetricsHooks(metrics.provider, app=name)])
        hooks.tell(DepthsSeen(replace(DEPTHS, depth=depth)))
        hooks.tell(Published([make()] * depth, timedelta(0)))
        hooks.tell(Ownership("outbox", depth))
    series = [
        (name, point.attributes["app"], point.value)
        for name, points in metrics.every_point()
        for point in points
        if name in {"txpatterns.outbox.depth", "txpatterns.buckets.owned", "txpatterns.messages.published"}
    ]
    expected = [("orders", 3), ("stock", 5)]
    assert sorted((app, value) for _, app, value in series) == sorted(expected * 3)


def test_the_reference_page_lists_every_metric(metrics, make):
    """A metric that is added or renamed changes its page; the page names each exactly."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
    listed = {line.split("`")[1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `txp")}
    hooks, message = HookList([MetricsHooks(metrics.provider)]), make()
    hooks.tell(Added(message))
    hooks.tell(Published([message], timedelta(0)))
    hooks.tell(PublishFailed(message, None, 1))
    hooks.tell(BrokerAway("relay", None))
    with hooks.within(Handling(message, "packing", 1)):
        hooks.tell(Handled(message, "packing"))
    hooks.tell(DuplicatePrevented(message, "packing"))
    hooks.tell(HandlerFailed(message, "packing", ValueError("x"), 1))
    hooks.tell(Dead(message, None, "x"))
    with hooks.within(StepRuns("shop.checkout", "1", "pay", 1, False, {})):
        hooks.tell(StepRaised("shop.checkout", "1", "pay", ValueError("x"), 1))
    hooks.tell(SagaEnded("shop.checkout", "1", "completed"))
    hooks.tell(SagaNeedsAttention("shop.checkout", "1", "x"))
    with hooks.within(BranchRuns("stock", "try", "1", 1, {})):
        hooks.tell(BranchRaised("stock", "try", "1", ValueError("x"), 1))
    hooks.tell(TccEnded("1", "confirmed"))
    hooks.tell(TccNeedsAttention("1", "stock", "x"))
    hooks.tell(Ownership("outbox", 1))
    hooks.tell(QueuesSeen((Depth("t", "g", "t/0", 1, 1, timedelta(0), 1),)))
    hooks.tell(DepthsSeen(DEPTHS))
    for moment in (CircuitOpened("bank", timedelta(1)), CallRefused("bank"), CacheHit("product")):
        hooks.tell(moment)
    assert set(metrics.points()) == listed
