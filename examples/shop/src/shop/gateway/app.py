"""The gateway's web application."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.gateway import errors, order_pages, pages
from shop.gateway.context import Context
from shop.gateway.routes import cart, checkout, health, orders, overview, problems, products, webhooks
from shop.gateway.visitors import Visitors

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Careful:
    """Middleware that tells browsers to load and run nothing but our own files."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start" and not scope["path"].startswith(("/docs", "/openapi")):
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, careful if scope["type"] == "http" else send)


def create_app(
    context: Context, secret: str, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]
) -> FastAPI:
    """Make the web application: ten routes of the API and a few more, and the storefront.

    Args:
        context: The services behind it.
        secret: What signs the visitors' cookies.
        lifespan: What runs from the first request's eve to the last one's end.
    """
    app = FastAPI(
        title="Commit & Co.",
        summary="A reference shop: all of it happens, or none of it does.",
        version="1",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.context = context
    for part in (overview, health, products, cart, checkout, orders, webhooks, problems, pages, order_pages):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    errors.install(app)
    app.add_middleware(Visitors, secret=secret)
    app.add_middleware(Careful)
    return app
