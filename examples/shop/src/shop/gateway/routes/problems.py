"""The page of each kind of problem, where its ``type`` leads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.responses import Response

from shop.gateway.context import Ctx
from shop.problems import KINDS, Kind, Problem

router = APIRouter(prefix="/api/v1/problems", include_in_schema=False)


@router.get("")
async def list_problems(context: Ctx, request: Request) -> Response:
    """List what can go wrong."""
    return _answer(context, request, list(KINDS.values()))


@router.get("/{slug}")
async def get_problem(context: Ctx, request: Request, slug: str) -> Response:
    """Explain one kind of problem."""
    if slug not in KINDS:
        raise Problem("not-found", f"There is no problem called {slug}.")
    return _answer(context, request, [KINDS[slug]])


def _answer(context: Ctx, request: Request, kinds: list[Kind]) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        page = context.templates.get_template("problems.html")
        return HTMLResponse(page.render(kinds=kinds, here="", cart_count=0, words=None))
    rows: list[dict[str, Any]] = [
        {"type": kind.type, "status": kind.status, "title": kind.title, "help": kind.help} for kind in kinds
    ]
    return JSONResponse(rows)
