"""Is the process there, and can it work."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from shop.gateway.context import Ctx
from shop.problems import Problem

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health")
@router.get("/live", include_in_schema=False)
async def health() -> Health:
    """Say that the process is there."""
    return Health()


@router.get("/ready", include_in_schema=False)
async def ready(context: Ctx) -> Health:
    """Say that the database answers; 503 when it does not."""
    try:
        async with context.app.session() as session:
            await session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        raise Problem("unavailable", "The database does not answer.") from error
    return Health()
