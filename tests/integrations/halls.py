"""What the tests of keyed answers share: an application that books seats, for two users, on any database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import httpx
import sqlalchemy as sa
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Response
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from rig.ports import free_port
from txpatterns import App, Database
from txpatterns.database.setup import create_missing
from txpatterns.integrations.fastapi import (
    answer_with_problems,
    keyed_route,
    session_dependency,
    sync_session_dependency,
    txpatterns_lifespan,
)
from txpatterns.integrations.idempotency import IdempotencyKeys


def user(authorization: Annotated[str | None, Header()] = None) -> str | None:
    """Who asks; in these tests everybody says it by name."""
    if authorization == "stranger":
        raise HTTPException(401)
    return authorization


class Hall:
    """An application with one table, and three ways to book a seat in it."""

    def __init__(self, database: Database | str | sa.Engine, **options: Any) -> None:
        metadata = sa.MetaData()
        self.seats = sa.Table(
            "seat", metadata, sa.Column("number", sa.Integer, primary_key=True), sa.Column("who", sa.String(20))
        )
        self.app = App("hall", database, "memory://", metadata=metadata)
        self.keys = IdempotencyKeys(self.app, **options)
        self.web = FastAPI(lifespan=txpatterns_lifespan(self.app, relay=False, consume=False))
        self.routes = APIRouter(prefix="/seats", route_class=keyed_route(self.keys, principal=user))
        self.meanwhile: Callable[[], Any] | None = None
        """What a path operation awaits between its effect and its end."""
        self.begun = 0
        self._add_routes()

    def book(self, session: Session, who: str) -> int:
        """The effect: one more seat is taken. Says how many are."""
        self.begun += 1
        session.execute(sa.insert(self.seats).values(who=who))
        return session.scalar(sa.select(sa.func.count()).select_from(self.seats)) or 0

    def _add_routes(self) -> None:
        opened = Depends(session_dependency(self.app), scope="function")
        late = Depends(session_dependency(self.app))
        plain = Depends(sync_session_dependency(self.app), scope="function")

        async def book(session: AsyncSession, response: Response, status: int, raises: bool) -> dict[str, int]:
            taken = await session.run_sync(self.book, "async")
            if self.meanwhile is not None:
                await self.meanwhile()
            if raises:
                raise HTTPException(status)
            response.status_code = status
            response.headers["location"] = f"/seats/{taken}"
            response.headers["set-cookie"] = "mine"
            return {"taken": taken}

        @self.routes.post("/async")
        async def in_a_coroutine(
            response: Response, session: AsyncSession = opened, status: int = 201, raises: bool = False
        ) -> dict[str, int]:
            return await book(session, response, status, raises)

        @self.routes.patch("/late")
        async def with_a_late_commit(
            response: Response, session: AsyncSession = late, status: int = 201, raises: bool = False
        ) -> dict[str, int]:
            return await book(session, response, status, raises)

        @self.routes.post("/plain", status_code=201)
        def in_a_thread(
            response: Response, session: Session = plain, status: int = 201, raises: bool = False
        ) -> dict[str, int]:
            taken = self.book(session, "plain")
            if raises:
                raise HTTPException(status)
            response.status_code = status
            response.headers["location"] = f"/seats/{taken}"
            return {"taken": taken}

        @self.routes.post("/elsewhere")
        async def elsewhere(response: Response, status: int = 201, raises: bool = False) -> dict[str, int]:
            """The effect is in a transaction that the route knows nothing of."""
            async with self.app.transaction() as session:
                taken = await session.run_sync(self.book, "elsewhere")
            if raises:
                raise HTTPException(status)
            response.status_code = status
            response.headers["location"] = f"/seats/{taken}"
            return {"taken": taken}

    async def prepare(self) -> None:
        await self.app.database.transact(partial(create_missing, target=self.app.metadata))

    async def taken(self) -> int:
        count = sa.select(sa.func.count()).select_from(self.seats)
        return await self.app.database.read(lambda connection: connection.scalar(count) or 0)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        """Serve without a network."""
        self._finish()
        await self.prepare()
        async with self.web.router.lifespan_context(self.web):
            transport = httpx.ASGITransport(self.web, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://hall") as client:
                yield client

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[httpx.AsyncClient]:
        """Serve on a real socket."""
        self._finish()
        await self.prepare()
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(self.web, port=port, log_level="warning", lifespan="on"))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve())
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while not server.started:
                if task.done():
                    task.result()
                await asyncio.sleep(0)
            yield client
        server.should_exit = True
        await task

    def _finish(self) -> None:
        self.web.include_router(self.routes)
        answer_with_problems(self.web)


async def ask(
    client: httpx.AsyncClient, path: str = "async", key: str | None = "k", who: str = "alice", **given: Any
) -> httpx.Response:
    """Book a seat; the way decides the method."""
    headers = {"authorization": who} if key is None else {"authorization": who, "idempotency-key": key}
    method = "PATCH" if path.startswith("late") else "POST"
    return await client.request(method, f"/seats/{path}", headers=headers, **given)


def is_replay(answer: httpx.Response) -> bool:
    return "idempotent-replayed" in answer.headers
