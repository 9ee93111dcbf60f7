"""Log lines: who they are about, and what never stands in them."""

import io
import json
import logging
from datetime import timedelta

import pytest
import structlog
from pydantic import BaseModel

from txpatterns.deadletters.moments import Dead
from txpatterns.hooks import HookList
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed, Handling
from txpatterns.outbox.moments import Added, Published, PublishFailed, Publishing
from txpatterns.resilience.moments import CircuitClosed, CircuitHalfOpened, CircuitOpened
from txpatterns.runtime.moments import BrokerAway, Idle, Ownership
from txpatterns.telemetry.logging_setup import configure_logging
from txpatterns.telemetry.logs import LoggingHooks
from txpatterns.telemetry.tracing import TracingHooks, current_trace

CANARY = "canary-4929-1234"
HOSTILE = "k\r\n2026-01-01 [error] forged\x1b[31m\x00\u202e\u2028end"


@pytest.fixture
def lines():
    """Everything that the process logs, down to debug level, as one would find it on standard error."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(level=logging.DEBUG, trace=current_trace, stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def everything(hooks, message):
    """Each moment of a message's life, once."""
    hooks.tell(Added(message))
    with hooks.within(Publishing([message])):
        hooks.tell(PublishFailed(message, ValueError(f"refused\n{CANARY}"), 1))
        hooks.tell(BrokerAway("relay", ConnectionError("gone")))
        hooks.tell(Published([message], timedelta(seconds=1)))
    with hooks.within(Handling(message, "packing", 2)):
        hooks.tell(HandlerFailed(message, "packing", ValueError(f"failed\n{CANARY}"), 2))
        hooks.tell(Handled(message, "packing"))
        hooks.tell(DuplicatePrevented(message, "packing"))
    hooks.tell(Dead(message, "packing", f"ValueError: gave up\n{CANARY}"))
    hooks.tell(Dead(message, None, "too large"))
    hooks.tell(Ownership("outbox", 256))
    hooks.tell(Idle("relay"))


def test_every_line_in_a_handler_names_message_story_and_trace(lines, spans, make):
    """The user's own lines too, by structlog and by the standard library, in the handler's own nested spans."""
    hooks = HookList([TracingHooks(spans.provider), LoggingHooks(trace=current_trace)])
    message = make(headers={"correlation-id": "request-7"} | hooks.headers())
    with hooks.within(Handling(message, "packing", 3)):
        structlog.get_logger("shop").info("packing")
        with spans.provider.get_tracer("test").start_as_current_span("inner"):
            logging.getLogger("shop").warning("low %s", "stock")
    structlog.get_logger("shop").info("after")
    first, second, after = (line for line in lines() if line["logger"] == "shop")
    (process,), (inner,) = spans.named("process orders"), spans.named("inner")
    expected = {"message_id": message.id, "correlation_id": "request-7", "consumer": "packing", "attempt": 3}
    for line, span in ((first, process), (second, inner)):
        assert line | expected == line
        assert line["trace_id"] == f"{span.context.trace_id:032x}"
        assert line["span_id"] == f"{span.context.span_id:016x}"
    assert second["event"] == "low stock"
    assert not set(after) & {*expected, "trace_id", "span_id"}


def test_without_tracing_the_stored_trace_is_named(lines, make):
    """A service without OpenTelemetry still tells which trace its lines belong to."""
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for headers in ({"traceparent": parent}, {"traceparent": "nonsense\r\n"}, {}):
        with HookList([LoggingHooks()]).within(Handling(make(headers=headers), "packing", 1)):
            structlog.get_logger("shop").info("line")
    assert [line.get("trace_id") for line in lines()] == ["4bf92f3577b34da6a3ce929d0e0e4736", None, None]


def test_what_is_told_after_an_attempt_names_its_story_too(lines, make):
    """A failure is told when its transaction is rolled back and nothing is bound any more."""
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    hooks, message = HookList([LoggingHooks()]), make(headers={"traceparent": parent, "correlation-id": "request-7"})
    hooks.tell(HandlerFailed(message, "packing", ValueError("x"), 1))
    hooks.tell(DuplicatePrevented(message, "packing"))
    hooks.tell(Dead(message, "packing", "x"))
    hooks.tell(PublishFailed(message, None, 1))
    expected = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "correlation_id": "request-7", "message_id": message.id}
    assert [line | expected for line in lines()] == lines()
    assert len(lines()) == 4


def test_a_batch_is_named_while_it_is_sent(lines, make):
    """Lines of the broker's client tell which batch they are about."""
    hooks = HookList([LoggingHooks()])
    with hooks.within(Publishing([make(topic=f"t{number % 2}") for number in range(10)])):
        logging.getLogger("client").warning("slow")
    with hooks.within(Publishing([make(topic=f"t{number}") for number in range(10)])):
        logging.getLogger("client").warning("slow")
    few, many = lines()
    assert (few["batch"], few["topics"]) == (10, ["t0", "t1"])
    assert (many["batch"], many["topics"]) == (10, 10)


def test_no_payload_in_any_line(lines, make):
    """S32, H152: not at debug level, not through the error of a model or a driver, not through a message's repr."""

    class Card(BaseModel):
        number: int

    hooks = HookList([LoggingHooks()])
    message = make(payload=CANARY.encode())
    everything(hooks, message)
    with pytest.raises(ValueError, match="Card") as caught:
        Card.model_validate({"number": CANARY})
    hooks.tell(HandlerFailed(message, "packing", caught.value, 1))
    logging.getLogger("shop").error("odd message %r", message)
    structlog.get_logger("shop").error("odd message", message=message)
    assert len(lines()) > 10
    assert CANARY not in json.dumps(lines())


@pytest.mark.parametrize("as_json", [True, False])
def test_a_line_stays_one_line(lines, make, capsys, as_json):
    """S30: line ends, terminal sequences, NUL and direction marks in anything that others wrote are escaped."""
    stream = io.StringIO()
    configure_logging(json=as_json, level=logging.DEBUG, stream=stream)
    message = make(
        id=HOSTILE,
        key=HOSTILE,
        topic=HOSTILE,
        type=HOSTILE,
        headers={"correlation-id": HOSTILE, "traceparent": HOSTILE},
    )
    hooks = HookList([LoggingHooks()])
    everything(hooks, message)
    hooks.tell(Dead(message, HOSTILE, HOSTILE))
    hooks.tell(Ownership(HOSTILE, 1))
    logging.getLogger("shop").error("odd key %s", HOSTILE)
    structlog.get_logger("shop").error("odd key", key=HOSTILE)
    text = stream.getvalue()
    # Each moment but idle is one line; publishing and handling are told by what happens inside.
    assert text.count("\n") == 15
    assert len(text.splitlines()) == 15
    assert all(c == "\n" or c.isprintable() for c in text)
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())


def test_a_line_stays_short(lines, make):
    """H161: a broker's or a handler's error of any length is cut."""
    HookList([LoggingHooks()]).tell(Dead(make(key="k" * 10**6), "packing", "e" * 10**6))
    (line,) = lines()
    assert len(json.dumps(line)) < 1000


def test_levels_tell_what_needs_a_look(lines, make):
    """Failures warn, dead letters are errors, ordinary traffic is silent above debug level."""
    everything(HookList([LoggingHooks()]), make())
    assert [(line["level"], line["event"]) for line in lines()] == [
        ("debug", "message added"),
        ("warning", "publication refused, waits for its next attempt"),
        ("warning", "broker is not reachable, the relay pauses"),
        ("info", "broker is back"),
        ("debug", "messages published"),
        ("warning", "handler failed, the message waits for its next attempt"),
        ("debug", "message handled"),
        ("info", "duplicate prevented"),
        ("error", "message became a dead letter"),
        ("error", "message became a dead letter"),
        ("info", "buckets owned"),
    ]


def test_a_breaker_is_told_of(lines):
    """H176: opened with why, half-open and closed, each on one line."""
    hooks = HookList([LoggingHooks()])
    hooks.tell(CircuitOpened("bank", timedelta(seconds=30), TimeoutError("no\nanswer")))
    hooks.tell(CircuitHalfOpened("bank"))
    hooks.tell(CircuitClosed("bank", told=True))
    assert [(line["level"], line["event"], line["breaker"]) for line in lines()] == [
        ("warning", "circuit opened", "bank"),
        ("info", "circuit half-open, one call is let through", "bank"),
        ("info", "circuit closed", "bank"),
    ]
    assert lines()[0]["error"] == "TimeoutError: no"


def test_an_outage_is_told_once(lines, make):
    """A night without a broker is two lines: when it began and when it ended."""
    hooks = HookList([LoggingHooks()])
    for _ in range(100):
        hooks.tell(BrokerAway("relay", None))
        hooks.tell(Ownership("outbox", 5))
    hooks.tell(Published([make()], timedelta(0)))
    told = [line["event"] for line in lines() if line["level"] != "debug"]
    assert told == ["broker is not reachable, the relay pauses", "buckets owned", "broker is back"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_local_variables(lines, as_json):
    """S32: the payload is a local variable of every handler."""
    stream = io.StringIO()
    configure_logging(json=as_json, stream=stream)
    payload = CANARY.swapcase()
    try:
        raise ValueError("no\x1b[31m stock")
    except ValueError:
        structlog.get_logger("shop").exception("failed")
        logging.getLogger("shop").exception("failed")
    assert stream.getvalue().count("test_a_traceback_shows_no_local_variables") == 2
    assert payload not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
