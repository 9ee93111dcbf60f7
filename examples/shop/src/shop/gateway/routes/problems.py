"""The page of each kind of problem, where its ``type`` leads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from shop.gateway.context import Context, Ctx, Who
from shop.gateway.pages import show
from shop.gateway.visitors import Visitor
from shop.problems import KINDS, Kind, Problem

router = APIRouter(prefix="/api/v1/problems", include_in_schema=False)


@router.get("")
async def list_problems(context: Ctx, visitor: Who, request: Request) -> Response:
    """List what can go wrong."""
    return await _answer(context, visitor, request, list(KINDS.values()))


@router.get("/{slug}")
async def get_problem(context: Ctx, visitor: Who, request: Request, slug: str) -> Response:
    """Explain one kind of problem."""
    if slug not in KINDS:
        raise Problem("not-found", f"There is no problem called {slug}.")
    return await _answer(context, visitor, request, [KINDS[slug]])


async def _answer(context: Context, visitor: Visitor, request: Request, kinds: list[Kind]) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return await show(context, visitor, "problems.html", kinds=kinds)
    rows: list[dict[str, Any]] = [
        {"type": kind.type, "status": kind.status, "title": kind.title, "help": kind.help} for kind in kinds
    ]
    return JSONResponse(rows)
