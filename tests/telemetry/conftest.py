"""Messages as the runtime gives them to listeners, and OpenTelemetry's own exporters in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from txpatterns.messages import Message, new_id


@pytest.fixture
def make() -> Callable[..., Message]:
    """Make a message, with what the test does not care about filled in."""

    def message(**given: Any) -> Message:
        defaults: dict[str, Any] = {"id": new_id(), "topic": "orders", "type": "order.placed", "payload": b"{}"}
        return Message(**(defaults | given))

    return message


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


class Metrics:
    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])

    def every_point(self) -> list[tuple[str, list[Any]]]:
        """The data points of one collection, with the metric's name, scope by scope."""
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return [(metric.name, list(metric.data.data_points)) for scope in scopes for metric in scope.metrics]

    def points(self) -> dict[str, list[Any]]:
        return dict(self.every_point())

    def values(self, name: str) -> dict[tuple[Any, ...], Any]:
        """What a metric counts, by its labels."""
        return {tuple(sorted(point.attributes.items())): point.value for point in self.points().get(name, [])}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    yield made
    made.provider.shutdown()
