"""OpenTelemetry traces: one trace joins the request that added a message, the relay that sent it, and its handler.

Spans follow OpenTelemetry's conventions for messaging (operations ``create``, ``send`` and ``process``).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from txpatterns.correlation import correlation_id_of
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import MissingExtra, Retry
from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import DuplicatePrevented, HandlerFailed, Handling, HandlingBatch
from txpatterns.messages import Message
from txpatterns.outbox.moments import PublishFailed, Publishing
from txpatterns.runtime.moments import BrokerAway
from txpatterns.sagas.moments import StepRaised, StepRuns
from txpatterns.tcc.moments import BranchRaised, BranchRuns
from txpatterns.text import error_line, one_line

try:
    from opentelemetry import context, trace
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise MissingExtra("OpenTelemetry is not installed.", fix="pip install 'txpatterns[telemetry]'") from missing

STACK_LIMIT = 20
"""Frames of a failed handler's stack that are kept with its span: the innermost ones."""


@dataclass(slots=True)
class _Open:
    span: Span
    marks: int = 0
    recorded: bool = False


_open: ContextVar[_Open | None] = ContextVar("txpatterns_span", default=None)


def current_trace() -> dict[str, str]:
    """Give ``trace_id`` and ``span_id`` of the span that is current here, as hexadecimal text; {} outside of any."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(found.trace_id), "span_id": trace.format_span_id(found.span_id)}


class TracingHooks(Hooks):
    """Stores the trace context with each message, and makes the spans of sending and handling.

    The context is part of the message's row, so that a trace goes on after a crash, a retry or a day in the queue.
    A handler's span is a child of the span that added the message (``continue_trace=False``: only linked to it).
    A batch's span, of sending or of handling, links to each of its messages, at most ``max_links``, and joins their
    trace when all have the same.
    Neither payloads nor keys are recorded, and of an error only its type, first line and stack.

    ``system`` is the broker's name in the conventions, for example ``kafka``. ``propagator`` decides what is stored;
    the default is W3C trace context alone, so that baggage, which may be personal, is not.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        system: str = "txpatterns",
        continue_trace: bool = True,
        max_links: int = 128,
        propagator: TextMapPropagator | None = None,
    ) -> None:
        self.system = system
        self.continue_trace = continue_trace
        self.max_links = max_links
        self._tracer = trace.get_tracer("txpatterns", tracer_provider=tracer_provider)
        self._propagator = propagator or TraceContextTextMapPropagator()

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        if trace.get_current_span().get_span_context().is_valid:
            self._propagator.inject(carrier)
            return carrier
        # Added outside of any trace: a short span of its own is where relay and handler can join.
        span = self._tracer.start_span("create", kind=SpanKind.PRODUCER, attributes=self._attributes("create"))
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        span.end()
        return carrier

    @on(Publishing)
    def publishing(self, moment: Publishing) -> AbstractContextManager[None]:
        # The stored contexts are the creation contexts, hence the kind CLIENT; it is PRODUCER for a span that is
        # itself the creation context.
        return self._batch("send", SpanKind.CLIENT, moment.messages, {})

    @on(HandlingBatch)
    def handling_batch(self, moment: HandlingBatch) -> AbstractContextManager[None]:
        told = {"messaging.consumer.group.name": moment.consumer}
        return self._batch("process", SpanKind.CONSUMER, moment.messages, told)

    @contextmanager
    def _batch(
        self, operation: str, kind: SpanKind, messages: Sequence[Message], told: Mapping[str, str | int]
    ) -> Iterator[None]:
        topics = {message.topic for message in messages}
        attributes = self._attributes(operation, next(iter(topics)) if len(topics) == 1 else None) | dict(told)
        attributes |= _identity(messages[0]) if len(messages) == 1 else {"messaging.batch.message_count": len(messages)}
        stored = [(message, found) for message in messages[: self.max_links] if (found := self._stored(message))]
        parent = None
        if stored and len(stored) == len(messages) and len({found.trace_id for _, found in stored}) == 1:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(stored[0][1]), context.get_current())
        links = [Link(found, _identity(message)) for message, found in stored]
        span = self._tracer.start_span(
            _name(operation, topics), context=parent, kind=kind, attributes=attributes, links=links
        )
        with _entered(span):
            yield

    @on(Handling)
    @contextmanager
    def handling(self, moment: Handling) -> Iterator[None]:
        message = moment.message
        attributes = self._attributes("process", message.topic) | _identity(message)
        attributes |= {
            "messaging.consumer.group.name": moment.consumer,
            "messaging.message.conversation_id": one_line(correlation_id_of(message)),
            "txpatterns.message.type": one_line(message.type),
            "txpatterns.attempt": moment.attempt,
        }
        ambient = trace.get_current_span()
        found = self._stored(message)
        links = [Link(found)] if found else []
        extracted = self._propagator.extract(message.headers, context.get_current())
        if found and self.continue_trace:
            if ambient.get_span_context().is_valid:
                links.append(Link(ambient.get_span_context()))
        else:
            extracted = trace.set_span_in_context(ambient, extracted)
        token = context.attach(extracted)
        try:
            span = self._tracer.start_span(
                _name("process", {message.topic}), kind=SpanKind.CONSUMER, attributes=attributes, links=links
            )
            with _entered(span):
                yield
        finally:
            context.detach(token)

    @on(StepRuns)
    @contextmanager
    def step_runs(self, moment: StepRuns) -> Iterator[None]:
        attributes: dict[str, str | int | bool] = {
            "txpatterns.saga.type": one_line(moment.type),
            "txpatterns.saga.id": one_line(moment.saga_id),
            "txpatterns.attempt": moment.attempt,
        }
        if moment.undoing:
            attributes["txpatterns.undoing"] = True
        name = f"{'undo' if moment.undoing else 'step'} {one_line(moment.type)} {one_line(moment.step)}"
        with self._in_story(moment.headers, name, attributes):
            yield

    @on(BranchRuns)
    @contextmanager
    def branch_runs(self, moment: BranchRuns) -> Iterator[None]:
        attributes: dict[str, str | int | bool] = {
            "txpatterns.tcc.id": one_line(moment.transaction_id),
            "txpatterns.attempt": moment.attempt,
        }
        with self._in_story(moment.headers, f"{moment.operation} {one_line(moment.participant)}", attributes):
            yield

    @contextmanager
    def _in_story(
        self, headers: Mapping[str, str], name: str, attributes: Mapping[str, str | int | bool]
    ) -> Iterator[None]:
        """Give what runs for something a span in the trace that was stored with its start."""
        token = context.attach(self._propagator.extract(headers, context.get_current()))
        try:
            with _entered(self._tracer.start_span(name, attributes=attributes)):
                yield
        finally:
            context.detach(token)

    @on(BranchRaised)
    def branch_raised(self, moment: BranchRaised) -> None:
        self._raised(moment.error)

    @on(StepRaised)
    def step_raised(self, moment: StepRaised) -> None:
        self._raised(moment.error)

    def _raised(self, error: BaseException) -> None:
        found = _open.get()
        # A saga goes on in a task that inherits the span of the handler that began it, which has ended by then.
        if found is not None and found.span.is_recording():
            _record(found, error)

    @on(PublishFailed)
    def publish_failed(self, moment: PublishFailed) -> None:
        told: dict[str, str | int] = {"error.type": _type(moment.error), "txpatterns.attempt": moment.attempt}
        self._mark("publish failed", moment.message, moment.error, told)

    @on(Dead)
    def dead(self, moment: Dead) -> None:
        told = {} if moment.consumer is None else {"messaging.consumer.group.name": moment.consumer}
        self._mark("dead letter", moment.message, moment.error, told)

    @on(BrokerAway)
    def broker_away(self, moment: BrokerAway) -> None:
        found = _open.get()
        if found is not None:
            _fail(found.span, moment.error)

    @on(HandlerFailed)
    def handler_failed(self, moment: HandlerFailed) -> None:
        found = _open.get()
        if found is not None:
            _record(found, moment.error)

    @on(DuplicatePrevented)
    def duplicate_prevented(self, _: DuplicatePrevented) -> None:
        found = _open.get()
        if found is not None:
            found.span.set_attribute("txpatterns.duplicate", value=True)

    def _mark(self, name: str, message: Message, error: Exception | str | None, told: Mapping[str, str | int]) -> None:
        found = _open.get()
        if found is None or not found.span.is_recording():
            # The batch's span has ended: a short span of its own shows it, in the trace of the message.
            stored = self._stored(message)
            parent = trace.set_span_in_context(trace.NonRecordingSpan(stored)) if stored else None
            attributes = {"messaging.destination.name": message.topic, **_identity(message), **told}
            span = self._tracer.start_span(f"{name} {message.topic}", context=parent, attributes=attributes)
            span.set_status(Status(StatusCode.ERROR, error_line(error)))
            span.end()
            return
        found.marks += 1
        if found.marks <= self.max_links:
            found.span.add_event(f"txpatterns.{name.replace(' ', '_')}", {**_identity(message), **told})
        found.span.set_status(Status(StatusCode.ERROR, error_line(error)))

    def _attributes(self, operation: str, topic: str | None = None) -> dict[str, str | int]:
        named: dict[str, str | int] = {
            "messaging.system": self.system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
        }
        return named if topic is None else {**named, "messaging.destination.name": topic}

    def _stored(self, message: Message) -> SpanContext | None:
        extracted = self._propagator.extract(message.headers, context.Context())
        found = trace.get_current_span(extracted).get_span_context()
        return found if found.is_valid else None


def _name(operation: str, topics: set[str]) -> str:
    return f"{operation} {next(iter(topics))}" if len(topics) == 1 else operation


def _identity(message: Message) -> dict[str, str | int]:
    return {"messaging.message.id": one_line(message.id)}


@contextmanager
def _entered(span: Span) -> Iterator[None]:
    found = _Open(span)
    token = _open.set(found)
    current: AbstractContextManager[Span] = trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    )
    try:
        with current:
            try:
                yield
            except Exception as error:
                _record(found, error)
                raise
    finally:
        _open.reset(token)


def _record(found: _Open, error: BaseException) -> None:
    if found.recorded or isinstance(error, Retry):  # told already; or the handler's own wish, no failure
        return
    found.recorded = True
    _fail(found.span, error)
    frames = traceback.format_list(traceback.extract_tb(error.__traceback__)[-STACK_LIMIT:])
    found.span.add_event(
        "exception",
        {
            "exception.type": _type(error),
            "exception.message": error_line(error),
            # The frames alone: a formatted traceback ends with the error's whole text, which may hold personal data.
            "exception.stacktrace": "".join(frames),
        },
    )


def _fail(span: Span, error: BaseException | None) -> None:
    span.set_status(Status(StatusCode.ERROR, error_line(error)))
    span.set_attribute("error.type", _type(error))


def _type(error: BaseException | None) -> str:
    if error is None:
        return "_OTHER"
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
