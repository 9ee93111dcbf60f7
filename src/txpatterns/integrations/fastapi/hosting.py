"""An App inside a FastAPI application: its lifespan, a session and a correlation id for each request, health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Unpack

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from txpatterns.app import App
from txpatterns.correlation import correlated
from txpatterns.database.dialects import may_pass
from txpatterns.integrations.fastapi.course import note_session
from txpatterns.parts import PartChoice
from txpatterns.settings import duration_text

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]

_ANSWER_WITHIN = timedelta(seconds=2)


def txpatterns_lifespan(app: App, *, inner: Lifespan | None = None, **parts: Unpack[PartChoice]) -> Lifespan:
    """Make the ``lifespan=`` of a FastAPI application that runs an App: ``FastAPI(lifespan=txpatterns_lifespan(app))``.

    ``inner`` is your own lifespan: it starts after the App and ends before it, so it may use it. With
    ``relay=False, consume=False`` nothing runs in the background here: messages are stored, and others send them.

    The application does not start when the tables are missing, and stops within ``settings.stop_within``.
    """

    @asynccontextmanager
    async def lifespan(host: FastAPI) -> AsyncIterator[Any]:
        async with app.running(**parts):
            if inner is None:
                yield
                return
            async with inner(host) as state:
                yield state

    return lifespan


def session_dependency(app: App) -> Callable[[HTTPConnection], AsyncIterator[AsyncSession]]:
    """Make a dependency that gives each request a session in a transaction.

    ``Depends(session_dependency(app), scope="function")``: it commits when the path operation has returned, and rolls
    back when it raised. Without that scope FastAPI sends the answer before the commit, which may still fail.

    The session ends with that: a background task or the body of a streaming answer, which run later, open one of
    their own. Using this one there raises SQLAlchemy's ``InvalidRequestError``, because nobody would commit.
    """

    async def session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
        async with app.transaction() as opened:
            note_session(connection.scope, opened)
            yield opened

    return session


def sync_session_dependency(app: App) -> Callable[[HTTPConnection], Iterator[Session]]:
    """Do what ``session_dependency`` does, with a plain ``Session``, for path operations that are a ``def``."""

    def session(connection: HTTPConnection) -> Iterator[Session]:
        with app.sync_transaction() as opened:
            note_session(connection.scope, opened)
            yield opened

    return session


class CorrelationMiddleware:
    """Joins a request with all that follows from it: ``web.add_middleware(CorrelationMiddleware)``.

    Every message that is added while a request is answered, and every message that handlers add because of it, carries
    the request's id: the one in its ``header``, otherwise a new one. The answer has it in the same header. An id from
    outside is cut to 128 characters of printable ASCII; it names a story and proves nothing.
    """

    def __init__(self, app: ASGIApp, header: str = "x-request-id") -> None:
        self._app = app
        self._header = header.lower().encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request inside ``correlated``."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == self._header), b"")
        with correlated(given.decode("latin-1")) as correlation_id:

            async def named(message: ASGIMessage) -> None:
                if message["type"] == "http.response.start":
                    headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != self._header]
                    message["headers"] = [*headers, (self._header, correlation_id.encode("ascii"))]
                await send(message)

            await self._app(scope, receive, named)


def health_router(app: App, *, prefix: str = "/health") -> APIRouter:
    """Make ``GET {prefix}/live`` and ``GET {prefix}/ready`` for an orchestrator's probes: 200, or 503 and why.

    Live: every background part runs or is being restarted; asks nobody. Ready: they also make progress, and the
    database answers within two seconds. A broker that is away changes neither: messages are kept until it is back. Nor
    does a topic that takes no messages now; it is named.
    """
    router = APIRouter(prefix=prefix, tags=["health"])

    @router.get("/live")
    async def live() -> JSONResponse:
        health = app.health()
        return _answer(app, health.alive)

    @router.get("/ready")
    async def ready() -> JSONResponse:
        database = await _answers(app)
        return _answer(app, app.health().ready and database, database=database)

    return router


async def _answers(app: App) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_WITHIN.total_seconds()):
            await app.database.read(lambda connection: connection.scalar(sa.select(1)))
    except Exception as error:
        if not may_pass(error):
            raise
        return False
    return True


def _answer(app: App, good: bool, **more: bool) -> JSONResponse:
    parts = [{**asdict(part), "quiet_for": duration_text(part.quiet_for)} for part in app.health().parts]
    # The error's text may hold what a probe must not show.
    shown = [{name: value for name, value in part.items() if name != "error"} for part in parts]
    told = {"ok": good, **more, "parts": shown, "postponed_topics": sorted(app.health().postponed)}
    return JSONResponse(told, status_code=200 if good else 503)
