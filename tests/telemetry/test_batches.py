"""A handler's batch as telemetry sees it: one span, one duration, and lines that say how many there are."""

import logging

import pytest
import structlog
from opentelemetry.trace import SpanKind, StatusCode

from telemetry.test_logs import lines  # noqa: F401 - a fixture
from txpatterns.correlation import CORRELATION_ID, caused_by, caused_by_none, correlated
from txpatterns.hooks import HookList
from txpatterns.inbox.moments import HandlingBatch
from txpatterns.telemetry.logs import LoggingHooks
from txpatterns.telemetry.metrics import MetricsHooks
from txpatterns.telemetry.tracing import TracingHooks


def test_a_batch_is_one_span_with_a_link_to_each_message(spans, make):
    """H161: it is in a trace of its own, and an error of the handler is the span's."""
    hooks = HookList([TracingHooks(spans.provider, system="kafka")])
    messages = [make(headers=hooks.headers()) for _ in range(3)]
    with pytest.raises(ValueError, match="no"), hooks.within(HandlingBatch(messages, "packing")):
        raise ValueError("no")
    (process,) = spans.named("process orders")
    assert (process.kind, process.parent, process.status.status_code) == (SpanKind.CONSUMER, None, StatusCode.ERROR)
    assert [link.attributes["messaging.message.id"] for link in process.links] == [m.id for m in messages]
    assert process.attributes["messaging.batch.message_count"] == 3
    assert process.attributes["messaging.consumer.group.name"] == "packing"


def test_a_batch_has_one_duration(metrics, make):
    """A figure for each call of the handler."""
    hooks = HookList([MetricsHooks(metrics.provider)])
    with hooks.within(HandlingBatch([make() for _ in range(3)], "packing")):
        pass
    (point,) = metrics.points()["txpatterns.handler.duration"]
    assert (point.count, dict(point.attributes)) == (1, {"topic": "orders", "consumer": "packing"})


def test_a_line_of_a_batch_says_how_many_there_are(lines, make):  # noqa: F811 - the fixture
    """No message is named: it is about all of them."""
    with HookList([LoggingHooks()]).within(HandlingBatch([make() for _ in range(3)], "packing")):
        structlog.get_logger("shop").info("packing")
        logging.getLogger("shop").warning("low")
    for line in lines():
        assert (line["consumer"], line["count"]) == ("packing", 3)
        assert "message_id" not in line


def test_what_is_added_in_a_batch_comes_from_no_one_message(make):
    """What a handler adds beside emit has no cause, and belongs to no story around it."""
    with correlated("request-7"), caused_by_none():
        assert HookList().headers() == {}
    with caused_by(message := make()):
        assert HookList().headers()[CORRELATION_ID] == message.id
