"""Failures in Python's own log, where no listener writes log lines."""

import logging
from datetime import timedelta

import pytest

from txpatterns import App, Retry
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import BrokerUnavailable, NotBegun, PublishRejected
from txpatterns.hooks import HookList
from txpatterns.inbox.moments import HandlerFailed
from txpatterns.outbox.moments import Published, PublishFailed
from txpatterns.resilience.moments import CallRefused, CircuitClosed, CircuitOpened
from txpatterns.runtime.moments import BrokerAway
from txpatterns.telemetry.failures import FailureLog
from txpatterns.telemetry.logs import LoggingHooks
from txpatterns.telemetry.metrics import MetricsHooks


@pytest.fixture
def told(caplog):
    """The lines so far, with their levels."""
    caplog.set_level(logging.WARNING, logger="txpatterns")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


def test_each_failure_is_one_line(make, told):
    """P4: refused, failed, dead: what, where, which attempt, and the first line of the error alone."""
    log, message = HookList([FailureLog()]), make(id="m1")
    log.tell(PublishFailed(message, PublishRejected("too large"), 2))
    log.tell(HandlerFailed(message, "packing", ValueError("no stock\n{'card': '4111'}"), 3))
    log.tell(Dead(message, "packing", "ValueError: no stock\nrow 7"))
    log.tell(Dead(message, None, "too large"))
    lines = told()
    assert [level for level, _ in lines] == ["WARNING", "WARNING", "ERROR", "ERROR"]
    assert all("order.placed m1 on orders" in text and "\n" not in text for _, text in lines)
    assert lines[1][1].endswith("in attempt 3: ValueError: no stock")
    assert lines[2][1].endswith("is a dead letter, packing gave it up: ValueError: no stock")


def test_what_a_handler_wishes_is_no_warning(make, told):
    """`raise Retry` is a way to wait, not a failure."""
    HookList([FailureLog()]).tell(HandlerFailed(make(), "packing", Retry("not yet"), 1))
    assert told() == []


def test_an_outage_is_told_once(make, told):
    """H35: the relay tries again every few seconds; the log says when it went and when it is back."""
    log = HookList([FailureLog()])
    for _ in range(3):
        log.tell(BrokerAway("relay", BrokerUnavailable("no route")))
    log.tell(Published([make()], timedelta(0)))
    log.tell(Published([make()], timedelta(0)))
    assert [text.split(":")[0] for _, text in told()] == [
        "the broker cannot be reached, messages wait",
        "the broker is back",
    ]


def test_a_breaker_is_told_when_it_opens_and_closes(told):
    """H176: with why, and on one line; who is refused meanwhile is no line."""
    log = HookList([FailureLog()])
    log.tell(CircuitOpened("bank\n", timedelta(seconds=30), TimeoutError("no\nanswer")))
    log.tell(CircuitOpened("post", timedelta(seconds=30), told=True))
    log.tell(CallRefused("bank"))
    log.tell(CircuitClosed("bank"))
    assert [text for _, text in told()] == [
        "bank\\n is taken to be away, calls wait for 0:00:30: TimeoutError: no",
        "post is taken to be away, calls wait for 0:00:30: a person or another process says so",
        "bank answers again",
    ]


def test_a_call_that_was_not_made_is_no_warning(make, told):
    """H176: an open breaker refuses every message that comes, and is told of once."""
    HookList([FailureLog()]).tell(HandlerFailed(make(), "packing", NotBegun(), 1))
    assert told() == []


@pytest.mark.parametrize(
    ("hooks", "lines"), [([], 1), ([MetricsHooks()], 1), ([LoggingHooks()], 0)], ids=["none", "metrics", "log"]
)
def test_an_app_writes_them_unless_a_listener_does(tmp_path, make, told, hooks, lines):
    """P4: nothing is silent because nobody set up telemetry, and nothing is said twice."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", "memory://", hooks=hooks)
    app.hooks.tell(Dead(make(), "packing", "gave up"))
    assert len(told()) == lines


def test_an_error_that_cannot_be_told_harms_nobody(tmp_path, make, told):
    """P1: a broken ``__str__`` must not stop the consumer; the failure is told without its text."""

    class Unspeakable(Exception):
        def __str__(self):
            raise RuntimeError("unspeakable")

    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/a.db", "memory://")
    app.hooks.tell(HandlerFailed(make(), "packing", Unspeakable(), 1))
    ((_, line),) = told()
    assert "packing failed" in line
    assert "Unspeakable: (which cannot be told: RuntimeError)" in line
