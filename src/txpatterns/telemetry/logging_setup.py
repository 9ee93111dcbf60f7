"""One set-up of logging for processes that have none: structlog and the standard library through one chain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from io import StringIO
from typing import TextIO

from txpatterns.errors import MissingExtra
from txpatterns.messages import Message
from txpatterns.text import one_line

try:
    import structlog
    from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger
except ImportError as missing:
    raise MissingExtra("structlog is not installed.", fix="pip install 'txpatterns[telemetry]'") from missing

LONGEST_VALUE = 2000
"""Characters of one value in a line."""


def configure_logging(
    *,
    json: bool = True,
    level: int = logging.INFO,
    trace: Callable[[], Mapping[str, str]] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Write every log line of the process, structlog's and the standard library's, in one form and with its context.

    For processes without a logging set-up of their own; it replaces the root logger's handlers. One event is one
    line of JSON; with ``json=False`` a line to read, followed by the traceback of an exception. Control characters
    are escaped, tracebacks show no local variables. ``trace`` as in ``LoggingHooks``, asked anew for each line.
    ``stream`` is standard error unless given.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if trace is not None:
        shared.append(_Traced(trace))
    if json:
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared += [structlog.processors.ExceptionRenderer(tracebacks), _escape]
        last: Processor = structlog.processors.JSONRenderer()
    else:
        shared.append(_escape)
        last = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=_plain_traceback)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _Traced:
    def __init__(self, trace: Callable[[], Mapping[str, str]]) -> None:
        self._trace = trace

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event.update(self._trace())
        return event


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, Message):  # a tuple, which JSON would write out with its payload
            value = repr(value)
        if isinstance(value, str):
            event[name] = one_line(value, LONGEST_VALUE)
    return event


def _plain_traceback(stream: TextIO, error: ExcInfo) -> None:
    plain = StringIO()
    structlog.dev.plain_traceback(plain, error)
    stream.writelines("\n" + one_line(line, LONGEST_VALUE) for line in plain.getvalue().splitlines() if line)
