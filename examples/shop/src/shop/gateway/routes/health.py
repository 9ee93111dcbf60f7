"""Is the process there, and can it work."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from shop.gateway.context import Ctx
from shop.health import check

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health")
@router.get("/live", include_in_schema=False)
async def health() -> Health:
    """Say that the process is there."""
    return Health()


@router.get("/metrics", include_in_schema=False)
async def figures(context: Ctx) -> Response:
    """Show this process's figures, as Prometheus reads them."""
    return context.telemetry.page()


@router.get("/ready", include_in_schema=False)
async def ready(context: Ctx) -> Health:
    """Say that the database answers; 503 when it does not."""
    await check(context.app)
    return Health()
