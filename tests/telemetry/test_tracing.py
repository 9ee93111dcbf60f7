"""Spans by OpenTelemetry's conventions for messaging, seen through the SDK's exporter in memory."""

import asyncio

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import BaseModel

from txpatterns.deadletters.moments import Dead
from txpatterns.errors import Retry
from txpatterns.hooks import HookList
from txpatterns.inbox.moments import DuplicatePrevented, HandlerFailed, Handling
from txpatterns.outbox.moments import PublishFailed, Publishing
from txpatterns.sagas.moments import StepRaised
from txpatterns.telemetry.tracing import TracingHooks, current_trace

CANARY = "canary-4929-1234"


@pytest.fixture
def tracer(spans):
    return spans.provider.get_tracer("test")


@pytest.fixture
def hooks(spans):
    return HookList([TracingHooks(spans.provider, system="kafka")])


def added(hooks, make, **given):
    """A message as the outbox stores it: with the headers of the moment."""
    return make(headers=hooks.headers(), **given)


def test_one_trace_joins_request_relay_and_handler(hooks, spans, tracer, make):
    """P1: the context is stored with the row, so the relay and the handler go on with the request's trace."""
    with tracer.start_as_current_span("POST /orders") as request:
        message = added(hooks, make)
    with hooks.within(Publishing([message])):
        pass
    with hooks.within(Handling(message, "packing", 2)):
        inner = current_trace()
    (send,) = spans.named("send orders")
    (process,) = spans.named("process orders")
    assert {span.context.trace_id for span in (request, send, process)} == {request.context.trace_id}
    assert send.parent.span_id == process.parent.span_id == request.context.span_id
    assert inner["span_id"] == trace.format_span_id(process.context.span_id)
    assert (send.kind, process.kind) == (SpanKind.CLIENT, SpanKind.CONSUMER)
    assert dict(send.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.message.id": message.id,
    }
    assert dict(process.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.message.id": message.id,
        "messaging.message.conversation_id": message.id,
        "messaging.consumer.group.name": "packing",
        "txpatterns.message.type": "order.placed",
        "txpatterns.attempt": 2,
    }


def test_what_a_handler_adds_stays_in_the_trace(hooks, spans, tracer, make):
    """A story of several messages is one trace."""
    with tracer.start_as_current_span("POST /orders") as request:
        first = added(hooks, make)
    with hooks.within(Handling(first, "packing", 1)):
        second = added(hooks, make, topic="shipping")
    with hooks.within(Handling(second, "shipping", 1)):
        pass
    (last,) = spans.named("process shipping")
    assert last.context.trace_id == request.context.trace_id
    assert last.parent.span_id == spans.named("process orders")[0].context.span_id


def test_a_message_added_outside_of_any_trace_begins_one(hooks, spans, make):
    """Relay and handler of a script's message are joined as well."""
    message = added(hooks, make)
    with hooks.within(Publishing([message])):
        pass
    with hooks.within(Handling(message, "packing", 1)):
        pass
    (create,) = spans.named("create")
    assert create.kind is SpanKind.PRODUCER
    assert create.parent is None
    ends = spans.named("send orders") + spans.named("process orders")
    assert [span.parent.span_id for span in ends] == [create.context.span_id] * 2


def test_a_batch_links_to_each_message_and_the_links_are_bounded(hooks, spans, tracer, make):
    """H161: a batch of any size makes one span, with a bounded number of links and a trace of its own."""
    messages = []
    for _ in range(1000):
        with tracer.start_as_current_span("request"):
            messages.append(added(hooks, make, topic="orders" if len(messages) % 2 else "stock"))
    with hooks.within(Publishing(messages)):
        pass
    (send,) = spans.named("send")
    assert send.parent is None
    assert send.attributes["messaging.batch.message_count"] == 1000
    assert "messaging.destination.name" not in send.attributes
    assert len(send.links) == 128
    assert [link.attributes["messaging.message.id"] for link in send.links] == [m.id for m in messages[:128]]
    origins = {span.context.span_id for span in spans.named("request")}
    assert {link.context.span_id for link in send.links} <= origins


def test_a_batch_of_one_trace_joins_it(hooks, spans, tracer, make):
    """A request with several events is one trace, relay included."""
    with tracer.start_as_current_span("request") as request:
        messages = [added(hooks, make) for _ in range(3)]
    with hooks.within(Publishing(messages)):
        pass
    assert spans.named("send orders")[0].context.trace_id == request.context.trace_id


def test_a_batch_larger_than_its_links_is_not_taken_for_one_trace(spans, tracer, make):
    """What was not looked at may belong to others."""
    hooks = HookList([TracingHooks(spans.provider, max_links=2)])
    with tracer.start_as_current_span("request"):
        messages = [added(hooks, make) for _ in range(2)]
    messages.append(added(hooks, make))
    with hooks.within(Publishing(messages)):
        pass
    assert spans.named("send orders")[0].parent is None


def test_a_handler_may_be_linked_instead(spans, tracer, make):
    """The conventions' other form, for queues so long that one trace would never end."""
    hooks = HookList([TracingHooks(spans.provider, continue_trace=False)])
    with tracer.start_as_current_span("request") as request:
        message = added(hooks, make)
    with hooks.within(Handling(message, "packing", 1)):
        pass
    (process,) = spans.named("process orders")
    assert process.parent is None
    assert [link.context.span_id for link in process.links] == [request.context.span_id]


def test_the_place_where_a_handler_runs_is_linked(hooks, spans, tracer, make):
    """A handler inside another span, for example a push by HTTP, does not lose that connection."""
    with tracer.start_as_current_span("request") as request:
        message = added(hooks, make)
    with tracer.start_as_current_span("push") as push, hooks.within(Handling(message, "packing", 1)):
        pass
    (process,) = spans.named("process orders")
    assert process.parent.span_id == request.context.span_id
    assert [link.context.span_id for link in process.links] == [request.context.span_id, push.context.span_id]


@pytest.mark.parametrize("strange", ["", "00-xyz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "0" * 100_000, "\x00"])
def test_a_strange_trace_context_begins_a_new_trace(hooks, spans, make, strange):
    """H149: what a stranger writes into the header cannot break handling."""
    message = make(headers={"traceparent": strange, "tracestate": "=,;\x00" * 1000})
    with hooks.within(Publishing([message])), hooks.within(Handling(message, "packing", 1)):
        pass
    assert spans.named("send orders")[0].links == ()


def test_baggage_stays_at_home_unless_asked_for(spans, make):
    """S32: baggage may hold personal data, and a message goes further than a request."""
    composite = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
    asked = HookList([TracingHooks(spans.provider, propagator=composite)])
    token = context.attach(baggage.set_baggage("user", CANARY))
    try:
        kept = HookList([TracingHooks(spans.provider)]).headers()
        sent = asked.headers()
    finally:
        context.detach(token)
    assert set(kept) == {"traceparent"}
    with asked.within(Handling(make(headers=sent), "packing", 1)):
        assert baggage.get_baggage("user") == CANARY
    assert baggage.get_baggage("user") is None


def test_an_error_is_recorded_once_and_without_the_payload(hooks, spans, make):
    """S32: type, first line and stack; pydantic's and the drivers' further lines hold the data."""

    class Card(BaseModel):
        number: int

    message = make()
    with pytest.raises(ValueError, match="Card"), hooks.within(Handling(message, "packing", 1)):  # noqa: PT012
        try:
            Card.model_validate({"number": CANARY})
        except ValueError as error:
            hooks.tell(HandlerFailed(message, "packing", error, 1))
            raise
    (process,) = spans.named("process orders")
    (event,) = process.events
    assert process.status.status_code is StatusCode.ERROR
    assert process.attributes["error.type"] == event.attributes["exception.type"]
    assert event.attributes["exception.message"] == "ValidationError: 1 validation error for Card"
    assert "model_validate" in event.attributes["exception.stacktrace"]
    assert CANARY not in process.to_json()


async def test_a_task_that_outlives_its_batch_marks_nothing_ended(hooks, spans, make, caplog):
    """A task begun while a batch is sent inherits its context, and goes on when the span has ended."""
    ended = asyncio.Event()

    async def later():
        await ended.wait()
        hooks.tell(Dead(make(), None, "too large"))

    with hooks.within(Publishing([make()])):
        task = asyncio.create_task(later())
    ended.set()
    await task
    assert len(spans.named("dead letter orders")) == 1
    assert caplog.text == ""


async def test_a_saga_that_outlives_its_handler_marks_nothing_ended(hooks, spans, make, caplog):
    """A saga that a handler begins inherits its context; what raises later is not the handler's."""
    ended = asyncio.Event()

    async def later():
        await ended.wait()
        hooks.tell(StepRaised("checkout", "1", "charge", ValueError("no"), 1))

    with hooks.within(Handling(make(), "cart", 1)):
        task = asyncio.create_task(later())
    ended.set()
    await task
    [process] = spans.named("process orders")
    assert (process.status.status_code, process.events) == (StatusCode.UNSET, ())
    assert caplog.text == ""


def test_a_wish_for_another_attempt_is_no_error(hooks, spans, make):
    """`raise Retry` is how a handler waits."""
    with pytest.raises(Retry), hooks.within(Handling(make(), "packing", 1)):
        raise Retry
    assert spans.named("process orders")[0].status.status_code is StatusCode.UNSET


def test_refused_publications_are_seen_with_their_batch(hooks, spans, make):
    """Each refused message is named, and the batch is an error."""
    messages = [make() for _ in range(3)]
    with hooks.within(Publishing(messages)):
        hooks.tell(PublishFailed(messages[1], ValueError("too large"), 4))
    (send,) = spans.named("send orders")
    (event,) = send.events
    assert event.attributes["messaging.message.id"] == messages[1].id
    assert send.status.status_code is StatusCode.ERROR
    assert event.attributes["error.type"] == "ValueError"


def test_what_ends_after_its_batch_is_seen_in_the_trace_of_its_message(hooks, spans, tracer, make):
    """A refusal is stored before it is told, and a dead letter may come much later: both end the message's story."""
    with tracer.start_as_current_span("request") as request:
        message = added(hooks, make)
    hooks.tell(PublishFailed(message, ValueError(f"too large\n{CANARY}"), 7))
    hooks.tell(Dead(message, None, f"too large\n{CANARY}"))
    failed, dead = spans.named("publish failed orders") + spans.named("dead letter orders")
    for span in (failed, dead):
        assert span.parent.span_id == request.context.span_id
        assert span.status.status_code is StatusCode.ERROR
        assert CANARY not in span.to_json()
    assert failed.attributes["txpatterns.attempt"] == 7


def test_a_prevented_duplicate_is_marked(hooks, spans, make):
    """P2: a trace shows why a handler did not run."""
    with hooks.within(Handling(make(), "packing", 1)):
        hooks.tell(DuplicatePrevented(make(), "packing"))
    assert spans.named("process orders")[0].attributes["txpatterns.duplicate"] is True


async def test_handlers_side_by_side_keep_their_own_spans(hooks, spans, make):
    """Lanes run in one loop: the current span belongs to the task, also in a handler's thread."""
    messages = [make(topic=f"t{number}") for number in range(10)]
    barrier = asyncio.Barrier(10)
    seen = {}

    async def handle(message):
        with hooks.within(Handling(message, "packing", 1)):
            await barrier.wait()
            seen[message.topic] = await asyncio.to_thread(current_trace)

    await asyncio.gather(*(handle(message) for message in messages))
    expected = {m.topic: trace.format_span_id(spans.named(f"process {m.topic}")[0].context.span_id) for m in messages}
    assert {topic: found["span_id"] for topic, found in seen.items()} == expected


def test_without_an_sdk_nothing_is_stored(make):
    """Off means free: the API alone makes no span and no header."""
    hooks = HookList([TracingHooks(trace.NoOpTracerProvider())])
    assert hooks.headers() == {}
    with hooks.within(Publishing([make()])), hooks.within(Handling(make(), "packing", 1)):
        assert current_trace() == {}
