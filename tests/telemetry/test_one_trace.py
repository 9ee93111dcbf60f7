"""One story through the real outbox, its table and the real relay."""

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from txpatterns.correlation import caused_by, correlated
from txpatterns.database.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import PublishRejected
from txpatterns.hooks import HookList, on
from txpatterns.inbox.moments import Handling
from txpatterns.messages import Event
from txpatterns.outbox.moments import Added, Published
from txpatterns.outbox.outbox import Outbox
from txpatterns.outbox.relay import Relay
from txpatterns.telemetry.metrics import MetricsHooks
from txpatterns.telemetry.tracing import TracingHooks
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Verdict


class TraceTold(Event, topic="trace-told", type="trace.told", key="number"):
    number: int


class Keeping:
    """A broker that keeps what it is sent, and refuses what it is told to refuse."""

    capabilities = Capabilities(ordered_prefix=True)

    def __init__(self, refused=()):
        self.kept = []
        self.refused = set(refused)

    async def publish(self, messages):
        for message in messages:
            if message.key in self.refused:
                yield {message.id: Outcome(Verdict.REJECTED, PublishRejected("too large"))}
            else:
                self.kept.append(message)
                yield {message.id: CONFIRMED}


@pytest.fixture
async def database(tmp_path):
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/story.db") as made:
        await made.transact(create_missing)
        yield made


@pytest.fixture
def hooks(spans, metrics):
    return HookList([TracingHooks(spans.provider), MetricsHooks(metrics.provider)])


async def test_one_trace_through_table_and_relay(database, hooks, spans, metrics):
    """P1: the request's trace and correlation id are stored with the row, and reach broker and handler."""
    outbox, broker = Outbox(database, hooks=hooks), Keeping()
    tracer = spans.provider.get_tracer("test")
    with tracer.start_as_current_span("POST /orders") as request, correlated("request-7"):
        async with AsyncSession(database.engine) as session, session.begin():
            for number in range(3):
                outbox.add(session, TraceTold(number=number))
    await Relay(database, broker, hooks=hooks).run_once()
    for message in broker.kept:
        with caused_by(message), hooks.within(Handling(message, "packing", 1)):
            assert hooks.headers()["correlation-id"] == "request-7"
    sent, processed = spans.named("send trace-told"), spans.named("process trace-told")
    assert len(processed) == 3
    assert sent
    assert {span.context.trace_id for span in sent + processed} == {request.context.trace_id}
    assert sum(len(span.links) for span in sent) == 3
    assert metrics.values("txpatterns.messages.published") == {(("topic", "trace-told"),): 3}


async def test_a_refused_message_ends_in_the_trace_of_its_request(database, hooks, spans, metrics):
    """P1, P4: who looks at the request sees that its message was given up."""
    outbox, broker = Outbox(database, hooks=hooks), Keeping(refused={"7"})
    with spans.provider.get_tracer("test").start_as_current_span("POST /orders") as request:
        async with AsyncSession(database.engine) as session, session.begin():
            outbox.add(session, TraceTold(number=7))
    await Relay(database, broker, hooks=hooks).run_once()
    (dead,) = spans.named("dead letter trace-told")
    assert dead.context.trace_id == request.context.trace_id
    assert metrics.values("txpatterns.dead_letters") == {(("topic", "trace-told"),): 1}


async def test_a_faulty_listener_stops_neither_outbox_nor_relay(database):
    """P1: telemetry can fail entirely, given as one bare listener, and messages still go out."""

    class Broken(TracingHooks):
        def headers(self):
            raise RuntimeError("headers")

        def publishing(self, moment):
            raise RuntimeError("publishing")

        @on(Published)
        def published(self, moment):
            raise RuntimeError("published")

        @on(Added)
        def added(self, moment):
            raise RuntimeError("added")

    outbox, broker = Outbox(database, hooks=Broken()), Keeping()
    async with AsyncSession(database.engine) as session, session.begin():
        outbox.add(session, TraceTold(number=1))
    await Relay(database, broker, hooks=Broken()).run_once()
    assert [message.key for message in broker.kept] == ["1"]
