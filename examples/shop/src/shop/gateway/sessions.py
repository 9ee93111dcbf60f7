"""Who is signed in: by a bearer token in a program, by two cookies in a browser, prolonged while somebody is there.

Signing in is one thing, and the cart another: it is taken over at the first request of somebody signed in whose
visitor cookie does not say yet that it was. So it happens also where the cart could not be reached at that moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.gateway.cookies import VisitorCookie, cookie, gone
from shop.ports import Carts, Login, Users
from shop.problems import Problem
from shop.tokens import AccessTokens, SignedIn

logger = logging.getLogger("shop.gateway")

ACCESS, REFRESH = "shop_access", "shop_refresh"
OPEN = ("/static/", "/webhooks/", "/health", "/live", "/ready", "/metrics")
"""Where nobody asks who somebody is."""
SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Behind:
    """What sessions are read and prolonged with."""

    tokens: AccessTokens
    users: Users
    carts: Carts
    visitors: VisitorCookie


class Sessions:
    """Middleware that puts who is signed in, or None, into ``request.state.signed_in``.

    A token that is not valid is refused, and not taken for nobody's. While the users' service is away, somebody whose
    session would have to be prolonged is told so, and stays signed in.

    Args:
        app: The application.
        behind: What sessions are read and prolonged with.
        refuse: Makes the answer to a problem.
    """

    def __init__(self, app: ASGIApp, behind: Behind, refuse: Callable[[Request, Problem], Response]) -> None:
        self.app = app
        self._behind = behind
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OPEN):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        told: list[str] = []
        try:
            who = await self._who(request, told)
            scope.setdefault("state", {})["signed_in"] = who
            await self._take_over(request, who, told)
        except Problem as problem:
            await self._refuse(request, problem)(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # What the route itself says about a cookie, as at signing out, goes last and is what counts.
                own = headers.getlist("set-cookie")
                del headers["set-cookie"]
                for value in [*told, *own]:
                    headers.append("set-cookie", value)
            await send(message)

        await self.app(scope, receive, sent)

    async def _who(self, request: Request, told: list[str]) -> SignedIn | None:
        bearer = _bearer(request)
        if bearer is not None:
            return self._behind.tokens.read(bearer)
        access, refresh = request.cookies.get(ACCESS), request.cookies.get(REFRESH)
        if refresh is None:
            return None
        _check_origin(request)
        if access:
            try:
                return self._behind.tokens.read(access)
            except Problem:
                logger.debug("an access cookie has run out; its session is prolonged")
        try:
            login = await self._behind.users.refresh(refresh)
        except Problem as problem:
            if problem.kind.slug != "session-ended":
                raise
            told += signed_out(request)
            return None
        told += signed_in(request, login)
        return self._behind.tokens.read(login.access_token)

    async def _take_over(self, request: Request, who: SignedIn | None, told: list[str]) -> None:
        """Put the visitor's cart into the account's, and note that it is done: as often as it takes, once."""
        visitors = self._behind.visitors
        visit = visitors.read(request)
        if visit is None:
            return
        user_id = who.user_id if who else None
        if visit.taken_by == user_id:
            return
        if user_id is not None:
            try:
                await self._behind.carts.take_over(visit.id, user_id)
            except Problem as problem:
                logger.warning("a visitor's cart waits to be taken over: %s", problem.detail)
                return
        told.append(visitors.write(request, visit.id, user_id))


def signed_in_of(request: HTTPConnection) -> SignedIn | None:
    """Give who is signed in."""
    found: SignedIn | None = getattr(request.state, "signed_in", None)
    return found


def signed_in(request: HTTPConnection, login: Login) -> list[str]:
    """Write the cookies of somebody who is signed in."""
    return [
        # The access cookie stays as long as the other one: what says how long it is good is in it.
        cookie(request, ACCESS, login.access_token, login.refresh_expires_in),
        cookie(request, REFRESH, login.refresh_token, login.refresh_expires_in),
    ]


def signed_out(request: HTTPConnection) -> list[str]:
    """Take these cookies back."""
    return [gone(request, ACCESS), gone(request, REFRESH)]


def _bearer(request: Request) -> str | None:
    given = request.headers.get("authorization")
    if given is None:
        return None
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer":
        raise Problem("unauthenticated", "Send the access token as `Authorization: Bearer ...`.")
    return token.strip()


def _check_origin(request: Request) -> None:
    """Refuse what another site's page makes a browser send: it brings the cookies along, and says where it is from."""
    origin = request.headers.get("origin")
    if request.method in SAFE or origin is None:
        return
    if urlsplit(origin).netloc != request.headers.get("host", ""):
        raise Problem("forbidden", "This was sent from another site's page.")
