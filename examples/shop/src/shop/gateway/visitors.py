"""Who is asking: somebody signed in, or a visitor with a signed cookie; and whether a form came from our own page."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from itsdangerous import URLSafeSerializer
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.gateway.cookies import VisitorCookie
from shop.gateway.sessions import signed_in_of
from shop.problems import Problem
from txpatterns import new_id


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is asking. ``id`` is whose carts and orders are theirs: the account's, or the visitor's own."""

    id: str
    form_token: str
    user_id: str | None = None
    is_new: bool = False
    """Whether this request brought no id of ours: neither an account nor a visitor's cookie."""

    def check_form(self, token: str) -> None:
        """Refuse a form that our page did not make for this visitor. Raises Problem ``forbidden``."""
        if not hmac.compare_digest(token.encode(), self.form_token.encode()):
            raise Problem("forbidden", "This form was not made for you, or it is out of date.")


class Visitors:
    """Middleware that puts who is asking into ``request.state.visitor``, and gives whoever is new an id."""

    def __init__(self, app: ASGIApp, secret: str, cookie: VisitorCookie) -> None:
        self.app = app
        self._cookie = cookie
        self._form = URLSafeSerializer(secret, salt="form")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        who, known = signed_in_of(request), self._cookie.read(request)
        visitor_id = known.id if known else new_id()
        # Of a session of its own: a form that was made before somebody signed in, or out, is out of date.
        shown_to = visitor_id if who is None else [visitor_id, who.session_id]
        token = str(self._form.dumps(shown_to)).rpartition(".")[2]
        user_id = who.user_id if who else None
        scope.setdefault("state", {})["visitor"] = Visitor(
            user_id or visitor_id, token, user_id, is_new=who is None and known is None
        )

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and known is None:
                value = self._cookie.write(request, visitor_id, user_id)
                MutableHeaders(scope=message).append("set-cookie", value)
            await send(message)

        await self.app(scope, receive, send_with_cookie)


def visitor_of(request: HTTPConnection) -> Visitor:
    """Give the visitor of a request."""
    found: Visitor = request.state.visitor
    return found
