"""Which version of their cart a visitor has made themselves: a cookie carries it to whichever gateway they ask next."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "shop_cart"
A_DAY = 24 * 3600
LONGEST = 15
"""Digits of a version: no cart has been changed as often."""
TAIL = 12
"""Characters of the visitor's id, for the version of one cart says nothing of another one."""


@dataclass(slots=True)
class _Seen:
    cookie: str
    is_new: bool = False


_seen: ContextVar[_Seen | None] = ContextVar("shop_cart_seen", default=None)


def seen_version(visitor_id: str) -> int:
    """Give the version of the cart that the one who asks has seen; 0 where nobody knows of any.

    Nobody checks it: whoever makes one up is shown no other cart, only theirs anew each time.
    """
    seen = _seen.get()
    version, _, whose = seen.cookie.partition(".") if seen else ("", "", "")
    known = version.isascii() and version.isdecimal() and len(version) <= LONGEST and whose == visitor_id[-TAIL:]
    return int(version) if known else 0


def has_made(visitor_id: str, version: int) -> None:
    """Know that the one who asks has made this version; the answer carries that."""
    seen = _seen.get()
    if seen is not None:
        seen.cookie, seen.is_new = f"{max(version, seen_version(visitor_id))}.{visitor_id[-TAIL:]}", True


class Seen:
    """Middleware that reads the cookie, and sets it where the cart was changed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _Seen(HTTPConnection(scope).cookies.get(COOKIE, ""))

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and seen.is_new:
                value = f"{COOKIE}={seen.cookie}; Path=/; Max-Age={A_DAY}; HttpOnly; SameSite=Lax"
                MutableHeaders(scope=message).append("set-cookie", value)
            await send(message)

        token = _seen.set(seen)
        try:
            await self.app(scope, receive, told)
        finally:
            _seen.reset(token)
