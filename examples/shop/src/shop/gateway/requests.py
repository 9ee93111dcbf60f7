"""Each request in the log, by the id that its answer carries."""

from __future__ import annotations

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from txpatterns.correlation import CORRELATION_ID, current_lineage

logger = structlog.stdlib.get_logger("shop.requests")
QUIET = ("/static/", "/health", "/live", "/ready", "/metrics")


class Requests:
    """Middleware that binds the request's id to every line that is written for it, and writes one when it is answered.

    Neither the query nor a header is written: they may be anybody's. It stands inside of what gives the id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(QUIET):
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with bound_contextvars(request_id=current_lineage().get(CORRELATION_ID, "")):
            try:
                await self.app(scope, receive, seen)
            finally:
                took = round(time.perf_counter() - begun, 4)
                if structlog.is_configured():
                    logger.info("request", method=scope["method"], path=scope["path"], status=status, seconds=took)
