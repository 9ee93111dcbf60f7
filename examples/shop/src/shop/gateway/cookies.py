"""The cookies of the shop: no script reads them, and no other site's form sends them."""

from __future__ import annotations

from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import HTTPConnection

VISITOR = "shop_visitor"
A_YEAR = 365 * 24 * 3600


def cookie(request: HTTPConnection, name: str, value: str, seconds: int) -> str:
    """Write a ``Set-Cookie`` header."""
    secure = "; Secure" if request.url.scheme == "https" else ""
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


def gone(request: HTTPConnection, name: str) -> str:
    """Write the header that makes a browser forget a cookie."""
    return cookie(request, name, "", 0)


@dataclass(frozen=True, slots=True)
class Visit:
    """A visitor, and the account that has taken over their cart, if one has."""

    id: str
    taken_by: str | None


class VisitorCookie:
    """Reads and writes the signed cookie that a visitor is known by."""

    def __init__(self, secret: str) -> None:
        self._signed = URLSafeSerializer(secret, salt="visitor")

    def read(self, request: HTTPConnection) -> Visit | None:
        """Give whom a request's cookie names; None without one that is ours."""
        try:
            said = self._signed.loads(request.cookies.get(VISITOR, ""))
        except BadSignature:
            return None
        return Visit(*said) if isinstance(said, list) else Visit(str(said), None)

    def write(self, request: HTTPConnection, visitor_id: str, taken_by: str | None = None) -> str:
        """Write the header that sets it."""
        said = visitor_id if taken_by is None else [visitor_id, taken_by]
        return cookie(request, VISITOR, str(self._signed.dumps(said)), A_YEAR)
