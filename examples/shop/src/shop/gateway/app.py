"""The gateway's web application."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.gateway import account_pages, errors, order_pages, pages
from shop.gateway.context import Context
from shop.gateway.cookies import VisitorCookie
from shop.gateway.description import ERRORS, describe
from shop.gateway.pacing import Paced
from shop.gateway.requests import Requests
from shop.gateway.routes import auth, backends, cart, checkout, health, orders, overview, problems, products, webhooks
from shop.gateway.seen import Seen
from shop.gateway.sessions import Behind, Sessions
from shop.gateway.visitors import Visitors
from shop.limits import Limited
from txpatterns.integrations.fastapi import CorrelationMiddleware

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


SWAGGER_POLICY = POLICY.replace(
    "img-src 'self'; style-src 'self'", "img-src 'self' data:; style-src 'self' 'unsafe-inline'"
)
"""What Swagger UI needs besides: it draws with inline styles and with pictures inside them."""


class Careful:
    """Middleware that tells browsers to load and run nothing but our own files."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = SWAGGER_POLICY if scope["path"] == "/docs" else POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, careful if scope["type"] == "http" else send)


class _Told(Exception):
    """Ends an answer after its head."""


class Heads:
    """Middleware that answers HEAD wherever GET is answered: with the same head, and nothing after it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def head_only(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                raise _Told  # a stream would go on for as long as somebody listens

        with suppress(_Told):
            await self.app({**scope, "method": "GET"}, receive, head_only)


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
        responses=ERRORS,
        docs_url=None,  # ours loads nothing from elsewhere
        redoc_url=None,
    )
    describe(app)
    app.state.context = context
    for part in (overview, health, backends, products, auth, cart):
        app.include_router(part.router)
    app.include_router(checkout.routes(context.keys))
    for part in (orders, webhooks, problems, pages, order_pages, account_pages):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    errors.install(app)
    # The last one added is the first to see a request.
    app.add_middleware(Limited, refuse=errors.answer)
    app.add_middleware(Paced, pace=context.pace, refuse=errors.answer)
    cookie = VisitorCookie(secret)
    app.add_middleware(Visitors, secret=secret, cookie=cookie)
    behind = Behind(context.tokens, context.services.users, context.services.carts, cookie)
    app.add_middleware(Sessions, behind=behind, refuse=errors.answer)
    app.add_middleware(Seen)  # outside of those, for they take carts over
    app.add_middleware(Careful)
    app.add_middleware(Heads)
    app.add_middleware(Requests)
    app.add_middleware(CorrelationMiddleware)
    app.add_middleware(context.telemetry.around)
    return app
