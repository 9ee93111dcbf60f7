"""Traces, metrics and log lines for one App: what docs/how-to/telemetry.md shows."""

# ruff: noqa: E402

# --8<-- [start:providers]
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

service = Resource.create({"service.name": "orders"})
tracer_provider = TracerProvider(resource=service)
tracer_provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(tracer_provider)
reader = PeriodicExportingMetricReader(ConsoleMetricExporter(), export_interval_millis=60_000)
meter_provider = MeterProvider([reader], resource=service)
metrics.set_meter_provider(meter_provider)
# --8<-- [end:providers]

# --8<-- [start:hooks]
from txpatterns.telemetry.logging_setup import configure_logging
from txpatterns.telemetry.logs import LoggingHooks
from txpatterns.telemetry.metrics import MetricsHooks
from txpatterns.telemetry.tracing import TracingHooks, current_trace

configure_logging(json=True, trace=current_trace)
hooks = [
    TracingHooks(system="kafka"),  # first, so that the others see its span
    MetricsHooks(app="orders"),
    LoggingHooks(trace=current_trace),
]
# --8<-- [end:hooks]

# --8<-- [start:correlation]
from txpatterns.correlation import correlated

with correlated("the X-Request-ID of the request") as correlation_id:
    ...  # every message that is added here carries it
# --8<-- [end:correlation]

# --8<-- [start:own]
from txpatterns.deadletters.moments import Dead
from txpatterns.hooks import Hooks, on


class DeadLetterPager(Hooks):
    """Calls somebody when a message is given up."""

    @on(Dead)
    def page(self, dead: Dead) -> None:
        print("dead letter", dead.message.id, dead.consumer or "not published")


# --8<-- [end:own]
