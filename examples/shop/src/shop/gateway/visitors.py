"""Who is asking: an anonymous visitor, known by a signed cookie; and whether a form came from our own page."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.problems import Problem
from txpatterns import new_id

COOKIE = "shop_visitor"
A_YEAR = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Visitor:
    id: str
    form_token: str
    is_new: bool = False
    """Whether this request brought no id of ours."""

    def check_form(self, token: str) -> None:
        """Refuse a form that our page did not make for this visitor. Raises Problem ``forbidden``."""
        if not hmac.compare_digest(token, self.form_token):
            raise Problem("forbidden", "This form was not made for you, or it is out of date.")


class Visitors:
    """Middleware that gives every visitor an id of their own and puts it into ``request.state.visitor``."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self._cookie = URLSafeSerializer(secret, salt="visitor")
        self._form = URLSafeSerializer(secret, salt="form")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        known = self._known(HTTPConnection(scope).cookies.get(COOKIE))
        visitor_id = known or new_id()
        token = str(self._form.dumps(visitor_id)).rpartition(".")[2]
        scope.setdefault("state", {})["visitor"] = Visitor(visitor_id, token, known is None)

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and known is None:
                value = f"{COOKIE}={self._cookie.dumps(visitor_id)}; Path=/; Max-Age={A_YEAR}; HttpOnly; SameSite=Lax"
                MutableHeaders(scope=message).append("set-cookie", value)
            await send(message)

        await self.app(scope, receive, send_with_cookie)

    def _known(self, cookie: str | None) -> str | None:
        if cookie is None:
            return None
        try:
            return str(self._cookie.loads(cookie))
        except BadSignature:
            return None


def visitor_of(request: HTTPConnection) -> Visitor:
    """Give the visitor of a request."""
    found: Visitor = request.state.visitor
    return found
