"""Log lines with structlog: each one names the message, the story it belongs to, and the trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from txpatterns.causes import one_of, place_of
from txpatterns.correlation import correlation_id_of
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import MissingExtra
from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed, Handling, HandlingBatch
from txpatterns.messages import Message
from txpatterns.outbox.moments import Added, Published, PublishFailed, Publishing, TopicPostponed, TopicResumed
from txpatterns.resilience.moments import CircuitClosed, CircuitHalfOpened, CircuitOpened
from txpatterns.runtime.moments import BrokerAway, Ownership
from txpatterns.sagas.moments import SagaEnded, SagaNeedsAttention, StepDone, StepRaised, StepRuns
from txpatterns.tcc.moments import BranchDone, BranchRaised, BranchRuns, TccEnded, TccNeedsAttention
from txpatterns.text import error_line, one_line

try:
    import structlog
    from structlog.contextvars import bound_contextvars, get_contextvars
except ImportError as missing:
    raise MissingExtra("structlog is not installed.", fix="pip install 'txpatterns[telemetry]'") from missing

MOST_TOPICS = 5
"""Topics that a batch's lines name; a batch of more says how many there are."""


class LoggingHooks(Hooks):
    """Binds the message to structlog's context while it is sent or handled, and tells the changes of its state.

    Inside a handler every line, yours included, carries ``message_id``, ``message_type``, ``topic``, ``consumer``,
    ``attempt``, ``correlation_id`` and the trace's ids; while a batch is sent, ``batch`` and ``topics``.
    Failures are warnings, dead letters are errors, ordinary traffic is at debug level. Payloads are never logged;
    of an error only its type and first line, at most 200 characters, and the line of your own code that it came from;
    control characters are escaped.

    ``trace`` gives the ids of the current span: pass ``txpatterns.telemetry.tracing.current_trace`` and list
    ``TracingHooks`` before this listener. Without it the trace id is the one stored with the message.
    """

    logs = True

    def __init__(
        self,
        logger: structlog.typing.FilteringBoundLogger | None = None,
        *,
        trace: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._log: structlog.typing.FilteringBoundLogger = logger or structlog.get_logger("txpatterns")
        self._trace = trace
        self._broker_away = False
        self._buckets: dict[str, int] = {}

    @on(Added)
    def added(self, moment: Added) -> None:
        self._log.debug("message added", **_story(moment.message))

    @on(Publishing)
    @contextmanager
    def publishing(self, moment: Publishing) -> Iterator[None]:
        messages = moment.messages
        topics = sorted({one_line(message.topic) for message in messages})
        bound: dict[str, object] = {"batch": len(messages)}
        bound["topics"] = topics if len(topics) <= MOST_TOPICS else len(topics)
        if len(messages) == 1:
            bound |= _named(messages[0])
        with bound_contextvars(**bound, **(self._trace() if self._trace else {})):
            yield

    @on(Published)
    def published(self, moment: Published) -> None:
        if self._broker_away:
            self._broker_away = False
            self._log.info("broker is back")
        age = round(moment.age.total_seconds(), 3)
        self._log.debug("messages published", count=len(moment.messages), age_seconds=age)

    @on(PublishFailed)
    def publish_failed(self, moment: PublishFailed) -> None:
        self._log.warning(
            "publication refused, waits for its next attempt",
            **_story(moment.message) | {"attempt": moment.attempt, "error": error_line(moment.error)},
        )

    @on(BrokerAway)
    def broker_away(self, moment: BrokerAway) -> None:
        # Once for each outage: the relay tries again every few seconds, and a night of such lines hides the rest.
        level = self._log.debug if self._broker_away else self._log.warning
        self._broker_away = True
        level("broker is not reachable, the relay pauses", error=error_line(moment.error))

    @on(TopicPostponed)
    def topic_postponed(self, moment: TopicPostponed) -> None:
        topic, error = one_line(moment.topic), error_line(moment.error)
        self._log.warning("topic takes no messages now, they wait", topic=topic, error=error)

    @on(TopicResumed)
    def topic_resumed(self, moment: TopicResumed) -> None:
        self._log.info("topic takes messages again", topic=one_line(moment.topic))

    @on(Handling)
    @contextmanager
    def handling(self, moment: Handling) -> Iterator[None]:
        message = moment.message
        bound = _named(message) | {"consumer": one_line(moment.consumer), "attempt": moment.attempt}
        with bound_contextvars(**bound, **(self._trace() if self._trace else _stored_trace(message))):
            yield

    @on(HandlingBatch)
    @contextmanager
    def handling_batch(self, moment: HandlingBatch) -> Iterator[None]:
        bound = {"consumer": one_line(moment.consumer), "count": len(moment.messages)}
        with bound_contextvars(**bound, **(self._trace() if self._trace else {})):
            yield

    @on(Handled)
    def handled(self, moment: Handled) -> None:
        self._log.debug("message handled", **_story(moment.message), consumer=one_line(moment.consumer))

    @on(DuplicatePrevented)
    def duplicate_prevented(self, moment: DuplicatePrevented) -> None:
        self._log.info("duplicate prevented", **_story(moment.message), consumer=one_line(moment.consumer))

    @on(HandlerFailed)
    def handler_failed(self, moment: HandlerFailed) -> None:
        attempt = {"consumer": one_line(moment.consumer), "attempt": moment.attempt}
        self._log.warning(
            "handler failed, the message waits for its next attempt",
            **_story(moment.message) | attempt | _told(moment.error),
        )

    @on(Dead)
    def dead(self, moment: Dead) -> None:
        told = _story(moment.message) | {"error": error_line(moment.error)}
        if moment.consumer is not None:
            told["consumer"] = one_line(moment.consumer)
        self._log.error("message became a dead letter", **told)

    @on(StepRuns)
    @contextmanager
    def step_runs(self, moment: StepRuns) -> Iterator[None]:
        with bound_contextvars(**_of_saga(moment), **(self._trace() if self._trace else {})):
            yield

    @on(StepDone)
    def step_done(self, moment: StepDone) -> None:
        self._log.debug("step undone" if moment.undoing else "step done", **_of_saga(moment))

    @on(StepRaised)
    def step_raised(self, moment: StepRaised) -> None:
        level = self._log.info if moment.expected else self._log.warning
        level("step failed", **_of_saga(moment), **_told(moment.error))

    @on(SagaEnded)
    def saga_ended(self, moment: SagaEnded) -> None:
        named = {"saga": one_line(moment.type), "saga_id": one_line(moment.saga_id)}
        told = {} if moment.error is None else {"error": error_line(moment.error)}
        self._log.info(f"saga {moment.status}", **named, **told)

    @on(SagaNeedsAttention)
    def saga_needs_attention(self, moment: SagaNeedsAttention) -> None:
        named = {"saga": one_line(moment.type), "saga_id": one_line(moment.saga_id)}
        self._log.error("saga needs a person", **named, reason=error_line(moment.reason))

    @on(BranchRuns)
    @contextmanager
    def branch_runs(self, moment: BranchRuns) -> Iterator[None]:
        with bound_contextvars(**_of_branch(moment), **(self._trace() if self._trace else {})):
            yield

    @on(BranchDone)
    def branch_done(self, moment: BranchDone) -> None:
        self._log.debug("branch done", **_of_branch(moment))

    @on(BranchRaised)
    def branch_raised(self, moment: BranchRaised) -> None:
        self._log.warning("branch failed", **_of_branch(moment), **_told(moment.error))

    @on(TccEnded)
    def tcc_ended(self, moment: TccEnded) -> None:
        self._log.info(f"tcc {moment.status}", tcc_id=one_line(moment.transaction_id))

    @on(TccNeedsAttention)
    def tcc_needs_attention(self, moment: TccNeedsAttention) -> None:
        named = {"tcc_id": one_line(moment.transaction_id), "participant": one_line(moment.participant)}
        self._log.error("tcc needs a person", **named, reason=error_line(moment.reason))

    @on(CircuitOpened)
    def circuit_opened(self, moment: CircuitOpened) -> None:
        told = {} if moment.error is None else {"error": error_line(moment.error)}
        seconds = moment.open_for.total_seconds()
        self._log.warning("circuit opened", breaker=one_line(moment.breaker), seconds=seconds, told=moment.told, **told)

    @on(CircuitHalfOpened)
    def circuit_half_opened(self, moment: CircuitHalfOpened) -> None:
        self._log.info("circuit half-open, one call is let through", breaker=one_line(moment.breaker))

    @on(CircuitClosed)
    def circuit_closed(self, moment: CircuitClosed) -> None:
        self._log.info("circuit closed", breaker=one_line(moment.breaker), told=moment.told)

    @on(Ownership)
    def ownership(self, moment: Ownership) -> None:
        scope, buckets = moment.scope, moment.buckets
        before = self._buckets.get(scope)
        if before == buckets:
            return
        self._buckets[scope] = buckets
        self._log.info("buckets owned", scope=one_line(scope), buckets=buckets, before=before or 0)


def _of_saga(moment: StepRuns | StepDone | StepRaised) -> dict[str, object]:
    told: dict[str, object] = {
        "saga": one_line(moment.type),
        "saga_id": one_line(moment.saga_id),
        "step": one_line(moment.step),
        "undoing": moment.undoing,
    }
    return told if isinstance(moment, StepDone) else {**told, "attempt": moment.attempt}


def _of_branch(moment: BranchRuns | BranchDone | BranchRaised) -> dict[str, object]:
    told: dict[str, object] = {
        "tcc_id": one_line(moment.transaction_id),
        "participant": one_line(moment.participant),
        "operation": moment.operation,
    }
    return told if isinstance(moment, BranchDone) else {**told, "attempt": moment.attempt}


def _named(message: Message) -> dict[str, object]:
    named: dict[str, object] = {
        "message_id": one_line(message.id),
        "message_type": one_line(message.type),
        "topic": one_line(message.topic),
        "correlation_id": one_line(correlation_id_of(message)),
    }
    return named if message.key is None else {**named, "key": one_line(message.key)}


def _told(error: BaseException) -> dict[str, object]:
    told: dict[str, object] = {"error": one_of(error)}
    if place := place_of(error):
        told["place"] = one_line(place)
    return told


def _story(message: Message) -> dict[str, object]:
    # A line told after the attempt or the batch has ended, when nothing is bound any more, names its trace too.
    return _named(message) if "trace_id" in get_contextvars() else _named(message) | _stored_trace(message)


def _stored_trace(message: Message) -> dict[str, str]:
    parts = message.headers.get("traceparent", "").split("-")
    usable = len(parts) >= 4 and len(parts[1]) == 32 and all(c in "0123456789abcdef" for c in parts[1])
    return {"trace_id": parts[1]} if usable else {}
