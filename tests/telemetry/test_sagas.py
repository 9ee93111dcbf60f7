"""What telemetry tells of sagas: spans in the trace of whoever has started them, figures, and lines in the log."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from txpatterns import App, RetryLadder
from txpatterns.errors import SagaFailed
from txpatterns.sagas import Call, SagaContext, StepTransaction
from txpatterns.telemetry.metrics import MetricsHooks
from txpatterns.telemetry.tracing import TracingHooks

QUICK = RetryLadder((timedelta(milliseconds=1),), jitter=0)


async def reserve(tx: StepTransaction) -> None: ...


async def release(tx: StepTransaction) -> None: ...


async def charge(call: Call) -> None:
    raise ConnectionError("no route")


async def checkout(saga: SagaContext) -> None:
    await saga.step(reserve, compensate=release)
    await saga.call(charge)


async def ran(app: App) -> None:
    app.saga(retry=QUICK)(checkout)
    async with app.running():
        async with app.transaction() as session:
            handle = app.sagas.start(session, checkout, id="cart-7")
        with pytest.raises(SagaFailed):
            await handle.result(timeout=timedelta(seconds=30))


async def test_steps_are_spans_in_the_trace_of_the_start(tmp_path) -> None:
    """P7: also calls, failed attempts and what is undone; by names, and not by values."""
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/shop.db", "memory://", hooks=[TracingHooks(provider)])
    with trace.get_tracer("test", tracer_provider=provider).start_as_current_span("request") as request:
        await ran(app)
    found = [span for span in spans.get_finished_spans() if "shop.checkout" in span.name]
    assert [(span.name, span.attributes["txpatterns.attempt"]) for span in found] == [
        ("step shop.checkout reserve", 1),
        ("step shop.checkout charge", 1),
        ("step shop.checkout charge", 2),
        ("undo shop.checkout reserve", 1),
    ]
    assert {span.context.trace_id for span in found} == {request.get_span_context().trace_id}
    assert [span.status.is_ok for span in found] == [True, False, False, True]
    assert found[1].attributes["error.type"] == "ConnectionError"


async def test_what_happens_to_sagas_is_counted(tmp_path) -> None:
    """P7: by saga, step and status; no label holds an id."""
    reader = InMemoryMetricReader()
    hooks = [MetricsHooks(MeterProvider([reader]))]
    await ran(App("shop", f"sqlite+aiosqlite:///{tmp_path}/shop.db", "memory://", hooks=hooks))
    metrics = [m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics]
    told = {m.name: {tuple(p.attributes.items()): p for p in m.data.data_points} for m in metrics if "saga" in m.name}
    (ended,) = told["txpatterns.sagas.ended"].items()
    assert (dict(ended[0]), ended[1].value) == ({"saga": "shop.checkout", "status": "compensated"}, 1)
    (failed,) = told["txpatterns.saga.step.failures"].values()
    assert failed.value == 2
    assert {dict(labels)["step"] for labels in told["txpatterns.saga.step.duration"]} == {"reserve", "charge"}


async def test_what_goes_wrong_is_in_the_log(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    """P7: with the line of the user's code, where no listener writes log lines."""
    with caplog.at_level(logging.WARNING, logger="txpatterns"):
        await ran(App("shop", f"sqlite+aiosqlite:///{tmp_path}/shop.db", "memory://"))
    lines = [record.getMessage() for record in caplog.records if "charge" in record.getMessage()]
    assert len(lines) == 2
    assert "test_sagas.py" in lines[0]
    assert "shop.checkout: charge failed for cart-7 in attempt 1: ConnectionError: no route" in lines[0]
