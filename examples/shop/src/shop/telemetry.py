"""What the shop tells about itself: traces, figures and log lines, all with the ids that join them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import structlog
from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.responses import Response
from starlette.types import ASGIApp

from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.hooks import Hooks
from txpatterns.telemetry.logging_setup import configure_logging
from txpatterns.telemetry.logs import LoggingHooks
from txpatterns.telemetry.metrics import MetricsHooks
from txpatterns.telemetry.tracing import TracingHooks, current_trace

UNTRACED = "/health,/live,/ready,/metrics,/static/"
"""What probes and pages ask for all the time, and nobody looks for in a trace."""


class Telemetry:
    """The traces and figures of one process.

    Traces are made in any case, so that log lines have their ids. Where they go is whoever's choice who starts the
    process: a provider that is set already, as by ``opentelemetry-instrument``, is taken.
    """

    def __init__(self, tracers: trace.TracerProvider | None = None) -> None:
        resource = Resource.create({"service.name": "shop"})
        usual = trace.get_tracer_provider()
        if tracers is None:
            tracers = usual if isinstance(usual, TracerProvider) else TracerProvider(resource=resource)
        self.tracers = tracers
        self._meters = MeterProvider([PrometheusMetricReader()], resource=resource)

    def hooks(self, service: str) -> Sequence[Hooks]:
        """Give the listeners of a service's App; log lines only where somebody has said how they are to look."""
        told: list[Hooks] = [TracingHooks(self.tracers), MetricsHooks(self._meters, app=service)]
        return [*told, LoggingHooks(trace=current_trace)] if structlog.is_configured() else told

    def around(self, app: ASGIApp) -> ASGIApp:
        """Put a span around each request, in the trace that it comes with, and count it."""
        return OpenTelemetryMiddleware(
            app,
            excluded_urls=UNTRACED,
            tracer_provider=self.tracers,
            meter_provider=self._meters,
            exclude_spans=["receive", "send"],
        )

    def page(self) -> Response:
        """Show the figures as Prometheus reads them."""
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    def close(self) -> None:
        """Tell no more figures: what the process has of them belongs to whoever comes next."""
        self._meters.shutdown()


def write_logs(service: str, *, json: bool) -> None:
    """Write the process's log: JSON with a line for each request and each message, or what goes wrong, to be read."""
    level = logging.INFO if json else logging.WARNING
    configure_logging(json=json, level=level, trace=partial(_ids, service))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if json:
        logging.getLogger("txpatterns").setLevel(logging.DEBUG)


def _ids(service: str) -> dict[str, str]:
    story = current_lineage().get(CORRELATION_ID)
    return {"service": service} | current_trace() | ({"correlation_id": story} if story else {})
