"""OpenTelemetry metrics: what was published, handled, repeated, given up, and how much still waits."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from txpatterns.clock import Clock, SystemClock
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import MissingExtra
from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed, Handling, HandlingBatch
from txpatterns.outbox.moments import Added, Published, PublishFailed, TopicPostponed, TopicResumed
from txpatterns.resilience.moments import (
    BulkheadWasFull,
    CacheHit,
    CacheMissed,
    CallRefused,
    CircuitClosed,
    CircuitOpened,
    Limited,
    LoadShared,
)
from txpatterns.runtime.moments import BrokerAway, Depths, DepthsSeen, Ownership, QueuesSeen
from txpatterns.sagas.moments import SagaEnded, SagaNeedsAttention, StepRaised, StepRuns
from txpatterns.tcc.moments import BranchRaised, BranchRuns, TccEnded, TccNeedsAttention
from txpatterns.text import one_line
from txpatterns.transport import Depth

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
except ImportError as missing:
    raise MissingExtra("OpenTelemetry is not installed.", fix="pip install 'txpatterns[telemetry]'") from missing

GAUGES = {
    "depth": ("txpatterns.outbox.depth", "{message}", "Committed messages that are not yet published."),
    "oldest_age": ("txpatterns.outbox.oldest_age", "s", "Age of the oldest message that waits, at a handler too."),
    "scheduled": (
        "txpatterns.outbox.scheduled",
        "{message}",
        "Messages that wait for their time or for their key.",
    ),
    "waiting": ("txpatterns.inbox.waiting", "{message}", "Received messages that wait for their next attempt."),
    "sagas": ("txpatterns.sagas.active", "{saga}", "Sagas that have not ended."),
    "tcc": ("txpatterns.tcc.active", "{transaction}", "TCC transactions that have not ended."),
    "dead": ("txpatterns.dead_letters.open", "{message}", "Dead letters that are kept."),
}
"""What ``Depths`` tells, with the metric that it becomes."""

QUEUE_GAUGES = {
    "ready": ("txpatterns.queue.ready", "{message}", "Messages that wait at the broker for this App: a log's lag."),
    "in_flight": ("txpatterns.queue.in_flight", "{message}", "Messages given out and not yet acknowledged."),
    "oldest": ("txpatterns.queue.oldest_age", "s", "Age of the oldest message that waits at the broker."),
    "readers": ("txpatterns.queue.readers", "{reader}", "Members of the group that read, by queue or partition."),
}
"""What the broker's depths tell, over all queues of a topic, with the metric that it becomes."""

_AGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

OTHER = "_OTHER"
"""The label of what came after ``max_labels`` different ones."""


class MetricsHooks(Hooks):
    """Counts what happens to messages, by topic and consumer.

    Labels never hold ids, keys or error texts, and each label takes at most ``max_labels`` different values, whatever
    arrives; what comes later is counted as ``_OTHER``. ``app`` becomes a label of every series; several Apps in one
    process need one each, because OpenTelemetry keeps only the first of two equal gauges.

    How much waits in the database is shown as the App told it last, at most 15 seconds ago; while the database is away
    these gauges are left out.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        *,
        app: str | None = None,
        max_labels: int = 200,
        clock: Clock | None = None,
    ) -> None:
        common = {} if app is None else {"app": app}
        meter = get_meter("txpatterns", meter_provider=meter_provider, attributes=common)
        self._clock = clock or SystemClock()
        self._labels = _Labels(max_labels, common)
        self._buckets: dict[str, int] = {}
        self._depths: Depths | None = None
        self._queues: tuple[Depth, ...] = ()
        self._postponed: set[str] = set()
        self._breakers: dict[str, bool] = {}
        self._make_counters(meter)
        self._age = meter.create_histogram(
            "txpatterns.publish.age",
            "s",
            "Age of the oldest message of a batch when the broker confirmed it.",
            explicit_bucket_boundaries_advisory=_AGES,
        )
        self._duration = meter.create_histogram(
            "txpatterns.handler.duration",
            "s",
            "How long one attempt took, with its transaction.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._step_duration = meter.create_histogram(
            "txpatterns.saga.step.duration",
            "s",
            "How long one attempt of a step or a call took.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._branch_duration = meter.create_histogram(
            "txpatterns.tcc.branch.duration",
            "s",
            "How long one attempt of a participant took to try, to confirm or to cancel.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._make_gauges(meter)

    def _make_gauges(self, meter: Meter) -> None:
        meter.create_observable_gauge(
            "txpatterns.buckets.owned", [self._owned], "{bucket}", "Parts of the keys that this process works on."
        )
        meter.create_observable_gauge(
            "txpatterns.topics.postponed", [self._topics_postponed], "{topic}", "Topics that take no messages now."
        )
        meter.create_observable_gauge(
            "txpatterns.breaker.open", [self._breakers_open], "{breaker}", "1 while a breaker makes no calls."
        )
        for name, (metric, unit, description) in QUEUE_GAUGES.items():
            meter.create_observable_gauge(metric, [self._queue_teller(name)], unit, description)
        for name, (metric, unit, description) in GAUGES.items():
            meter.create_observable_gauge(metric, [self._teller(name)], unit, description)

    def _make_counters(self, meter: Meter) -> None:
        count = meter.create_counter
        self._added = count("txpatterns.messages.added", "{message}", "Messages added to transactions.")
        self._published = count("txpatterns.messages.published", "{message}", "Messages that the broker confirmed.")
        self._failures = count("txpatterns.publish.failures", "{failure}", "Publications that the broker refused.")
        self._pauses = count("txpatterns.broker.unavailable", "{pause}", "Pauses because the broker was away.")
        self._handled = count("txpatterns.messages.handled", "{message}", "Effects that were committed.")
        self._duplicates = count("txpatterns.duplicates.prevented", "{message}", "Effects that were not repeated.")
        self._retries = count("txpatterns.handler.failures", "{failure}", "Attempts that failed and will be retried.")
        self._step_failures = count("txpatterns.saga.step.failures", "{failure}", "Attempts of steps that failed.")
        self._sagas_ended = count("txpatterns.sagas.ended", "{saga}", "Sagas that have ended, by how.")
        self._sagas_flagged = count("txpatterns.sagas.flagged", "{saga}", "Times that a saga needed a person.")
        self._branch_failures = count("txpatterns.tcc.branch.failures", "{failure}", "Attempts of participants failed.")
        self._tcc_ended = count("txpatterns.tcc.ended", "{transaction}", "TCC transactions that have ended, by how.")
        self._tcc_flagged = count("txpatterns.tcc.flagged", "{transaction}", "Times that one needed a person.")
        self._opened = count("txpatterns.breaker.opened", "{opening}", "Times that a breaker opened.")
        self._refused = count("txpatterns.calls.refused", "{call}", "Calls that a guard did not let through.")
        self._cached = count("txpatterns.cache.requests", "{request}", "Values asked of a cache, by what came of it.")
        self._dead = count("txpatterns.dead_letters", "{message}", "Messages that became dead letters.")

    @on(Added)
    def added(self, moment: Added) -> None:
        self._added.add(1, self._labels.of(topic=moment.message.topic))

    @on(Published)
    def published(self, moment: Published) -> None:
        for topic, number in Tally(message.topic for message in moment.messages).items():
            self._published.add(number, self._labels.of(topic=topic))
        self._age.record(moment.age.total_seconds(), self._labels.of())

    @on(PublishFailed)
    def publish_failed(self, moment: PublishFailed) -> None:
        error = type(moment.error).__name__ if moment.error else OTHER
        self._failures.add(1, self._labels.of(topic=moment.message.topic, error=error))

    @on(BrokerAway)
    def broker_away(self, _: BrokerAway) -> None:
        self._pauses.add(1, self._labels.of())

    @on(TopicPostponed)
    def topic_postponed(self, moment: TopicPostponed) -> None:
        self._postponed.add(moment.topic)

    @on(TopicResumed)
    def topic_resumed(self, moment: TopicResumed) -> None:
        self._postponed.discard(moment.topic)

    @on(Handling)
    @contextmanager
    def handling(self, moment: Handling) -> Iterator[None]:
        with self._timed(moment.message.topic, moment.consumer):
            yield

    @on(HandlingBatch)
    @contextmanager
    def handling_batch(self, moment: HandlingBatch) -> Iterator[None]:
        with self._timed(moment.messages[0].topic, moment.consumer):
            yield

    @contextmanager
    def _timed(self, topic: str, consumer: str) -> Iterator[None]:
        start = self._clock.monotonic()
        try:
            yield
        finally:
            self._duration.record(self._clock.monotonic() - start, self._labels.of(topic=topic, consumer=consumer))

    @on(Handled)
    def handled(self, moment: Handled) -> None:
        self._handled.add(1, self._labels.of(topic=moment.message.topic, consumer=moment.consumer))

    @on(DuplicatePrevented)
    def duplicate_prevented(self, moment: DuplicatePrevented) -> None:
        self._duplicates.add(1, self._labels.of(topic=moment.message.topic, consumer=moment.consumer))

    @on(HandlerFailed)
    def handler_failed(self, moment: HandlerFailed) -> None:
        error = type(moment.error).__name__
        self._retries.add(1, self._labels.of(topic=moment.message.topic, consumer=moment.consumer, error=error))

    @on(Dead)
    def dead(self, moment: Dead) -> None:
        consumer = {} if moment.consumer is None else {"consumer": moment.consumer}
        self._dead.add(1, self._labels.of(topic=moment.message.topic, **consumer))

    @on(StepRuns)
    @contextmanager
    def step_runs(self, moment: StepRuns) -> Iterator[None]:
        start = self._clock.monotonic()
        try:
            yield
        finally:
            labels = self._labels.of(saga=moment.type, step=moment.step)
            self._step_duration.record(self._clock.monotonic() - start, labels)

    @on(StepRaised)
    def step_raised(self, moment: StepRaised) -> None:
        error = type(moment.error).__name__
        self._step_failures.add(1, self._labels.of(saga=moment.type, step=moment.step, error=error))

    @on(SagaEnded)
    def saga_ended(self, moment: SagaEnded) -> None:
        self._sagas_ended.add(1, self._labels.of(saga=moment.type, status=moment.status))

    @on(SagaNeedsAttention)
    def saga_needs_attention(self, moment: SagaNeedsAttention) -> None:
        self._sagas_flagged.add(1, self._labels.of(saga=moment.type))

    @on(BranchRuns)
    @contextmanager
    def branch_runs(self, moment: BranchRuns) -> Iterator[None]:
        start = self._clock.monotonic()
        try:
            yield
        finally:
            labels = self._labels.of(participant=moment.participant, operation=moment.operation)
            self._branch_duration.record(self._clock.monotonic() - start, labels)

    @on(BranchRaised)
    def branch_raised(self, moment: BranchRaised) -> None:
        error = type(moment.error).__name__
        labels = self._labels.of(participant=moment.participant, operation=moment.operation, error=error)
        self._branch_failures.add(1, labels)

    @on(TccEnded)
    def tcc_ended(self, moment: TccEnded) -> None:
        self._tcc_ended.add(1, self._labels.of(status=moment.status))

    @on(TccNeedsAttention)
    def tcc_needs_attention(self, moment: TccNeedsAttention) -> None:
        self._tcc_flagged.add(1, self._labels.of(participant=moment.participant))

    @on(Ownership)
    def ownership(self, moment: Ownership) -> None:
        self._buckets[moment.scope] = moment.buckets

    @on(DepthsSeen)
    def depths_seen(self, moment: DepthsSeen) -> None:
        self._depths = moment.depths

    @on(QueuesSeen)
    def queues_seen(self, moment: QueuesSeen) -> None:
        self._queues = moment.depths or ()

    @on(CircuitOpened)
    def circuit_opened(self, moment: CircuitOpened) -> None:
        self._opened.add(1, self._labels.of(breaker=moment.breaker))
        self._breakers[self._labels.of(breaker=moment.breaker)["breaker"]] = True

    @on(CircuitClosed)
    def circuit_closed(self, moment: CircuitClosed) -> None:
        self._breakers[self._labels.of(breaker=moment.breaker)["breaker"]] = False

    @on(CallRefused)
    def call_refused(self, moment: CallRefused) -> None:
        self._refused.add(1, self._labels.of(guard=moment.breaker, reason="open"))

    @on(BulkheadWasFull)
    def bulkhead_was_full(self, moment: BulkheadWasFull) -> None:
        self._refused.add(1, self._labels.of(guard=moment.bulkhead, reason="full"))

    @on(Limited)
    def limited(self, moment: Limited) -> None:
        self._refused.add(1, self._labels.of(guard=moment.limit, reason="limited"))

    @on(CacheHit)
    def cache_hit(self, moment: CacheHit) -> None:
        self._cached.add(1, self._labels.of(cache=moment.cache, result="hit"))

    @on(CacheMissed)
    def cache_missed(self, moment: CacheMissed) -> None:
        self._cached.add(1, self._labels.of(cache=moment.cache, result="miss"))

    @on(LoadShared)
    def load_shared(self, moment: LoadShared) -> None:
        self._cached.add(1, self._labels.of(cache=moment.cache, result="shared"))

    def _breakers_open(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(int(is_open), self._labels.of(breaker=name)) for name, is_open in self._breakers.items()]

    def _teller(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def tell(_: CallbackOptions) -> Iterable[Observation]:
            if self._depths is None:
                return []
            return [Observation(_number(getattr(self._depths, name)), self._labels.of())]

        return tell

    def _queue_teller(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def tell(_: CallbackOptions) -> Iterable[Observation]:
            told: dict[str, list[float]] = {}
            for depth in self._queues:
                value = getattr(depth, name)
                if value is not None:
                    told.setdefault(depth.topic, []).append(_number(value))
            whole = max if name == "oldest" else sum
            return [Observation(whole(numbers), self._labels.of(topic=topic)) for topic, numbers in told.items()]

        return tell

    def _topics_postponed(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(1, self._labels.of(topic=topic)) for topic in sorted(self._postponed)]

    def _owned(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(number, self._labels.of(scope=scope)) for scope, number in list(self._buckets.items())]


def _number(value: timedelta | int) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else value


class _Labels:
    """Lets a bounded number of values through for each label."""

    def __init__(self, most: int, common: Mapping[str, str]) -> None:
        self._most = most
        self._common = common
        self._known: dict[str, dict[str, str]] = {}

    def of(self, **labels: str) -> dict[str, str]:
        return {**self._common, **{name: self._bounded(name, value) for name, value in labels.items()}}

    def _bounded(self, name: str, value: str) -> str:
        known = self._known.setdefault(name, {})
        found = known.get(value)
        if found is None:
            if len(known) >= self._most:
                return OTHER
            found = known[value] = one_line(value)
        return found
