"""Traces, metrics and log lines, as listeners of the hooks. Each module loads its own library, and only when used:

* ``txpatterns.telemetry.tracing``: ``TracingHooks``, on the OpenTelemetry API
* ``txpatterns.telemetry.metrics``: ``MetricsHooks``, on the OpenTelemetry API
* ``txpatterns.telemetry.logs``: ``LoggingHooks``, on structlog
* ``txpatterns.telemetry.logging_setup``: ``configure_logging``, for processes without a set-up of their own
"""
