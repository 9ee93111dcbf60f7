"""Which of the other services answer, as this process knows it."""

from __future__ import annotations

import math

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from shop.gateway.context import Context, Ctx, Who
from shop.gateway.pages import show
from txpatterns.resilience import State

router = APIRouter()


class Backend(BaseModel):
    """Who is asked, whether calls are made, and in how many seconds the next one is, where they are not."""

    name: str
    state: State
    retry_after: int


@router.get("/api/v1/backends", tags=["health"])
async def list_backends(context: Ctx) -> list[Backend]:
    """Say which of the services behind this gateway are asked at this moment."""
    return backends_of(context)


@router.get("/backends", include_in_schema=False)
async def backends_page(context: Ctx, visitor: Who) -> HTMLResponse:
    """Show the same to people."""
    return await show(context, visitor, "backends.html", backends=backends_of(context))


def backends_of(context: Context) -> list[Backend]:
    """Give the state of each breaker of this process."""
    return [
        Backend(name=name, state=breaker.state, retry_after=math.ceil(breaker.retry_in.total_seconds()))
        for name, breaker in sorted(context.breakers.all.items())
    ]
