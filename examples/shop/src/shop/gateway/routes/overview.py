"""The API at a glance, from its own description; `/docs` shows the same for trying it out."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from shop.gateway.context import Ctx, Who
from shop.gateway.pages import show

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    summary: str
    tag: str


@router.get("/api/v1")
async def api_page(context: Ctx, visitor: Who, request: Request) -> HTMLResponse:
    """List what the API can do."""
    operations = [
        Operation(method.upper(), path, described["description"].partition("\n")[0], described["tags"][0])
        for path, methods in request.app.openapi()["paths"].items()
        for method, described in methods.items()
    ]
    return await show(context, visitor, "api.html", operations=operations)


@router.get("/docs")
async def try_page(context: Ctx) -> HTMLResponse:
    """Let the API be tried, with files of this shop alone: it works without a network."""
    return HTMLResponse(context.templates.get_template("docs.html").render())
