"""What telemetry tells of TCC: spans in the trace of whoever runs a transaction, figures, and lines in the log."""

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

from txpatterns import App, AppSettings, RetryLadder
from txpatterns.tcc import BranchTransaction, TccSettings
from txpatterns.telemetry.metrics import MetricsHooks
from txpatterns.telemetry.tracing import TracingHooks

QUICK = AppSettings(tcc=TccSettings(ladder=RetryLadder((timedelta(milliseconds=1),), jitter=0)))


async def ran(tmp_path, *hooks) -> None:
    """Confirm at the third attempt: a person was told before."""
    app = App("shop", f"sqlite+aiosqlite:///{tmp_path}/shop.db", "memory://", settings=QUICK, hooks=hooks)
    failures = [ConnectionError("no route")] * 2

    @app.tcc.participant("till")
    async def till(tx: BranchTransaction) -> None: ...

    @till.confirm
    async def charge(tx: BranchTransaction) -> None:
        if failures:
            raise failures.pop()

    @till.cancel
    async def refund(tx: BranchTransaction) -> None: ...

    async with app.running():
        async with app.tcc.transaction("cart-7") as tcc:
            await tcc.try_(till)
        while await app.tcc.status("cart-7") != "confirmed":
            await app.drained()


async def test_branches_are_spans_in_the_trace_of_the_transaction(tmp_path) -> None:
    """P7: also of those that are confirmed later, in the background."""
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with trace.get_tracer("test", tracer_provider=provider).start_as_current_span("request") as request:
        await ran(tmp_path, TracingHooks(provider))
    found = [span for span in spans.get_finished_spans() if span.name.endswith(" till")]
    assert [(span.name, span.attributes["txpatterns.attempt"], span.status.is_ok) for span in found] == [
        ("try till", 1, True),
        ("confirm till", 1, False),
        ("confirm till", 2, False),
        ("confirm till", 3, True),
    ]
    assert {span.context.trace_id for span in found} == {request.get_span_context().trace_id}


async def test_what_happens_to_transactions_is_counted(tmp_path) -> None:
    """P7: by participant, operation and status; no label holds an id."""
    reader = InMemoryMetricReader()
    await ran(tmp_path, MetricsHooks(MeterProvider([reader])))
    metrics = [m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics]
    told = {m.name: {tuple(p.attributes.items()): p for p in m.data.data_points} for m in metrics if ".tcc." in m.name}
    (ended,) = told["txpatterns.tcc.ended"].items()
    assert (dict(ended[0]), ended[1].value) == ({"status": "confirmed"}, 1)
    (failed,) = told["txpatterns.tcc.branch.failures"].values()
    assert failed.value == 2
    assert {dict(labels)["operation"] for labels in told["txpatterns.tcc.branch.duration"]} == {"try", "confirm"}
    (flagged,) = told["txpatterns.tcc.flagged"].values()
    assert flagged.value == 1


async def test_what_goes_wrong_is_in_the_log(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    """P7: with the line of the user's code, where no listener writes log lines."""
    with caplog.at_level(logging.WARNING, logger="txpatterns"):
        await ran(tmp_path)
    lines = [record.getMessage() for record in caplog.records if "till" in record.getMessage()]
    assert len(lines) == 3
    assert "test_tcc.py" in lines[0]
    assert "till (confirm) failed for TCC cart-7 in attempt 1: ConnectionError: no route" in lines[0]
    assert "TCC cart-7 needs a person: till has failed 2 times to confirm" in lines[2]
